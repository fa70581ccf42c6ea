"""Batch inference: images or shards in, one Parquet file of detections per input shard out."""
