"""The architecture of a detector, inferred from the names and shapes of its weights."""
