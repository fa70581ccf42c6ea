"""The Parquet shards of a dataset: rows, files and their manifest."""
