"""Annotated images become Parquet shards with a manifest; bad records are named and counted."""
