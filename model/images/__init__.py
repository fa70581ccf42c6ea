"""Image files as pixels: the one decoder of training, evaluation and inference."""
