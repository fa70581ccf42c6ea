"""The detector that weights fit, inferred from names and shapes."""
