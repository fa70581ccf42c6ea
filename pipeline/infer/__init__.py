"""Batch inference on images or shards, with one Parquet file of detections per input shard."""
