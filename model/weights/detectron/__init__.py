"""Weights of Detectron, and what maskrcnn-benchmark has in common with it."""
