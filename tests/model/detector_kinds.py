"""Settings of one detector of each kind, and its class and losses."""

from typing import NamedTuple

from model.one_stage import OneStageDetector
from model.proposal_network import ProposalNetwork
from model.two_stage import TwoStageDetector

KEYPOINT = {"names": ("left", "middle", "right"), "channels": 16, "layers": 2}
RETINANET = {"anchor_sizes": (8, 16, 32, 48, 64), "layers": 1, "score_threshold": 0.009}
RPN_LOSSES = {"rpn_objectness", "rpn_box"}
BOX_LOSSES = RPN_LOSSES | {"box_class", "box_regression"}


class Kind(NamedTuple):
    """How to build a detector, and what to expect of it."""

    settings: dict[str, object]
    detector_class: type
    losses: set[str]


KINDS = {
    "mask_and_keypoint_rcnn": Kind(
        {"keypoint": KEYPOINT}, TwoStageDetector, BOX_LOSSES | {"mask", "keypoint"}
    ),
    "faster_rcnn": Kind({"mask": None}, TwoStageDetector, BOX_LOSSES),
    "retinanet": Kind(
        {"box": None, "mask": None, "retinanet": RETINANET},
        OneStageDetector,
        {"retinanet_class", "retinanet_box"},
    ),
    "proposal_network": Kind({"box": None, "mask": None}, ProposalNetwork, RPN_LOSSES),
}
