"""Look at a dataset before training on it: augmented samples, counts and distributions."""
