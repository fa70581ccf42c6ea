"""A region proposal network alone: class-agnostic detection (Ren et al. 2015)."""

from collections.abc import Sequence

from torch import Tensor

from model.boxes.selection import (
    Candidates,
    SelectedBoxes,
    select_boxes,
    select_proposals_as_boxes,
)
from model.config import ModelConfig
from model.detector import Detector
from model.rpn.network import RegionProposalNetwork
from model.structures import BatchTargets, Category, ImageBatch, LossTerm


class ProposalNetwork(Detector):
    """Backbone and RPN. Every proposal is a detection of class 1.

    Args:
        config: all settings; ``box`` and ``retinanet`` are None.
        categories: the K classes.
    """

    def __init__(self, config: ModelConfig, categories: Sequence[Category]) -> None:
        super().__init__(config, categories)
        self.rpn = RegionProposalNetwork(
            self.channels,
            self.make_rpn_anchors(),
            config.rpn,
            config.conventions.rpn_smooth_l1_beta,
            self.box_convention,
        )

    def losses(
        self, features: Sequence[Tensor], images: ImageBatch, targets: BatchTargets
    ) -> dict[str, LossTerm]:
        """Return rpn_objectness and rpn_box."""
        _, losses = self.rpn.losses(features, images, targets)
        return losses

    def detect(self, features: Sequence[Tensor], images: ImageBatch) -> SelectedBoxes:
        """Return the proposals, which have been through NMS per level."""
        return select_proposals_as_boxes(self.rpn(features, images))

    def candidates(self, features: Sequence[Tensor], images: ImageBatch) -> Candidates:
        """Return the proposals as candidates, so that those of several views can be merged."""
        detected = self.detect(features, images)
        return Candidates(
            detected.boxes, detected.scores, detected.rois[:, 0].long(), detected.labels
        )

    def select(self, candidates: Candidates, images: ImageBatch) -> SelectedBoxes:
        """Run NMS over all levels at once, with the threshold of a single level."""
        return select_boxes(
            candidates,
            images.sizes,
            self.config.rpn.nms_iou,
            self.config.rpn.post_nms_test,
            self.box_convention,
        )
