"""Join the detections of overlapping windows of an image, so that every object is there once.

"merge" decides for each two detections of a class from different windows whether they are the same
object, by the part of the image that both windows show: there they must overlap, by IoU, or by the
intersection over the smaller area if one of them is cut. How far an object reaches beyond does not
matter, so the parts of one that is much larger than the overlap, or than a tile, are found to be
one too. The groups this gives are then reduced: if some window shows the object whole, the best
detection of those is kept; else the parts are united.

Shapes as in ``model.structures``; D detections of all windows, W windows, P pairs of detections.
Source: Akyon et al. 2022, which merges greedily by intersection over the smaller area, counted
over whole boxes or masks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.config import TilesConfig
from model.detections import Detections
from model.inference.tile_layout import Window
from model.structures import MaskRuns
from model.structures.mask_runs import join_mask_runs
from ops_cuda import batched_nms

# An object that ends this close to the border of a tile may continue: boxes are not exact.
_BORDER_SHARE = 1 / 64
_RUNS_AT_A_TIME = 500_000  # limits the memory of comparing masks


def join_windows(
    parts: Sequence[Detections], windows: Sequence[Window], settings: TilesConfig
) -> Detections:
    """Join the detections of windows of one image.

    Args:
        parts: those of each window, in pixels of the image, on the CPU; masks as `MaskRuns`.
        windows: the W windows.
        settings: how to join.
    """
    counts = torch.tensor([len(part) for part in parts])
    owners = torch.arange(len(parts)).repeat_interleave(counts)
    detections = _concatenate(parts)
    best_first = detections.scores.argsort(descending=True, stable=True)
    detections, owners = detections[best_first], owners[best_first]
    if settings.join == "nms":
        kept = batched_nms(
            detections.boxes, detections.scores, detections.labels, settings.threshold
        )
        return detections[kept]
    bounds = torch.tensor(windows)[owners]
    is_cut = _ends_at_a_border(detections, bounds)
    pairs = _same_objects(detections, owners, bounds, is_cut, settings.threshold)
    groups = _group(pairs, owners)
    return _reduce(detections, groups, is_cut)


def _concatenate(parts: Sequence[Detections]) -> Detections:
    masks = [part.masks for part in parts if isinstance(part.masks, MaskRuns)]
    points = [part.keypoints for part in parts if part.keypoints is not None]
    return replace(
        parts[0],
        boxes=torch.cat([part.boxes for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        masks=join_mask_runs(masks) if masks else None,
        keypoints=torch.cat(points) if points else None,
    )


def _ends_at_a_border(detections: Detections, bounds: Tensor) -> Tensor:
    """Return which objects a window may have cut, (D,) bool.

    Args:
        detections: those of all windows.
        bounds: (D, 4) int64, the window of each.
    """
    height, width = detections.image_size
    margin = ((bounds[:, 2:] - bounds[:, :2]) * _BORDER_SHARE).clamp(min=1)
    at_start = (bounds[:, :2] > 0) & (detections.boxes[:, :2] < bounds[:, :2] + margin)
    inside = bounds[:, 2:] < bounds.new_tensor([width, height])
    at_end = inside & (detections.boxes[:, 2:] > bounds[:, 2:] - margin)
    return (at_start | at_end).any(1)


def _same_objects(
    detections: Detections, owners: Tensor, bounds: Tensor, is_cut: Tensor, threshold: float
) -> Tensor:
    """Return the pairs of detections that are the same object, (P, 2) int64, surest first."""
    pairs, overlaps = [torch.zeros(0, 2, dtype=torch.int64)], [torch.zeros(0)]
    for first, second, shared in _near_pairs(detections, owners, bounds):
        # Of an object that one window shows whole, another may show a sliver, poorly: it only has
        # to lie inside. Two parts of an object must agree, or a poor one would enlarge the other.
        one_is_cut = is_cut[first] != is_cut[second]
        if isinstance(detections.masks, MaskRuns):
            overlap = _mask_overlaps(detections.masks, first, second, shared, one_is_cut, threshold)
        else:
            overlap = _box_overlaps(detections.boxes, first, second, shared, one_is_cut)
        same = (overlap > 0) & (overlap >= threshold)
        pairs.append(torch.stack([first, second], 1)[same])
        overlaps.append(overlap[same])
    found = torch.cat(pairs)
    found = found[torch.cat(overlaps).argsort(descending=True, stable=True)]
    return found[detections.scores[found].amin(1).argsort(descending=True, stable=True)]


def _near_pairs(
    detections: Detections, owners: Tensor, bounds: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the pairs of one class whose boxes meet in two windows, and what these share.

    Yields:
        (P,) int64 and (P,) int64, the detections of each pair, and (4,) int64, the part of the
        image that both windows show; once for each two windows.
    """
    boxes, labels = detections.boxes, detections.labels
    members = torch.split(owners.argsort(stable=True), owners.bincount().tolist())
    filled = [indices for indices in members if len(indices)]
    windows = bounds[torch.tensor([int(indices[0]) for indices in filled], dtype=torch.int64)]
    starts = windows[:, None, :2].maximum(windows[:, :2])
    ends = windows[:, None, 2:].minimum(windows[:, 2:])
    # Only windows that share a part are compared: of n tiles, about 4 n pairs.
    sharing = (ends > starts).all(2).triu(1).nonzero().tolist()
    for a, b in sharing:
        ours, theirs = filled[a], filled[b]
        shared = torch.cat([starts[a, b], ends[a, b]])
        near = _intersections(boxes[ours], shared[None])[:, None]
        meeting_start = near[..., :2].maximum(boxes[theirs][:, :2])
        meeting_end = near[..., 2:].minimum(boxes[theirs][:, 2:])
        meets = (meeting_end > meeting_start).all(2)
        rows, columns = (meets & (labels[ours][:, None] == labels[theirs])).nonzero().unbind(1)
        if len(rows):
            yield ours[rows], theirs[columns], shared


