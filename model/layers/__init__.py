"""Layers that backbones and heads are built from."""
