"""Backbones and the feature pyramid: from pixels to feature maps."""

from model.backbones.custom import custom_backbone

__all__ = ["custom_backbone"]
