"""From images of any size to detections."""
