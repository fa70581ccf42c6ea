"""Shards as a stream of training batches: planned, read, decoded, augmented, padded."""
