"""Weights of MMDetection."""
