"""Write docs/MODEL_ZOO.md: recipes with their cost, and what the original libraries published.

Parameters and operations are computed from the recipes, on tensors without values.

python tools/write_model_zoo.py          write the page
python tools/write_model_zoo.py --check  exit with 1 if the page is not up to date
"""

import functools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model import ModelConfig, build_detector
from model.config.settings import check_settings
from model.config.yaml_files import compose_yaml
from model.detector import Detector
from model.preprocess import canvas_size, resized_size
from model.structures import ImageBatch, ImageSize

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "MODEL_ZOO.md"
PUBLISHED = ROOT / "tools" / "published_ap.yaml"
Published = Mapping[str, Sequence[float]]
COCO_SIZE = ImageSize(480, 640)  # the most frequent
DETECTIONS = 100

HEAD = f"""# Model zoo

Recipes (`configs/*.yaml`), what they cost, and what the libraries that they come from published.
`tools/write_model_zoo.py` computes parameters and operations and writes this page; a test
compares it with the recipes.

- **We have not trained or evaluated any of these models on COCO yet.** All AP on this page is
  published by others, for their own training of a model like this one, on COCO val2017 (minival
  for maskrcnn-benchmark), in percent: box, and mask or keypoint AP. Sources: detectron2's
  `MODEL_ZOO.md` (commit 02478d2), maskrcnn-benchmark's `MODEL_ZOO.md` (commit 698010f),
  `metafile.yml` of MMDetection 3.3.0, and the metrics stated with torchvision's weights.
- **Weights of these libraries load** for every recipe that has an AP of theirs, with
  `load_detector` or `train.weights`, by the library's own conventions
  ([MIGRATING.md](MIGRATING.md)). The heads of `large_scale_jitter/` have group norms, detectron2's
  batch norms: its weights load as its model, but do not fit as `train.weights` of these recipes.
  This was tested with random weights in their formats; published
  files have not been tried, because the project was developed without internet access. We publish
  no weights ourselves.
- **GFLOPs** are those of convolutions and matrix products for one image of {COCO_SIZE.height} x
  {COCO_SIZE.width} pixels at the recipe's short side: 800 (resized to 800 x 1067, padded to 800 x
  1088) or, in the light recipe, 480. They count backbone and pyramid, RPN or RetinaNet's head, the
  box head on the recipe's number of proposals, and mask or keypoint head on {DETECTIONS}
  detections. A multiplication and an addition are two operations.
- Seconds depend on the machine: `python -m benchmarks.inference` measures them on yours, beside
  torchvision and, with `--peers torchvision openvino onnxruntime`, beside its exported detector in
  these runtimes.

"""


def model_zoo() -> str:
    """Return the text of the page."""
    published = yaml.safe_load(PUBLISHED.read_text())
    return HEAD + "\n".join(_section(kind, recipes) for kind, recipes in published.items())


def parameters_and_flops(config: ModelConfig) -> tuple[int, int]:
    """Return the number of parameters, and of operations for one image.

    Parameters are all weights and biases, those of frozen layers and norms too.
    """
    return _cost(config.model_dump_json())


@functools.cache
def _cost(config_json: str) -> tuple[int, int]:
    config = ModelConfig.model_validate_json(config_json)
    plain = config.model_copy(
        update={"backbone": config.backbone.model_copy(update={"deformable": "none"})}
    )
    # Weights made in inference mode are not folded in advance, for which they would need values.
    with torch.device("meta"), torch.inference_mode():
        tensors = build_detector(config).state_dict()
        detector = build_detector(plain).eval()
        with FlopCounterMode(display=False) as counter:
            _run(detector)
    count = sum(t.numel() for name, t in tensors.items() if name.endswith((".weight", ".bias")))
    return count, counter.get_total_flops() + _offset_flops(tensors, coco_canvas(config))


def coco_canvas(config: ModelConfig) -> ImageSize:
    """Return the size of COCO's most frequent image, resized and padded to a multiple of 32."""
    return canvas_size([_resized(config)])


def _resized(config: ModelConfig) -> ImageSize:
    return resized_size(COCO_SIZE, config.input.short_side, config.input.long_side)


def _run(detector: Detector) -> None:
    """Run every layer on tensors without values, with as many ROIs as in inference."""
    config = detector.config
    size = _resized(config)
    pixels = torch.empty(1, 3, *coco_canvas(config))
    maps = detector.features(ImageBatch(pixels, (size,), (size,)))
    network: Any = detector
    for level in maps:
        (network.retinanet if config.retinanet else network.rpn.head)(level)
    if config.retinanet or config.box is None:
        return
    heads, channels = network.roi_heads, maps[0].shape[1]
    heads.box(_pooled(config.rpn.post_nms_test, channels, config.box.pool_side))
    labels = torch.zeros(DETECTIONS, dtype=torch.int64)
    if config.mask is not None and heads.shares_maps:
        heads.mask(heads.box.extract(_pooled(DETECTIONS, channels, config.box.pool_side)), labels)
    elif config.mask is not None:
        heads.mask(_pooled(DETECTIONS, channels, config.mask.pool_side), labels)
    if config.keypoint is not None:
        heads.keypoint(_pooled(DETECTIONS, channels, config.keypoint.pool_side))


def _pooled(rois: int, channels: int, side: int) -> Tensor:
    return torch.empty(rois, channels, side, side)


def _offset_flops(tensors: Mapping[str, Tensor], canvas: ImageSize) -> int:
    """Return the operations of the convolutions that predict offsets.

    The deformable convolutions themselves count as plain ones, without moving their taps.
    """
    total = 0
    for name, weight in tensors.items():
        if match := re.match(r"backbone\.layer(\d)\..*conv2_offset\.weight", name):
            height, width = (side // 2 ** (int(match[1]) + 1) for side in canvas)
            total += 2 * weight.numel() * height * width
    return total


def _section(kind: str, recipes: Mapping[str, Published]) -> str:
    lines = [f"## {kind}", "", "| recipe | parameters | GFLOPs | published AP |"]
    lines.append("|---|---:|---:|---|")
    return "\n".join([*lines, *(row(name, ap) for name, ap in recipes.items()), ""])


def row(recipe: str, published: Published) -> str:
    """Return a line of the table.

    Args:
        recipe: path below ``configs`` without its suffix.
        published: by library, the AP of boxes, and of masks or keypoints.
    """
    tree = compose_yaml(ROOT / "configs" / f"{recipe}.yaml")["model"]
    count, flops = parameters_and_flops(check_settings(ModelConfig, tree))
    link, cost = f"[{recipe}](../configs/{recipe}.yaml)", f"{count / 1e6:.1f} M | {flops / 1e9:.0f}"
    return f"| {link} | {cost} | {published_text(published)} |"


def published_text(published: Published) -> str:
    """Return the published AP of each library, boxes first."""
    if not published:
        return "none: our own recipe"
    values = (f"{name} {' / '.join(f'{v:.1f}' for v in ap)}" for name, ap in published.items())
    return ", ".join(values)


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check it; return the exit status."""
    text = model_zoo()
    if arguments == ["--check"]:
        return int(not PAGE.is_file() or PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
