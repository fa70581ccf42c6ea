"""Backbones and the feature pyramid: from pixels to feature maps."""
