"""Inference for people: images, videos and cameras to drawn results, without Ray or MLflow."""
