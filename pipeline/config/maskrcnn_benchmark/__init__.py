"""Convert a YAML file of maskrcnn-benchmark into a recipe."""
