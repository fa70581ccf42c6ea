"""Detectors of every kind on one fixed batch, as numbers that a refactoring must not change.

``python -m tests.golden.cases FILE`` writes them all as JSON, digests of every tensor included: two
files written on one machine are equal byte for byte unless the detector computes something else.
``python -m tests.golden.cases golden.json --portable`` writes what ``test_golden.py`` compares: the
numbers that hold on every machine, rounded.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from model import ModelConfig, Predictor, build_detector
from model.config import TORCHVISION
from model.preprocess import pad_batch
from model.structures import BitmapMasks, ImageSize, PolygonMasks, Targets
from model.structures.batch_masks import encode_bitmaps
from pipeline.config import OptimizerConfig
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.optimizer import build_optimizer
from pipeline.train.precision import Precision

TINY = {
    "num_classes": 3,
    "input": {"short_side": 64, "long_side": 96},
    "backbone": {"depth": 18, "norm": "group_norm", "frozen_stages": 0, "width": 8},
    "fpn": {"channels": 32},
    "rpn": {
        "anchor_sizes": (8, 16, 32, 48, 64),
        "pre_nms_train": 100,
        "post_nms_train": 30,
        "pre_nms_test": 40,
        "post_nms_test": 20,
    },
    "box": {"hidden": 64, "samples_per_image": 64},
    "mask": {"channels": 16, "layers": 2},
}
KEYPOINTS = {"names": ("left", "middle", "right"), "channels": 16, "layers": 2}
RETINANET = {
    "box": None,
    "mask": None,
    "retinanet": {"anchor_sizes": (8, 16, 32, 48, 64), "layers": 1, "score_threshold": 0.009},
}
DEEP = {"depth": 50, "width": 8, "group_width": 8}
VIEWS = {"test_augmentation": {"short_sides": (48, 64), "long_side": 120, "flip": True}}
CASES = {
    "mask_fpn": {},
    "mask_c4": {"backbone": {"features": "c4"}, "box": {"hidden": 64, "pool_side": 6}},
    "mask_dc5": {"backbone": DEEP | {"features": "dc5"}},
    "mask_keypoint_c5": {"backbone": {"features": "c5"}, "keypoint": KEYPOINTS},
    "mask_frozen_bn": {"backbone": {"norm": "frozen_bn", "frozen_stages": 2}},
    "mask_torchvision": {"conventions": TORCHVISION.model_dump()},
    "mask_legacy": {"conventions": {"legacy_geometry": True}},
    "mask_class_agnostic": {
        "box": TINY["box"] | {"class_agnostic": True, "conv_layers": 1, "norm": "group_norm"},
        "mask": TINY["mask"] | {"class_agnostic": True, "norm": "group_norm"},
    },
    "mask_deformable": {"backbone": DEEP | {"deformable": "v2"}},
    "mask_resnext": {"backbone": DEEP | {"groups": 4}},
    "faster": {"mask": None},
    "keypoint": {"mask": None, "keypoint": KEYPOINTS},
    "keypoint_pixel_numbers": {
        "mask": None,
        "keypoint": KEYPOINTS,
        "conventions": {"keypoint_coordinates": "pixel_numbers"},
    },
    "retinanet": RETINANET,
    "retinanet_giou": RETINANET
    | {"retinanet": RETINANET["retinanet"] | {"box_loss": "giou", "norm": "group_norm"}},
    "proposals": {"box": None, "mask": None},
    "views_mask": VIEWS,
    "views_keypoint": VIEWS | {"keypoint": KEYPOINTS},
    "views_legacy": VIEWS | {"conventions": {"legacy_geometry": True}},
    "views_retinanet": VIEWS | RETINANET,
    "views_proposals": VIEWS | {"box": None, "mask": None},
}
COLORS = np.array([[220, 40, 40], [40, 200, 60], [50, 70, 230]], np.uint8)
OBJECTS = (
    ([[6, 8, 30, 34], [34, 30, 60, 58]], [1, 2]),
    ([[20, 10, 52, 40]], [3]),
    ([], []),
    ([[4, 4, 20, 60], [10, 12, 70, 40], [40, 20, 78, 62]], [2, 3, 1]),
)
SIZES = (ImageSize(64, 64), ImageSize(60, 72), ImageSize(64, 64), ImageSize(64, 80))


def build_case(name):
    """Build the detector of a case, with weights that spread its scores."""
    settings = TINY | CASES[name]
    settings["backbone"] = TINY["backbone"] | settings["backbone"]
    torch.manual_seed(0)
    detector = build_detector(ModelConfig.model_validate(settings))
    with torch.no_grad():
        for key, parameter in detector.named_parameters():
            if key.endswith(("class_logits.weight", "objectness.weight")):
                parameter *= 30
            elif key.endswith("conv2_offset.weight"):
                parameter.normal_(std=0.02)
    return detector


def golden_images():
    """Yield images (H, W, 3) uint8: rectangles on noise."""
    rng = np.random.default_rng(5)
    for (boxes, labels), size in zip(OBJECTS, SIZES, strict=True):
        image = rng.integers(60, 120, (*size, 3), dtype=np.uint8)
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            image[y1:y2, x1:x2] = COLORS[label - 1]
        yield image


def golden_targets():
    """Yield the targets of each image; masks are polygons, runs, none (no objects), and bitmaps."""
    for index, ((boxes, labels), size) in enumerate(zip(OBJECTS, SIZES, strict=True)):
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
        offsets = torch.arange(len(boxes) + 1)
        masks = PolygonMasks(corners, 4 * offsets, offsets)
        if index % 2:
            bitmaps = torch.zeros(len(boxes), *size, dtype=torch.uint8)
            for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.int().tolist(), strict=True):
                bitmap[y1:y2, x1:x2] = 1
            masks = BitmapMasks(bitmaps)
            masks = encode_bitmaps(masks) if index == 1 else masks
        corner, sides = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
        points = corner + sides * torch.tensor([[0.25, 0.25], [0.5, 0.5], [0.75, 0.25]])
        seen = torch.tensor([2.0, 1.0, 0.0])[None, :, None].expand(len(boxes), -1, -1)
        keypoints = torch.cat((points, seen), dim=2)
        yield Targets(boxes, torch.tensor(labels, dtype=torch.int64), masks, keypoints, index)


def golden_batch():
    """Return the images as one padded batch, with a sampling seed each."""
    images = [torch.from_numpy(image) for image in golden_images()]
    originals = [ImageSize(2 * size.height, 2 * size.width) for size in SIZES]
    return pad_batch(images, originals, range(len(images)))


def measure_case(name):
    """Measure the losses, gradients, detections and weight names of a case."""
    torch.set_num_threads(1)
    detector, targets = build_case(name), list(golden_targets())
    names = "\n".join(f"{key} {tuple(value.shape)}" for key, value in detector.state_dict().items())
    result = {"weights": hashlib.sha256(names.encode()).hexdigest()}
    terms = detector.train()(golden_batch(), targets)
    sum(term.total / term.count.clamp(min=1) for term in terms.values()).backward()
    gradients = [p.grad for p in detector.parameters() if p.grad is not None]
    result["losses"] = {key: [term.total.item(), term.count.item()] for key, term in terms.items()}
    result["gradient_norm"] = torch.nn.utils.get_total_norm(gradients).item()
    result["gradient_digest"] = digest(*gradients)
    detector.eval()
    with torch.inference_mode():
        batch = golden_batch()
        result["forward"] = list(map(summarize, detector(replace(batch, sampling_seeds=()))))
    detections = Predictor(detector).predict(list(golden_images()))
    result["predict"] = list(map(summarize, detections))
    return result


def summarize(detections):
    """Return the detections of one image as a few numbers and a digest of all."""
    masks, keypoints = detections.masks, detections.keypoints
    parts = [detections.boxes, detections.scores, detections.labels, masks, keypoints]
    return {
        "count": len(detections),
        "scores": detections.scores[:3].tolist(),
        "boxes": detections.boxes[:3].tolist(),
        "labels": detections.labels[:3].tolist(),
        "mask_mean": None if masks is None else masks.double().mean().nan_to_num().item(),
        "digest": digest(*(part for part in parts if part is not None)),
        "rle_digest": None
        if masks is None
        else hashlib.sha256(json.dumps(detections.rle()).encode()).hexdigest(),
    }


def measure_training():
    """Measure the losses and gradient norms of the first steps of the training loop."""
    torch.set_num_threads(1)
    detector, lines = build_case("mask_fpn"), []
    config = OptimizerConfig(lr=0.01, clip_norm=5.0)

    def log(report):
        values = sorted(report.metrics().items())
        lines.append({key: value for key, value in values if "loss" in key or "norm" in key})

    loop = TrainingLoop(
        model=detector,
        optimizer=build_optimizer(detector, config),
        lr_schedule=lambda step: 0.01 / (1 + step),
        precision=Precision("fp32", torch.device("cpu")),
        device=torch.device("cpu"),
        plan=LoopPlan(0, 4, images_per_step=8, accumulate=2, clip_norm=5.0, log_every=1),
        hooks=LoopHooks(log=log),
    )
    loop.run(iter([_MicroBatch()] * 8))
    return {"steps": lines, "weights_digest": digest(*detector.state_dict().values())}


class _MicroBatch:
    def __init__(self):
        self.images, self.targets = golden_batch(), tuple(golden_targets())


def digest(*tensors):
    """Return the SHA-256 of the values of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def portable(value):
    """Return the measurements, rounded and without digests: last bits differ between processors."""
    if isinstance(value, dict):
        return {key: portable(each) for key, each in value.items() if "digest" not in key}
    if isinstance(value, list):
        return [portable(each) for each in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def main(path, *options):
    """Measure everything and write it to ``path``."""
    measured = {name: measure_case(name) for name in CASES} | {"training": measure_training()}
    if "--portable" in options:
        lines = (f"{json.dumps(n)}: {json.dumps(portable(m))}" for n, m in measured.items())
        Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        Path(path).write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
