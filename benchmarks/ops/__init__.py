"""Benchmarks of our operators against the usual implementations: `python -m benchmarks.ops`."""
