"""Every operator of ours beside the code that people use for it: `python -m benchmarks.ops`."""
