"""Weights of detectron2."""
