"""Weights that other projects publish, by a word: ``imagenet`` or ``coco``."""
