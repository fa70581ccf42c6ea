"""Which detections of overlapping windows are the same object, and what becomes of them."""

import itertools

import pytest
import torch

from model import Detections
from model.config import TilesConfig
from model.inference.tile_join import join_windows
from model.inference.tile_layout import Window, tile_windows
from model.structures import ImageSize
from tests.model.inference.color_reader import runs_of

IMAGE = ImageSize(100, 180)
LEFT, RIGHT, WHOLE = Window(0, 0, 100, 100), Window(80, 0, 180, 100), Window(0, 0, 180, 100)
MERGE = TilesConfig(size=100)


def detect(*objects, masks=True, keypoints=False):
    """Return detections of rectangles: (x1, y1, x2, y2, score) or with a label as well."""
    boxes = torch.tensor([each[:4] for each in objects]).reshape(-1, 4)
    bitmaps = torch.zeros(len(objects), *IMAGE, dtype=torch.bool)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.tolist(), strict=True):
        bitmap[y1:y2, x1:x2] = True
    count = len(objects)
    return Detections(
        boxes=boxes.float(),
        scores=torch.tensor([each[4] for each in objects]),
        labels=torch.tensor([each[5] if len(each) > 5 else 1 for each in objects]).long(),
        masks=runs_of(list(bitmaps)) if masks else None,
        image_size=IMAGE,
        keypoints=torch.arange(count * 3.0).reshape(count, 1, 3) + boxes[:, :1, None]
        if keypoints
        else None,
    )


def join(left, right, windows=(LEFT, RIGHT), settings=MERGE):
    joined = join_windows([left, right], windows, settings)
    rows = zip(joined.boxes.tolist(), joined.scores.tolist(), strict=True)
    return [(*map(int, box), round(score, 4)) for box, score in rows], joined


def test_parts_of_an_object_are_united_with_the_best_score():
    found, joined = join(detect((20, 10, 100, 40, 0.6)), detect((80, 10, 170, 40, 0.8)))
    assert found == [(20, 10, 170, 40, 0.8)]
    assert joined.masks.areas().tolist() == [150 * 30]


def test_what_a_window_shows_whole_is_kept_instead_of_the_union():
    # The part is too wide by 5 rows: united, the mask would be too.
    found, joined = join(detect((60, 10, 100, 45, 0.9)), detect((85, 10, 120, 40, 0.5)))
    assert found == [(85, 10, 120, 40, 0.9)]
    assert joined.masks.areas().tolist() == [35 * 30]


def test_neighbors_that_overlap_little_stay_apart():
    found, _ = join(
        detect((60, 10, 100, 40, 0.9)),
        detect((80, 34, 140, 60, 0.8)),
    )
    assert found == [(60, 10, 100, 40, 0.9), (80, 34, 140, 60, 0.8)]


@pytest.mark.parametrize("masks", [True, False])
def test_a_poor_detection_over_two_objects_does_not_make_them_one(masks):
    two = detect((60, 10, 100, 30, 0.9), (60, 40, 100, 60, 0.8), masks=masks)
    blob = detect((80, 10, 100, 60, 0.1), masks=masks)
    found, joined = join(two, blob)
    assert found == [
        (60, 10, 100, 30, 0.9),
        (60, 40, 100, 60, 0.8),
        (80, 10, 100, 60, 0.1),
    ]
    assert not masks or joined.masks.areas().tolist() == [40 * 20, 40 * 20, 20 * 50]
    # If one window shows an object whole, a part that lies over it is dropped.
    found, _ = join(detect((82, 10, 96, 30, 0.9), masks=masks), blob, (WHOLE, RIGHT))
    assert found == [(82, 10, 96, 30, 0.9)]


def test_a_group_has_one_detection_of_a_window():
    two = detect((82, 10, 96, 30, 0.9), (82, 34, 96, 60, 0.8))
    blob = detect((80, 10, 100, 60, 0.1))
    found, _ = join(two, blob, (WHOLE, RIGHT))
    assert found == [(82, 10, 96, 30, 0.9), (82, 34, 96, 60, 0.8)]


