"""Boxes: geometry, coding, anchors, matching, sampling, suppression and selection."""
