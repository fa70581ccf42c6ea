"""Where weights are stored, and in which formats."""
