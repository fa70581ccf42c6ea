"""Annotated images to Parquet shards with a manifest; invalid records are listed and counted."""
