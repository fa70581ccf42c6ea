"""Mask R-CNN: the network, what it learns from and what it finds.

Shapes: B images, H W of the padded batch, R ROIs of the batch, M mask side.
Source: He et al. 2017, figure 1; Lin et al. 2017.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import ops_cuda
from model.anchors import AnchorGrid
from model.backbones.fpn import FeaturePyramid
from model.backbones.resnet import ResNet
from model.box_coding import BoxCoder
from model.boxes import scale_boxes
from model.config import ModelConfig
from model.detections import Detections
from model.heads.box import BoxHead, box_losses, choose_training_rois
from model.heads.mask import MaskHead, mask_loss, mask_targets
from model.postprocess import select_boxes
from model.preprocess import canvas_size, resized_size
from model.roi_pooling import RoiPooler
from model.rpn import RegionProposalNetwork
from model.structures import Category, ImageBatch, ImageSize, LossTerm, Proposals, Targets
from model.truths import join_truths


class Detector(nn.Module):
    """Mask R-CNN, or Faster R-CNN where ``config.mask`` is None.

    Args:
        config: every setting.
        categories: the K classes; label i is ``categories[i - 1]``.
    """

    def __init__(self, config: ModelConfig, categories: Sequence[Category]) -> None:
        super().__init__()
        if len(categories) != config.num_classes:
            raise ValueError(
                f"num_classes is {config.num_classes} but {len(categories)} categories are given"
            )
        self.config = config
        self.categories = tuple(categories)
        rules, channels = config.conventions, config.backbone.fpn_channels
        self.backbone = ResNet(
            depth=config.backbone.depth,
            norm=config.backbone.norm,
            eps=rules.norm_epsilon,
            width=config.backbone.width,
            frozen_stages=config.backbone.frozen_stages,
            stride_in_1x1=rules.stride_in_1x1,
        )
        self.fpn = FeaturePyramid(self.backbone.channels, channels)
        anchors = AnchorGrid(
            sizes=config.rpn.anchor_sizes,
            ratios=config.rpn.anchor_ratios,
            strides=FeaturePyramid.strides,
            rounded=rules.round_anchors,
            stride_from_canvas=rules.anchor_stride == "grid",
        )
        self.rpn = RegionProposalNetwork(channels, anchors, config.rpn, rules.rpn_smooth_l1_beta)
        side = config.box.pool_side
        self.box_pooler = RoiPooler(side, rules.roi_sampling_ratio, rules.roi_aligned)
        self.box_coder = BoxCoder(config.box.delta_weights)
        self.box_head = BoxHead(channels, side, config.box.hidden, config.num_classes)
        self.mask_head: MaskHead | None = None
        if config.mask is not None:
            self.mask_pooler = RoiPooler(
                config.mask.pool_side, rules.roi_sampling_ratio, rules.roi_aligned
            )
            self.mask_head = MaskHead(
                channels, config.mask.channels, config.mask.layers, config.num_classes
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(
        self, images: ImageBatch, targets: Sequence[Targets] | None = None
    ) -> dict[str, LossTerm] | list[Detections]:
        """Learn from targets, or find objects.

        Args:
            images: B images on the detector's device, with sampling seeds if targets are given.
            targets: the objects of each image, on the same device.

        Returns:
            With targets the losses rpn_objectness, rpn_box, box_class, box_regression and mask,
            to which every trainable parameter is attached, whatever the targets hold; without,
            the detections of each image in its original pixels.

        Raises:
            ValueError: as many targets, or seeds, as images are needed, and are not given.
        """
        if targets is not None:
            _check_training_batch(images, targets)
        features = self.fpn(self.backbone(self._network_input(images)))
        proposals, losses = self.rpn(features, images, targets)
        if targets is None:
            return self._detect(features, proposals, images)
        return {**losses, **self._roi_losses(features, proposals, images, targets)}

    @torch.inference_mode()
    def predict(
        self, images: Sequence[npt.NDArray[np.uint8]], batch_size: int = 4
    ) -> list[Detections]:
        """Find the objects in pictures of any sizes.

        Args:
            images: (H, W, 3) uint8 RGB arrays.
            batch_size: pictures per forward pass.

        Returns:
            Detections on the CPU, in the order and the pixels of the images.

        Raises:
            TypeError: an image is no uint8 array.
            ValueError: an image has another shape, or the batch size is not positive.
        """
        for index, image in enumerate(images):
            _check_picture(index, image)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        rule = self.config.input
        originals = [ImageSize(*image.shape[:2]) for image in images]
        sizes = [resized_size(size, rule.short_side, rule.long_side) for size in originals]
        # Like shapes share a batch, so that little of it is padding.
        order = sorted(range(len(images)), key=lambda index: sizes[index])
        found: dict[int, Detections] = {}
        training = self.training
        self.eval()
        try:
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                wanted = tuple(sizes[i] for i in chosen)
                pixels = self._normalise(
                    [_on_device(images[i], self.device) for i in chosen],
                    wanted,
                    canvas_size(wanted, rule.size_divisor),
                )
                detections = self(ImageBatch(pixels, wanted, tuple(originals[i] for i in chosen)))
                found.update(zip(chosen, (d.to("cpu") for d in detections), strict=True))
        finally:
            self.train(training)
        return [found[index] for index in range(len(images))]

    def _network_input(self, images: ImageBatch) -> Tensor:
        """What the backbone reads: the pixels, normalised unless they are."""
        if images.pixels.is_floating_point():
            return images.pixels
        canvas = ImageSize(*images.pixels.shape[2:])
        return self._normalise(images.pictures(), images.sizes, canvas)

    def _normalise(
        self, pictures: Sequence[Tensor], sizes: Sequence[ImageSize], canvas: ImageSize
    ) -> Tensor:
        """Pictures (h, w, 3) uint8 RGB to the network's channels (B, 3, H, W), 0 around them.

        In autocast's type where it is on: the first convolution would only convert again.
        """
        rules, kind = self.config.conventions, pictures[0].device.type
        return ops_cuda.preprocess(
            pictures,
            sizes,
            canvas,
            rules.pixel_mean,
            rules.pixel_std,
            reverse_channels=rules.pixel_order == "bgr",
            dtype=torch.get_autocast_dtype(kind)
            if torch.is_autocast_enabled(kind)
            else torch.float32,
        )

    def _roi_losses(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        images: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, LossTerm]:
        rules = self.config.conventions
        truths = join_truths(targets, images.pixels.device)
        slots = choose_training_rois(proposals, truths, images.sampling_seeds, self.config.box)
        chosen, positive = slots, slots.positive()
        if _waiting_is_free(self.device):
            chosen, positive = chosen.compact(), positive.compact()
        logits, deltas = self.box_head(self.box_pooler(features, chosen.rois))
        losses = box_losses(logits, deltas, chosen, self.box_coder, rules.box_smooth_l1_beta)
        if self.mask_head is not None:
            pooled = self.mask_pooler(features, positive.rois)
            masks = self.mask_head(pooled, positive.labels)
            side = masks.shape[-1]
            wanted = mask_targets(targets, positive, side, rules.mask_targets, images.sizes)
            losses["mask"] = mask_loss(masks, wanted, positive.is_meant)
        return losses

    def _detect(
        self, features: Sequence[Tensor], proposals: Proposals, images: ImageBatch
    ) -> list[Detections]:
        rois, present = proposals.rois(), proposals.present().flatten()
        if not rois.is_cuda:
            # To judge rows without a proposal costs less than to wait for a GPU to say which.
            rois, present = rois[present], present[present]
        logits, deltas = self.box_head(self.box_pooler(features, rois))
        found = select_boxes(
            logits, deltas, rois, present, self.box_coder, images.sizes, self.config.box
        )
        masks: Sequence[Tensor | None] = [None] * len(images)
        if self.mask_head is not None:
            pooled = self.mask_pooler(features, found.rois)
            masks = torch.split(self.mask_head(pooled, found.labels).sigmoid(), found.counts)
        return [
            Detections(
                boxes=scale_boxes(boxes, size, original),
                scores=scores,
                labels=labels,
                masks=mask,
                image_size=original,
                mask_threshold=self.config.mask.threshold if self.config.mask else 0.5,
            )
            for boxes, scores, labels, mask, size, original in zip(
                torch.split(found.rois[:, 1:], found.counts),
                torch.split(found.scores, found.counts),
                torch.split(found.labels, found.counts),
                masks,
                images.sizes,
                images.original_sizes,
                strict=True,
            )
        ]


def build_detector(config: ModelConfig, categories: Sequence[Category] = ()) -> Detector:
    """A detector with random weights, its convolutions laid out with channels innermost.

    Args:
        config: every setting.
        categories: the classes; by default ``class_1`` to ``class_K`` with ids 1 to K.

    Raises:
        ValueError: the number of categories is not ``config.num_classes``.
    """
    named = categories or [Category(i, f"class_{i}") for i in range(1, config.num_classes + 1)]
    detector = Detector(config, named)
    return detector.to(memory_format=torch.channels_last)


def _waiting_is_free(device: torch.device) -> bool:
    """Whether to drop slots that mean nothing: to ask a GPU how many they are stops the host."""
    return device.type == "cpu"


def _on_device(image: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    # torch wants arrays of its own order that it may write to, though nothing is written here
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))
    if device.type == "cuda":
        # only from pinned memory does the copy go on while the next picture is pinned
        return pixels.pin_memory().to(device, non_blocking=True)
    return pixels.to(device)


def _check_training_batch(images: ImageBatch, targets: Sequence[Targets]) -> None:
    if len(targets) != len(images):
        raise ValueError(f"{len(images)} images but {len(targets)} targets")
    if len(images.sampling_seeds) != len(images):
        raise ValueError(
            f"training needs one sampling seed per image; got {len(images.sampling_seeds)} for "
            f"{len(images)} images"
        )


def _check_picture(index: int, image: object) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image {index} must be a uint8 numpy array; got {got}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image {index} must be (height, width, 3) RGB; got {image.shape}")
