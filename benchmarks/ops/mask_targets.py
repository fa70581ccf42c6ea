"""Mask targets against torchvision's bitmaps, pycocotools per ROI and detectron2's method."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

import ops_cuda
from benchmarks.ops.comparison import Comparison
from benchmarks.ops.inputs import HEIGHT, WIDTH, random_boxes

try:
    from pycocotools import mask as coco_masks
except ImportError:  # a bare GPU machine
    coco_masks = None

ROIS, OBJECTS, VERTICES, SIDE = 128, 16, 40, 28


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield the targets of 128 positive ROIs around 16 objects, from polygons and from runs."""
    outlines, boxes = _objects()
    matched = torch.arange(ROIS) % OBJECTS
    noise = 0.1 * torch.randn(ROIS, 4, generator=torch.Generator().manual_seed(0))
    extent = boxes[:, 2:] - boxes[:, :2]
    regions = boxes[matched] + noise * extent.repeat(1, 2)[matched]
    offsets = torch.arange(OBJECTS + 1)
    polygons = [each.to(device) for each in (outlines.reshape(-1, 2), offsets * VERTICES, offsets)]
    whole = torch.tensor([[0.0, 0.0, WIDTH, WIDTH]]).expand(OBJECTS, 4)
    masks = ops_cuda.rasterize_polygons(*polygons, offsets[:-1].to(device), whole.to(device), WIDTH)
    bitmaps = masks[:, :HEIGHT].byte()
    rois, objects = regions.to(device), matched.to(device)

    def from_polygons() -> Tensor:
        return ops_cuda.rasterize_polygons(*polygons, objects, rois, SIDE)

    size = f"{ROIS} rois, {OBJECTS} objects, {SIDE}x{SIDE}"
    yield Comparison(
        "rasterize_polygons",
        size,
        from_polygons,
        "project_masks_on_boxes",
        lambda: project_masks_on_boxes(bitmaps, rois, objects, SIDE),
        same_result=False,  # averages of a bitmap, not the rasterized outline
    )
    runs = [each.to(device) for each in _encode_runs(bitmaps.cpu())]

    def from_runs() -> Tensor:
        return ops_cuda.rasterize_rle(*runs, objects, rois, SIDE)

    if coco_masks is None:
        return

    def by_pycocotools() -> Tensor:
        masks = []
        for outline, box in zip(outlines[matched].double(), regions.double(), strict=True):
            moved = (outline - box[:2]) * (SIDE / (box[2:] - box[:2]))
            encoded = coco_masks.frPyObjects([moved.ravel().tolist()], SIDE, SIDE)
            masks.append(torch.from_numpy(coco_masks.decode(coco_masks.merge(encoded))))
        return torch.stack(masks).to(device)

    encoded = [coco_masks.encode(bitmap.cpu().numpy().T.copy().T) for bitmap in bitmaps]

    def by_averages() -> Tensor:
        decoded = torch.from_numpy(coco_masks.decode(encoded)).permute(2, 0, 1)
        maps = decoded.to(device).float()[:, None]
        indexed_rois = torch.cat((objects[:, None].float(), rois), 1)
        return (roi_align(maps, indexed_rois, SIDE, aligned=True)[:, 0] >= 0.5).float()

    yield Comparison(
        "rasterize_polygons", size, from_polygons, "pycocotools per roi", by_pycocotools
    )
    yield Comparison(
        "rasterize_rle",
        size,
        from_runs,
        "pycocotools decode + roi_align",
        by_averages,
        same_result=False,  # the area of mask in a cell, not the mean of samples
    )


def _objects() -> tuple[Tensor, Tensor]:
    """Return star-shaped outlines of 40 vertices (objects, 40, 2) and their boxes (objects, 4)."""
    boxes = random_boxes(OBJECTS, 500, torch.device("cpu"))
    angles = torch.arange(VERTICES) * (2 * torch.pi / VERTICES)
    radius = 0.8 + 0.2 * torch.rand(
        OBJECTS, VERTICES, 1, generator=torch.Generator().manual_seed(0)
    )
    star = radius * torch.stack([angles.cos(), angles.sin()], 1) / 2
    centers, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return centers[:, None] + star * extent[:, None], boxes


def _encode_runs(bitmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encode bitmaps (objects, H, W). Return run_ends, run_offsets and heights."""
    pixels = bitmaps.transpose(1, 2).flatten(1)
    changes = pixels.diff(dim=1, prepend=torch.zeros(len(pixels), 1, dtype=pixels.dtype)) != 0
    ends = torch.cat((changes, torch.ones(len(pixels), 1, dtype=torch.bool)), 1)
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), ends.sum(1).cumsum(0)))
    return ends.nonzero()[:, 1], offsets, torch.full((len(bitmaps),), bitmaps.shape[1])
