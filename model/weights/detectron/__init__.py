"""Weights of Detectron."""
