"""Random inputs of the operators, the same on every machine."""

import math

import torch

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def random_boxes(count, extent=100.0, largest=40.0, seed=0):
    """Return (N, 4) float32 boxes with corners in [0, extent] and sides up to `largest`."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * extent
    return torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * largest], 1)


def match_scene(count, shared=False):
    """Return candidates of 3 images, one empty and one with many objects; some are degenerate.

    Returns:
        candidates, gt_boxes, gt_offsets, as match_boxes takes them.
    """
    images = 1 if shared else 3
    candidates = random_boxes(images * count, seed=6).round().reshape(images, count, 4)
    gt_boxes = random_boxes(205, seed=7).round()
    gt_boxes[0, 1], gt_boxes[7, 2], gt_boxes[9, 2:] = float("nan"), float("inf"), gt_boxes[9, :2]
    if count > 60:
        candidates[0, 5], candidates[0, 6, 2] = float("nan"), float("inf")
        candidates[0, 7, 2:], candidates[0, 8] = candidates[0, 7, :2], gt_boxes[9]
    return candidates, gt_boxes, torch.tensor([0, 5, 5, 205])


def tied_scores(count, seed=1):
    """Return (N,) scores, many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 20, (count,), generator=generator) / 20


def random_labels(count, classes=3, seed=2):
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))


def pyramid(images=2, channels=19, side=400, dtype=torch.float32, channels_last=True, seed=3):
    """Return maps of strides 4 to 32 of a `side` x 5/4 `side` image."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for scale in SCALES:
        shape = (images, channels, round(side * scale), round(side * 1.25 * scale))
        values = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        maps.append(values.contiguous(memory_format=layout))
    return maps


def random_rois(count, images=2, side=400, seed=4):
    """Return (R, 5) ROIs of all sizes, some of them partly outside the image."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 2, generator=generator) * side
    halves = side * 0.5 * torch.rand(count, 2, generator=generator) ** 3 + 1
    image = torch.randint(0, images, (count, 1), generator=generator)
    return torch.cat([image, centers - halves, centers + halves], 1)


def random_outlines(objects, seed=5):
    """Draw star-shaped polygons, 0 to 2 per object.

    Returns:
        vertices, polygon_offsets, object_offsets, as rasterize_polygons takes them.
    """
    generator = torch.Generator().manual_seed(seed)
    vertices, polygon_offsets, object_offsets = [torch.empty(0, 2)], [0], [0]
    for index in range(objects):
        for _ in range(index % 3):
            corners = int(torch.randint(3, 30, (1,), generator=generator))
            angle = torch.arange(corners) * (2 * math.pi / corners)
            radius = 20 + 25 * torch.rand(corners, generator=generator)
            center = 30 + 40 * torch.rand(2, generator=generator)
            outline = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
            vertices.append(center + outline)
            polygon_offsets.append(polygon_offsets[-1] + corners)
        object_offsets.append(len(polygon_offsets) - 1)
    return torch.cat(vertices), torch.tensor(polygon_offsets), torch.tensor(object_offsets)


def encode_runs(bitmaps):
    """Encode bitmaps, each (h, w) of 0 and 1, as runs.

    Returns:
        run_ends, run_offsets, heights, as rasterize_rle takes them.
    """
    ends, offsets = [torch.empty(0, dtype=torch.int64)], [0]
    for bitmap in bitmaps:
        pixels = bitmap.T.reshape(-1).long()
        changes = pixels.diff(prepend=pixels.new_zeros(1)).nonzero()[:, 0]
        ends.append(torch.cat([changes, torch.tensor([len(pixels)])]))
        offsets.append(offsets[-1] + len(ends[-1]))
    heights = torch.tensor([len(bitmap) for bitmap in bitmaps])
    return torch.cat(ends), torch.tensor(offsets), heights


def random_bitmaps(objects, height=90, width=110, seed=6):
    """Return (N, h, w) bool, unions of 0 to 3 ellipses."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([height, width])
    positions = torch.stack(
        torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1
    )
    bitmaps = torch.zeros(objects, height, width, dtype=torch.bool)
    for index in range(objects):
        for _ in range(index % 4):
            center = torch.rand(2, generator=generator) * extent
            radius = 2 + torch.rand(2, generator=generator) * extent / 3
            bitmaps[index] |= ((positions - center) / radius).square().sum(-1) < 1
    return bitmaps


def random_runs(objects, seed=6):
    """Run-length masks of `random_bitmaps`, as rasterize_rle takes them."""
    return encode_runs(random_bitmaps(objects, seed=seed))


def scored_anchors(images=2, per_level=(300, 80, 20), seed=6):
    """Return logits (some equal), deltas and anchors per level, and the limits of the images."""
    generator = torch.Generator().manual_seed(seed)
    logits = [
        torch.randint(-40, 40, (images, count), generator=generator) / 20 for count in per_level
    ]
    deltas = [0.5 * torch.randn(images, count, 4, generator=generator) for count in per_level]
    anchors = [
        random_boxes(count, largest=15.0 * 2**level, seed=seed + level) - 8
        for level, count in enumerate(per_level)
    ]
    sizes = torch.tensor([[100.0, 90.0], [80.0, 110.0]]).repeat(-(-images // 2), 1)[:images]
    return logits, deltas, anchors, torch.cat([sizes, sizes], 1)


def random_images(seed=7):
    """Return three (h, w, 3) uint8 images; the second is a view into wider rows."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((30, 40), (60, 90), (9, 9))
    images = [
        torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8) for size in sizes
    ]
    return [images[0], images[1][5:55, 3:83], images[2]]


# kernel, stride, padding and dilation of the convolution of `deformed_map`, rows before columns
DEFORM_GEOMETRY = [3, 3, 2, 2, 2, 1, 2, 1]


def deformed_map(groups=2, seed=0, dtype=torch.float32):
    """A map (2, 6, 9, 8), offsets and modulation; some taps are far outside."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 6, 9, 8, generator=generator, dtype=dtype)
    offsets = 3 * torch.randn(2, 18 * groups, 5, 4, generator=generator, dtype=dtype)
    modulation = torch.rand(2, 9 * groups, 5, 4, generator=generator, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last), offsets, modulation
