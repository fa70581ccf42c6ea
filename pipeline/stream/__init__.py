"""Training batches from shards: plan, read, decode, augment, pad."""
