"""With the same weights, torchvision's RetinaNet v1 and v2 and ours compute the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from model import Detector, ModelConfig
from model.boxes.operations import sides_at_least
from model.boxes.selection import MIN_DETECTION_SIDE
from model.preprocess import normalize_images
from model.structures import Targets
from model.weights import load_network
from tests.model.torchvision.peers import (
    gradient_norm,
    make_batch,
    resized_images,
    spread_norms,
    torchvision_input,
)

SHORT_SIDE, LONG_SIDE = 96, 160
CLASSES = 12
# More than there are: torchvision's limit counts boxes without area, which we drop.
DETECTIONS, THRESHOLD = 5000, 0.3


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return resized_images(SHORT_SIDE, LONG_SIDE)


def _build_reference(version: str) -> RetinaNet:
    """Build torchvision's RetinaNet with scores and boxes that vary; v1 is on ResNet-18."""
    torch.manual_seed(1)
    settings = {
        "num_classes": CLASSES + 1,
        "min_size": SHORT_SIDE,
        "max_size": LONG_SIDE,
        "detections_per_img": DETECTIONS,
        "score_thresh": THRESHOLD,
    }
    if version == "v1":
        backbone = resnet_fpn_backbone(
            backbone_name="resnet18",
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            trainable_layers=3,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )
        model = RetinaNet(backbone, **settings)
    else:
        model = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, **settings)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        spread_norms(model.backbone, generator, last_norm="bn2" if version == "v1" else "bn3")
        for module in model.head.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= 3.0  # towers then keep the magnitude of their input
        logits = model.head.classification_head.cls_logits
        logits.weight *= 2.0 if version == "v1" else 1.5
        logits.bias.fill_(-5.0)
        logits.bias.view(-1, CLASSES + 1)[:, 0] = -100.0  # background, which ours lacks
    return model


def _load_peer(reference: RetinaNet, folder: Path, version: str) -> Detector:
    """Return our detector with the weights and settings of the reference."""
    torch.save(reference.state_dict(), folder / "reference.pth")
    config = ModelConfig.model_validate(
        {
            "input": {"short_side": SHORT_SIDE, "long_side": LONG_SIDE},
            "backbone": {"frozen_stages": 2 if version == "v1" else 0},
            "box": None,
            "mask": None,
            "retinanet": {"detections_per_image": DETECTIONS, "score_threshold": THRESHOLD},
        }
    )
    return load_network(folder / "reference.pth", config)


@pytest.fixture(scope="module", params=["v1", "v2"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RetinaNet, Detector]:
    """The reference, and our detector with its weights."""
    reference = _build_reference(request.param)
    return reference, _load_peer(reference, tmp_path_factory.mktemp("weights"), request.param)


def test_detections_are_equal(pair: tuple[RetinaNet, Detector], images: list[Tensor]) -> None:
    reference, detector = (model.float().eval() for model in pair)
    with torch.inference_mode():
        expected = reference(torchvision_input(images))
        results = detector(make_batch(images))
    assert sum(len(result) for result in results) >= 20
    assert len(torch.cat([result.labels for result in results]).unique()) >= 3
    for result, detections in zip(results, expected, strict=True):
        large = sides_at_least(detections["boxes"], MIN_DETECTION_SIDE)
        assert result.labels.tolist() == detections["labels"][large].tolist()
        torch.testing.assert_close(result.boxes, detections["boxes"][large], atol=0.01, rtol=0)
        torch.testing.assert_close(result.scores, detections["scores"][large], atol=1e-4, rtol=0)


def test_the_default_limit_on_detections_matches_torchvision(
    pair: tuple[RetinaNet, Detector], tmp_path: Path
) -> None:
    torch.save(pair[0].state_dict(), tmp_path / "reference.pth")
    default = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None).detections_per_img
    for overrides, expected in (({}, default), ({"detections_per_image": 7}, 7)):
        detector = load_network(tmp_path / "reference.pth", **overrides)
        assert detector.config.retinanet.detections_per_image == expected


def test_losses_and_gradients_are_equal(
    pair: tuple[RetinaNet, Detector], images: list[Tensor]
) -> None:
    # float64: batch norm over maps this small would amplify the rounding of float32.
    reference, detector = (model.double().train() for model in pair)
    # One image: torchvision divides by the positives of each image, we by those of the batch.
    image = images[0]
    height, width = image.shape[:2]
    shares = torch.tensor([[0.05, 0.1, 0.45, 0.6], [0.3, 0.35, 0.9, 0.95], [0.6, 0.05, 0.8, 0.25]])
    boxes = shares * torch.tensor([width, height, width, height])
    labels = torch.tensor([1, 5, CLASSES])
    losses = reference(
        [image.permute(2, 0, 1).double() / 255], [{"boxes": boxes.double(), "labels": labels}]
    )
    sum(losses.values()).backward()
    batch = make_batch([image])
    pixels = normalize_images(
        batch.unpadded(), batch.sizes, batch.canvas, detector.config.conventions
    )
    terms = detector(replace(batch, pixels=pixels.double()), [Targets(boxes, labels)])
    ours = {name: term.total / term.count for name, term in terms.items()}
    sum(ours.values()).backward()
    names = {"retinanet_class": "classification", "retinanet_box": "bbox_regression"}
    assert ours.keys() == names.keys()
    for name, loss in ours.items():
        torch.testing.assert_close(loss.double(), losses[names[name]], rtol=1e-4, atol=0)
        assert loss > 0
    for part, other in (
        ("backbone.", "backbone.body."),
        ("fpn.", "backbone.fpn."),
        ("retinanet.class", "head.classification_head."),
        ("retinanet.box", "head.regression_head."),
    ):
        result, expected = gradient_norm(detector, part), gradient_norm(reference, other)
        assert expected > 0
        torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=0)
