"""A drawn image shows its shapes where their outlines and keypoints say."""

import numpy as np
import pycocotools.mask as coco_masks
import pytest

from pipeline.ingest.shapes import SHAPE_CLASSES, draw_image, unit_outline


def test_images_repeat_for_the_same_seed_only():
    first, same, other = (draw_image(64, 3, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_outline_of_a_shape_is_where_its_color_begins():
    """The mean color of a single shape differs from that of the background."""
    contrasting = 0
    for seed in range(30):
        image, shapes = draw_image(64, 1, np.random.default_rng(seed))
        [shape] = shapes
        mask = coco_masks.decode(coco_masks.frPyObjects([shape.outline.ravel().tolist()], 64, 64))
        inside = mask[..., 0].astype(bool)
        contrast = image[inside].mean(0) - image[~inside].mean(0)
        contrasting += np.linalg.norm(contrast) > 40
    assert contrasting >= 28


def test_unit_outlines_have_the_vertices_of_their_class():
    assert [len(unit_outline(name)) for name in SHAPE_CLASSES] == [40, 4, 3, 10, 12]
    with pytest.raises(ValueError, match="unknown shape 'ring'"):
        unit_outline("ring")