def test_the_surest_of_two_candidates_is_joined():
    # Both overlap the object of the left window by half or more; only one can be it.
    left = detect((60, 10, 100, 40, 0.9))
    better, poorer = (80, 14, 140, 44, 0.8), (80, 10, 140, 38, 0.3)
    found, _ = join(left, detect(better, poorer))
    assert found == [(60, 10, 140, 44, 0.9), (80, 10, 140, 38, 0.3)]


def test_a_large_object_does_not_swallow_a_whole_one_in_front_of_it():
    large = detect((5, 5, 175, 95, 0.9))
    small = detect((120, 20, 140, 40, 0.8))
    assert len(join(large, small, (WHOLE, RIGHT))[0]) == 2


def test_objects_of_other_classes_and_of_the_same_window_stay_apart():
    one, other = (82, 10, 98, 40, 0.9, 1), (82, 10, 98, 40, 0.8, 2)
    assert len(join(detect(one), detect(other))[0]) == 2
    again = (83, 10, 98, 40, 0.7, 1)
    assert len(join(detect(one, again), detect())[0]) == 2
    assert join(detect(one), detect(again))[0] == [(82, 10, 98, 40, 0.9)]


def test_keypoints_are_those_of_the_kept_detection():
    left = detect((60, 10, 100, 40, 0.9), keypoints=True)
    right = detect((85, 10, 120, 40, 0.5), keypoints=True)
    _, joined = join(left, right)
    assert joined.keypoints.equal(right.keypoints)


def test_nms_keeps_the_better_of_two_boxes():
    settings = TilesConfig(size=100, join="nms", threshold=0.5)
    whole = detect((82, 10, 98, 40, 0.7), (20, 60, 100, 90, 0.6))
    again = detect((82, 11, 98, 40, 0.9), (80, 60, 160, 90, 0.5))
    found, joined = join(whole, again, settings=settings)
    assert found == [(82, 11, 98, 40, 0.9), (20, 60, 100, 90, 0.6), (80, 60, 160, 90, 0.5)]
    assert joined.masks.areas().tolist() == [16 * 29, 80 * 30, 80 * 30]


def test_a_thousand_objects_of_many_windows_are_compared_in_parts():
    image = ImageSize(1000, 1000)
    windows = tile_windows(image, 200, 0.5)
    everything = [(x, y, x + 20, y + 20) for x in range(0, 1000, 30) for y in range(0, 1000, 30)]
    parts = []
    for window in windows:
        cut = [
            (
                max(x1, window.left),
                max(y1, window.top),
                min(x2, window.right),
                min(y2, window.bottom),
            )
            for x1, y1, x2, y2 in everything
        ]
        boxes = torch.tensor([box for box in cut if box[0] < box[2] and box[1] < box[3]]).float()
        labels = torch.ones(len(boxes), dtype=torch.int64)
        parts.append(Detections(boxes, labels / 1.0, labels, None, image))
    joined = join_windows(parts, windows, MERGE)
    inside = [(x1, y1, min(x2, 1000), min(y2, 1000)) for x1, y1, x2, y2 in everything]
    assert sorted(map(tuple, joined.boxes.tolist())) == sorted(inside)


@pytest.mark.parametrize("length", [1, 99, 100, 101, 150, 1000])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
def test_tiles_cover_the_image_evenly_and_overlap_enough(length, overlap):
    windows = tile_windows(ImageSize(length, 37), 100, overlap)
    assert {(w.left, w.right) for w in windows} == {(0, 37)}
    assert windows[0].top == 0
    assert windows[-1].bottom == length
    assert {w.bottom - w.top for w in windows} == {min(100, length)}
    steps = [b.top - a.top for a, b in itertools.pairwise(windows)]
    assert all(0 < step <= 100 * (1 - overlap) + 1e-9 for step in steps)
    assert not steps or max(steps) - min(steps) <= 1
