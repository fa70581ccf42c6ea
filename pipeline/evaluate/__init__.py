"""COCO evaluation: predictions over shards, the referee's numbers, a report with pictures."""

from pipeline.evaluate.predictions import validate

__all__ = ["validate"]
