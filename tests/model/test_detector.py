"""The interface that all kinds of detectors share, and what uses nothing but that interface."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from model import Detector, Predictor, build_detector
from model.boxes.selection import Candidates, select_boxes
from model.export.graph import InferenceGraph
from model.one_stage import OneStageDetector
from model.proposal_network import ProposalNetwork
from model.structures import ImageBatch, ImageSize, join_targets
from model.two_stage import TwoStageDetector
from tests.model.detector_kinds import KINDS

MODEL = Path(inspect.getfile(Detector)).parent
INTERFACE = {name for name in vars(Detector) if not name.startswith("_")} - {"forward"}
CPU = torch.device("cpu")


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def any_detector(kind, tiny_config):
    """A detector of each kind whose random scores vary, in eval mode."""
    torch.manual_seed(0)
    detector = build_detector(tiny_config(**kind.settings)).eval()
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if name.endswith(("class_logits.weight", "objectness.weight")):
                parameter *= 30
    return detector


class WholeImageDetector(Detector):
    """Detects class 2 in the whole image: the smallest class that implements the interface."""

    def losses(self, features, images, targets):
        return {}

    def candidates(self, features, images):
        boxes = [[0.0, 0.0, size.width, size.height] for size in images.sizes]
        count = len(images)
        return Candidates(
            torch.tensor(boxes),
            torch.full((count,), 0.75),
            torch.arange(count),
            torch.full((count,), 2),
        )

    def select(self, candidates, images):
        return select_boxes(candidates, images.sizes, nms_iou=0.5, max_detections=10)


@pytest.fixture
def make_whole_image_detector(detector, tiny_config):
    def make_whole_image_detector(**changes):
        config = tiny_config(mask=None, **changes)
        return WholeImageDetector(config, detector.categories).eval()

    return make_whole_image_detector


def test_a_subclass_must_implement_losses_candidates_and_select(detector):
    assert Detector.__abstractmethods__ == {"losses", "candidates", "select"}
    with pytest.raises(TypeError, match="abstract"):
        Detector(detector.config, detector.categories)


@pytest.mark.parametrize("subclass", [TwoStageDetector, OneStageDetector, ProposalNetwork])
def test_every_kind_implements_the_interface_with_its_signatures(subclass):
    assert not subclass.__abstractmethods__
    assert "forward" not in vars(subclass)
    for name in sorted(INTERFACE):
        member, implementation = getattr(Detector, name), getattr(subclass, name)
        if callable(member):
            assert inspect.signature(implementation) == inspect.signature(member), name


def test_losses_are_those_of_the_heads(kind, any_detector, keypoint_scenes, make_batch):
    batch = make_batch(keypoint_scenes)
    terms = any_detector(batch, keypoint_scenes)
    assert terms.keys() == kind.losses
    targets = join_targets(
        keypoint_scenes,
        CPU,
        with_masks=any_detector.config.mask is not None,
        num_keypoints=3 if any_detector.config.keypoint else 0,
    )
    parts = any_detector.losses(any_detector.features(batch), batch, targets)
    joined = any_detector(batch, targets)
    for name, term in terms.items():
        for other in (parts[name], joined[name]):
            assert term.total.equal(other.total)
            assert term.count.equal(other.count)


def test_joined_targets_need_the_masks_and_keypoints_that_the_detector_learns(
    any_detector, keypoint_scenes, make_batch
):
    batch, config = make_batch(keypoint_scenes), any_detector.config
    if config.mask is not None:
        joined = join_targets(keypoint_scenes, CPU, num_keypoints=3)
        with pytest.raises(ValueError, match=r"set model\.mask to null"):
            any_detector(batch, joined)
    if config.keypoint is not None:
        with pytest.raises(ValueError, match=r"set model\.keypoint to null"):
            any_detector(batch, join_targets(keypoint_scenes, CPU, with_masks=True))
    joined = join_targets(keypoint_scenes[:1], CPU, with_masks=True, num_keypoints=3)
    with pytest.raises(ValueError, match="2 images but 1 targets"):
        any_detector(batch, joined)


@torch.no_grad()
def test_detections_are_those_of_the_steps_of_the_interface(any_detector, scenes, make_batch):
    batch = make_batch(scenes)
    expected = any_detector(batch)
    features = any_detector.features(batch)
    selected = any_detector.detect(features, batch)
    masks = any_detector.masks(features, selected)
    heatmaps = any_detector.heatmaps(features, selected)
    results = any_detector.to_detections(selected, batch, masks, heatmaps)
    assert len(results) == len(expected) == len(batch)
    for result, detections in zip(results, expected, strict=True):
        assert len(result) > 0
        for name in ("boxes", "scores", "labels", "masks", "keypoints"):
            value, reference = getattr(result, name), getattr(detections, name)
            assert (value is None and reference is None) or value.equal(reference)


@torch.no_grad()
def test_feature_maps_have_the_strides_and_channels_of_the_detector(
    any_detector, make_batch, scenes
):
    batch = make_batch(scenes)
    features = any_detector.features(batch)
    assert len(features) == len(any_detector.strides)
    for feature, stride in zip(features, any_detector.strides, strict=True):
        height, width = (-(-side // stride) for side in batch.canvas)
        assert feature.shape == (len(batch), any_detector.channels, height, width)


@torch.no_grad()
def test_candidates_are_boxes_with_scores_images_and_labels(any_detector, scenes, make_batch):
    batch = make_batch(scenes)
    candidates = any_detector.candidates(any_detector.features(batch), batch)
    count = len(candidates.scores)
    assert count > 0
    assert candidates.boxes.shape == (count, 4)
    assert candidates.boxes.dtype == candidates.scores.dtype == torch.float32
    assert candidates.images.dtype == candidates.labels.dtype == torch.int64
    assert set(candidates.images.tolist()) == {0, 1}
    assert 1 <= candidates.labels.min() <= candidates.labels.max() <= 3
    assert ((candidates.scores > 0) & (candidates.scores <= 1)).all()


@torch.no_grad()
def test_selected_boxes_are_sorted_clipped_and_counted_per_image(any_detector, scenes, make_batch):
    batch = make_batch(scenes, canvas=ImageSize(96, 128))
    candidates = any_detector.candidates(any_detector.features(batch), batch)
    selected = any_detector.select(candidates, batch)
    assert sum(selected.counts) == len(selected.scores) == len(selected.rois) > 0
    images = torch.repeat_interleave(torch.arange(2), torch.tensor(selected.counts))
    assert selected.rois[:, 0].long().equal(images)
    for scores in torch.split(selected.scores, selected.counts):
        assert (scores.diff() <= 0).all()
    assert (selected.boxes >= 0).all()
    assert (selected.boxes <= 64).all()
    assert set(selected.scores.tolist()) <= set(candidates.scores.tolist())


@torch.no_grad()
def test_masks_and_heatmaps_exist_with_a_head_for_them(any_detector, scenes, make_batch):
    batch = make_batch(scenes)
    features = any_detector.features(batch)
    selected = any_detector.detect(features, batch)
    count = len(selected.scores)
    masks = any_detector.masks(features, selected)
    assert (masks is None) == (any_detector.config.mask is None)
    if masks is not None:
        assert masks.shape == (count, 28, 28)
        assert ((masks >= 0) & (masks <= 1)).all()
    heatmaps = any_detector.heatmaps(features, selected)
    assert (heatmaps is None) == (any_detector.config.keypoint is None)
    if heatmaps is not None:
        assert heatmaps.shape == (count, 3, 56, 56)
        assert any_detector.keypoints(selected, batch, heatmaps).shape == (count, 3, 3)


@torch.no_grad()
def test_detect_selects_from_the_candidates(any_detector, scenes, make_batch):
    """A proposal network has run NMS per level already: there, detect skips it."""
    batch = make_batch(scenes)
    features = any_detector.features(batch)
    candidates = any_detector.candidates(features, batch)
    detected = any_detector.detect(features, batch)
    selected = any_detector.select(candidates, batch)
    if isinstance(any_detector, ProposalNetwork):
        assert detected.boxes.equal(candidates.boxes)
        assert len(selected.scores) <= len(detected.scores)
    else:
        assert detected.rois.equal(selected.rois)
        assert detected.scores.equal(selected.scores)
        assert detected.labels.equal(selected.labels)


def test_targets_need_one_entry_and_one_seed_per_image(any_detector, keypoint_scenes, make_batch):
    batch = make_batch(keypoint_scenes)
    with pytest.raises(ValueError, match="2 images but 1 targets"):
        any_detector(batch, keypoint_scenes[:1])
    with pytest.raises(ValueError, match="one sampling seed per image"):
        without_seeds = ImageBatch(batch.pixels, batch.sizes, batch.original_sizes)
        any_detector(without_seeds, keypoint_scenes)


def test_the_backbone_reads_normalized_pixels_and_zeros_in_the_padding(
    scenes, tiny_config, make_batch
):
    conventions = {"pixel_order": "bgr", "pixel_mean": (1, 2, 3), "pixel_std": (1, 1, 2)}
    detector = build_detector(tiny_config(conventions=conventions))
    inputs = []
    detector.backbone.register_forward_pre_hook(lambda _, arguments: inputs.append(*arguments))
    batch = make_batch(scenes[:1], canvas=ImageSize(96, 96))
    detector.features(batch)
    [normalized] = inputs
    assert (normalized[:, :, 64:] == 0).all()
    assert (normalized[:, :, :, 64:] == 0).all()
    red, green, blue = batch.pixels[0, :, 0, 0].tolist()
    assert normalized[0, :, 0, 0].tolist() == [blue - 1, green - 2, (red - 3) / 2]


@pytest.mark.parametrize(
    "augmentation", [None, {"short_sides": (64, 96), "long_side": 200}], ids=["plain", "augmented"]
)
def test_a_new_kind_of_detector_predicts(make_whole_image_detector, augmentation):
    predictor = Predictor(make_whole_image_detector(test_augmentation=augmentation))
    (result,) = predictor.predict([np.zeros((50, 70, 3), np.uint8)])
    # Also with four views there is one object.
    torch.testing.assert_close(result.boxes, torch.tensor([[0.0, 0, 70, 50]]))
    assert result.labels.tolist() == [2]
    assert result.masks is result.keypoints is None


@torch.no_grad()
def test_a_new_kind_of_detector_can_be_exported(make_whole_image_detector):
    graph = InferenceGraph(make_whole_image_detector())
    results = graph(torch.zeros(50, 70, 3, dtype=torch.uint8))
    assert tuple(results) == graph.outputs == ("boxes", "scores", "labels")
    assert results["boxes"].tolist() == [[0, 0, 70, 50]]


@pytest.mark.parametrize("folder", ["export", "inference"])
def test_export_and_inference_do_not_branch_on_the_kind_of_detector(folder):
    """They name no part that only some detectors have, and no subclass."""
    parts = {"rpn", "roi_heads", "retinanet"}
    subclasses = {"TwoStageDetector", "OneStageDetector", "ProposalNetwork"}
    modules = {f"model.{name}" for name in ("two_stage", "one_stage", "proposal_network")}
    files = sorted((MODEL / folder).glob("*.py"))
    assert len(files) >= 3
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in parts | subclasses, where
            if isinstance(node, ast.Name):
                assert node.id not in subclasses, where
            if isinstance(node, ast.ImportFrom):
                assert node.module not in modules, where
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in parts, where
