"""COCO evaluation: predictions over shards, the referee's numbers, a report with pictures."""
