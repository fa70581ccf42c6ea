"""Evaluation on annotated shards: COCO and VOC metrics, a report, comparison images."""
