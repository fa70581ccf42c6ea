"""Evaluation on annotated shards: COCO and VOC metrics, a report, and images for comparison."""
