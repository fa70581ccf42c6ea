"""Detections as annotations, to be corrected in a labeling tool or trained on."""