def _mask_overlaps(
    masks: MaskRuns,
    first: Tensor,
    second: Tensor,
    shared: Tensor,
    one_is_cut: Tensor,
    threshold: float,
) -> Tensor:
    """Return the overlap of P pairs of masks in ``shared``, (P,) float64; 0 below the threshold.

    Most pairs are left out by their areas and outermost pixels, without comparing their pixels.
    """
    a, index_a = _clip_each_once(masks, first, shared)
    b, index_b = _clip_each_once(masks, second, shared)
    area_a, area_b = a.areas()[index_a].double(), b.areas()[index_b].double()
    smaller, larger = area_a.minimum(area_b), area_a.maximum(area_b)
    meeting = _intersections(a.extents()[index_a], b.extents()[index_b])
    at_most = smaller.minimum(_box_areas(meeting))
    bound = at_most / torch.where(one_is_cut, smaller, larger).clamp(min=1e-6)
    common = torch.zeros_like(smaller)
    lengths = a.offsets.diff()[index_a] + b.offsets.diff()[index_b]
    for part in _split_by_runs((bound >= threshold).nonzero()[:, 0], lengths):
        number = torch.arange(len(part))
        both = join_mask_runs([a[index_a[part]], b[index_b[part]]])
        united = both.union(number.repeat(2), len(part)).areas()
        common[part] = area_a[part] + area_b[part] - united
    base = torch.where(one_is_cut, smaller, area_a + area_b - common)
    return common / base.clamp(min=1e-6)


def _clip_each_once(masks: MaskRuns, used: Tensor, shared: Tensor) -> tuple[MaskRuns, Tensor]:
    """Return the masks that are used, inside ``shared``, and the index of each use into them."""
    distinct, index = torch.unique(used, return_inverse=True)
    return masks[distinct].clipped(shared.expand(len(distinct), 4)), index


