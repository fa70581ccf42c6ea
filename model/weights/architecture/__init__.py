"""Which detector a set of tensors belongs to."""
