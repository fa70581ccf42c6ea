"""Convert annotated images to Parquet shards with a manifest; list and count invalid records."""
