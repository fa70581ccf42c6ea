"""Benchmarks of our operators against the code that is used instead: `python -m benchmarks.ops`."""
