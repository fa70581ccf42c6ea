"""The same weights and the same picture: torchvision's RetinaNet, v1 and v2, and ours agree."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from model import Detector, ModelConfig, load_detector
from model.boxes.operations import sides_at_least
from model.boxes.selection import THINNEST_DETECTION
from model.preprocess import pad_batch, resize_image, resized_size
from model.structures import ImageSize, Targets
from tests.model.torchvision.peers import gradient_norm, two_pictures

SHORT_SIDE, LONG_SIDE = 96, 160
CLASSES = 12
# More than there are: they count boxes without area, which we leave out.
DETECTIONS, THRESHOLD = 5000, 0.3


@pytest.fixture(scope="module")
def small() -> list[Tensor]:
    """Two (H, W, 3) uint8 pictures of the size that both transforms leave alone."""
    return [
        resize_image(p, resized_size(ImageSize(*p.shape[:2]), SHORT_SIDE, LONG_SIDE))
        for p in two_pictures()
    ]


def _theirs(version: str) -> RetinaNet:
    """torchvision's with random weights that spread scores and boxes; v1 is on ResNet-18."""
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
    last = "bn2" if version == "v1" else "bn3"
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, module in model.backbone.named_modules():
            if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
                if isinstance(module, FrozenBatchNorm2d):
                    module.eps = 0.0
                channels = len(module.weight)
                module.running_mean += 0.1 * torch.randn(channels, generator=generator)
                module.running_var *= 0.5 + torch.rand(channels, generator=generator)
                # The last norm of a block small, so that depth does not blow activations up.
                module.weight.fill_(0.3 if name.endswith(last) else 1.0)
        for module in model.head.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= 3.0  # towers keep the size of what they read
        logits = model.head.classification_head.cls_logits
        logits.weight *= 2.0 if version == "v1" else 1.5
        logits.bias.fill_(-5.0)
        logits.bias.view(-1, CLASSES + 1)[:, 0] = -100.0  # background is no class of ours
    return model


def _ours(theirs: RetinaNet, folder: Path, version: str) -> Detector:
    torch.save(theirs.state_dict(), folder / "theirs.pth")
    config = ModelConfig.model_validate(
        {
            "input": {"short_side": SHORT_SIDE, "long_side": LONG_SIDE},
            "backbone": {"frozen_stages": 2 if version == "v1" else 0},
            "box": None,
            "mask": None,
            "retinanet": {"detections_per_image": DETECTIONS, "score_threshold": THRESHOLD},
        }
    )
    return load_detector(folder / "theirs.pth", config)


@pytest.fixture(scope="module", params=["v1", "v2"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RetinaNet, Detector]:
    """Theirs, and ours with its weights."""
    theirs = _theirs(request.param)
    return theirs, _ours(theirs, tmp_path_factory.mktemp("weights"), request.param)


def test_the_same_weights_give_the_same_detections(
    pair: tuple[RetinaNet, Detector], small: list[Tensor]
) -> None:
    theirs, detector = (model.float().eval() for model in pair)
    with torch.inference_mode():
        expected = theirs([picture.permute(2, 0, 1) / 255 for picture in small])
        # torchvision pads the pictures to one canvas, so ours must too.
        sizes = [ImageSize(*picture.shape[:2]) for picture in small]
        found = detector(pad_batch(small, sizes))
    assert sum(len(one) for one in found) >= 20
    assert len(torch.cat([one.labels for one in found]).unique()) >= 3
    for one, reference in zip(found, expected, strict=True):
        large = sides_at_least(reference["boxes"], THINNEST_DETECTION)
        reference = {name: values[large] for name, values in reference.items()}
        assert one.labels.tolist() == reference["labels"].tolist()
        torch.testing.assert_close(one.boxes, reference["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(one.scores, reference["scores"], atol=1e-4, rtol=0)


def test_it_keeps_as_many_as_torchvision_unless_told(
    pair: tuple[RetinaNet, Detector], tmp_path: Path
) -> None:
    torch.save(pair[0].state_dict(), tmp_path / "theirs.pth")
    kept = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None).detections_per_img
    for given, wanted in (({}, kept), ({"detections_per_image": 7}, 7)):
        detector = load_detector(tmp_path / "theirs.pth", **given)
        assert detector.config.retinanet.detections_per_image == wanted


def test_the_same_weights_give_the_same_losses_and_gradients(
    pair: tuple[RetinaNet, Detector], small: list[Tensor]
) -> None:
    # float64: batch norm over maps this small makes the rounding of float32 large
    theirs, detector = (model.double().train() for model in pair)
    # One picture: they divide by the positives of each image, we by those of all.
    picture = small[0]
    height, width = picture.shape[:2]
    shares = torch.tensor([[0.05, 0.1, 0.45, 0.6], [0.3, 0.35, 0.9, 0.95], [0.6, 0.05, 0.8, 0.25]])
    boxes = shares * torch.tensor([width, height, width, height])
    labels = torch.tensor([1, 5, CLASSES])
    losses = theirs(
        [picture.permute(2, 0, 1).double() / 255], [{"boxes": boxes.double(), "labels": labels}]
    )
    sum(losses.values()).backward()
    batch = pad_batch([picture], [ImageSize(height, width)], sampling_seeds=[0])
    normalised = replace(batch, pixels=detector._network_input(batch).double())
    terms = detector(normalised, [Targets(boxes, labels)])
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
        got, expected = gradient_norm(detector, part), gradient_norm(theirs, other)
        assert expected > 0
        torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=0)
