"""Convert a config file of maskrcnn-benchmark to ours."""
