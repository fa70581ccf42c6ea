"""One-stage detection: RetinaNet (Lin et al. 2017, "Focal loss for dense object detection")."""

from collections.abc import Sequence

from torch import Tensor

from model.boxes.selection import Candidates, SelectedBoxes, select_boxes
from model.config import ModelConfig, RetinaNetConfig
from model.detector import Detector
from model.retinanet.network import RetinaNetHead, octave_sizes
from model.structures import BatchTargets, Category, ImageBatch, LossTerm


class OneStageDetector(Detector):
    """Backbone, P3..P7 and RetinaNet's head.

    Args:
        config: all settings.
        settings: its RetinaNet settings.
        categories: the K classes.
    """

    def __init__(
        self, config: ModelConfig, settings: RetinaNetConfig, categories: Sequence[Category]
    ) -> None:
        super().__init__(config, categories, pyramid_top=settings.p6_from)
        self.settings = settings
        sizes = octave_sizes(settings, whole_pixels=config.conventions.round_anchors)
        anchors = self.make_anchors(sizes, settings.anchor_ratios)
        self.retinanet = RetinaNetHead(
            self.channels,
            config.num_classes,
            anchors,
            settings,
            self.weights_of_labels(settings.class_weights),
        )

    def losses(
        self, features: Sequence[Tensor], images: ImageBatch, targets: BatchTargets
    ) -> dict[str, LossTerm]:
        """Return retinanet_class and retinanet_box."""
        return self.retinanet.losses(features, images, targets)

    def candidates(self, features: Sequence[Tensor], images: ImageBatch) -> Candidates:
        """Return the boxes above the score threshold among the best of every level."""
        return self.retinanet.candidates(features, images)

    def select(self, candidates: Candidates, images: ImageBatch) -> SelectedBoxes:
        """Run NMS within each class."""
        return select_boxes(
            candidates,
            images.sizes,
            self.settings.nms_iou,
            self.settings.detections_per_image,
            self.box_convention,
        )