def _split_by_runs(pairs: Tensor, lengths: Tensor) -> Sequence[Tensor]:
    """Split pairs so that the masks of each part have a limited number of runs."""
    part_of = lengths[pairs].cumsum(0).div(_RUNS_AT_A_TIME, rounding_mode="floor")
    return torch.split(pairs, torch.unique_consecutive(part_of, return_counts=True)[1].tolist())


def _box_overlaps(
    boxes: Tensor, first: Tensor, second: Tensor, shared: Tensor, one_is_cut: Tensor
) -> Tensor:
    """Return the overlap of P pairs of boxes in ``shared``, (P,) float64."""
    boxes_a = _intersections(boxes[first], shared[None])
    boxes_b = _intersections(boxes[second], shared[None])
    area_a, area_b = _box_areas(boxes_a), _box_areas(boxes_b)
    common = _box_areas(_intersections(boxes_a, boxes_b))
    base = torch.where(one_is_cut, area_a.minimum(area_b), area_a + area_b - common)
    return common / base.clamp(min=1e-6)


def _box_areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).double().prod(1)


def _intersections(a: Tensor, b: Tensor) -> Tensor:
    """Return what boxes have in common, (P, 4); not a box where they do not meet."""
    return torch.cat([a[:, :2].maximum(b[:, :2]), a[:, 2:].minimum(b[:, 2:])], 1)


def _group(pairs: Tensor, owners: Tensor) -> Tensor:
    """Return the object of each detection, (D,) int64 from 0 by the best score.

    A group has at most one detection of a window: what one window shows as two objects is not one
    because a poor detection of another window overlaps both.

    Args:
        pairs: (P, 2) int64, surest first.
        owners: (D,) int64, the window of each detection.
    """
    group_of = list(range(len(owners)))
    members = {n: [n] for n in group_of}
    windows = [{owner} for owner in owners.tolist()]
    for first, second in pairs.tolist():
        kept, other = sorted((group_of[first], group_of[second]))
        if kept == other or windows[kept] & windows[other]:
            continue
        windows[kept] |= windows[other]
        for member in members[other]:
            group_of[member] = kept
        members[kept] += members.pop(other)
    groups = torch.tensor(group_of, dtype=torch.int64)
    # A group is named after its first detection, the best: counting the names keeps the order.
    return torch.unique(groups, return_inverse=True)[1] if len(groups) else groups


def _reduce(detections: Detections, groups: Tensor, is_cut: Tensor) -> Detections:
    """Return one detection per group, highest score first.

    Args:
        detections: D detections, highest score first.
        groups: (D,) int64, from `_group`.
        is_cut: (D,) bool, whether a window may show only a part of the object.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    index = torch.arange(len(groups))
    best = _first_of_each(groups, index, count)
    best_whole = _first_of_each(groups, index.masked_fill(is_cut, len(groups)), count)
    has_whole = best_whole < len(groups)
    used = torch.where(has_whole[groups], index == best_whole[groups], True)
    shown, group_of = detections[used], groups[used]
    result = detections[torch.where(has_whole, best_whole, best)]
    corners = group_of[:, None].expand(-1, 2)
    lows = shown.boxes.new_zeros(count, 2).scatter_reduce(
        0, corners, shown.boxes[:, :2], "amin", include_self=False
    )
    highs = shown.boxes.new_zeros(count, 2).scatter_reduce(
        0, corners, shown.boxes[:, 2:], "amax", include_self=False
    )
    return replace(
        result,
        boxes=torch.cat([lows, highs], 1),
        scores=detections.scores[best],
        masks=shown.masks.union(group_of, count) if isinstance(shown.masks, MaskRuns) else None,
    )


def _first_of_each(groups: Tensor, index: Tensor, count: int) -> Tensor:
    """Return the smallest index of each group, (count,) int64."""
    start = index.new_full((count,), len(groups))
    return start.scatter_reduce(0, groups, index, "amin")
