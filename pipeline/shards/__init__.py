"""Parquet shards of a dataset: their manifest, files and rows, and how to decode them."""
