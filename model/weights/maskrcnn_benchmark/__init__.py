"""Weights of maskrcnn-benchmark."""
