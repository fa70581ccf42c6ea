"""What users of an exported detector need to know besides its inputs and outputs."""

import json

from model.detector import Detector

METADATA_KEY = "maskrcnn_ray"
"""Name of the metadata inside an exported file."""


def export_metadata(detector: Detector, resizes: bool = False) -> str:
    """Return the metadata of an exported detector as JSON.

    Args:
        detector: the detector.
        resizes: the exported file resizes images itself.

    Returns:
        An object with the keys

        - categories: ids and names of the K classes in label order, label 1 first; null for a
          proposal network, whose label 1 means an object of any class.
        - short_side, long_side, resize_rounding, resize_filter: how to resize an image before
          inference, sides in pixels; null if the file does it.
        - box_end: pixels that were added to x2 and y2 of the detector's box convention; 1 if its
          boxes end on their last pixel.
        - mask_threshold: probability above which a pixel belongs to the object; null without masks.
        - mask_paste: how to paste masks into the image, see
          :class:`model.detections.Detections`; null without masks.
        - keypoint_origin: pixels that were added to x and y of the detector's keypoint convention;
          null without keypoints.
        - keypoints: names of the P keypoints; null without keypoints.

        To scale a box or keypoint to another image size, subtract box_end or keypoint_origin
        before scaling and add it afterward.
    """
    config, conventions = detector.config, detector.config.conventions
    mask, keypoint = config.mask, config.keypoint
    mask_paste = detector.box_convention.mask_paste(conventions.mask_paste)
    return json.dumps(
        {
            "categories": None
            if config.is_proposal_network
            else [category._asdict() for category in detector.categories],
            "short_side": None if resizes else config.input.short_side,
            "long_side": None if resizes else config.input.long_side,
            "resize_rounding": None if resizes else conventions.resize_rounding,
            "resize_filter": None if resizes else conventions.resize_filter,
            "box_end": detector.box_convention.offset,
            "mask_threshold": None if mask is None else mask.threshold,
            "mask_paste": None if mask is None else mask_paste,
            "keypoint_origin": None if keypoint is None else conventions.keypoint_origin,
            "keypoints": None if keypoint is None else list(keypoint.names),
        }
    )
