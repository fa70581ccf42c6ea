"""Weights of torchvision."""
