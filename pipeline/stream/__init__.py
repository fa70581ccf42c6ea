"""Training batches from shards: planned, read, decoded, augmented and padded."""
