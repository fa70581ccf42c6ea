"""Laws of the synthetic data set."""

import json

import numpy as np
import pycocotools.mask as coco_masks
import pytest
from PIL import Image

from pipeline.ingest.shapes import CLASSES, draw_picture, draw_shapes_dataset, unit_outline


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    annotations, images = draw_shapes_dataset(folder, images=40, side=96, max_objects=4, seed=5)
    return json.loads(annotations.read_text()), images


def test_pictures_and_annotations_repeat_for_the_same_seed_only():
    draw = [draw_picture(64, 3, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draw[0][0], draw[1][0])
    assert not np.array_equal(draw[0][0], draw[2][0])


def test_a_finished_data_set_is_left_alone_and_another_recipe_draws_anew(tmp_path):
    annotations, _ = draw_shapes_dataset(tmp_path, 2, 32, 2, 0)
    first = annotations.stat().st_mtime_ns
    draw_shapes_dataset(tmp_path, 2, 32, 2, 0)
    assert annotations.stat().st_mtime_ns == first
    draw_shapes_dataset(tmp_path, 3, 32, 2, 0)
    assert len(json.loads(annotations.read_text())["images"]) == 3


def test_every_image_has_objects_inside_it_of_the_promised_size(drawn):
    document, _ = drawn
    per_image = np.bincount([a["image_id"] for a in document["annotations"]], minlength=41)[1:]
    assert per_image.min() >= 1 and per_image.max() <= 4
    boxes = np.array([a["bbox"] for a in document["annotations"]])
    sides = boxes[:, 2:].max(1)
    assert (sides >= 0.20 * 96 - 0.02).all() and (sides <= 0.55 * 96 + 0.02).all()
    assert boxes.min() >= 0 and (boxes[:, :2] + boxes[:, 2:]).max() <= 96 + 0.02


def test_all_classes_occur_and_boxes_and_areas_follow_the_outlines(drawn):
    document, _ = drawn
    assert {a["category_id"] for a in document["annotations"]} == set(range(1, len(CLASSES) + 1))
    for annotation in document["annotations"]:
        outline = np.array(annotation["segmentation"][0]).reshape(-1, 2)
        x, y, width, height = annotation["bbox"]
        assert np.allclose(outline.min(0), [x, y])
        assert np.allclose(outline.max(0), [x + width, y + height], atol=0.02)
        encoded = coco_masks.frPyObjects(annotation["segmentation"], 96, 96)
        # Pixels of a raster and the exact area differ by at most about the border.
        border = np.linalg.norm(np.diff(outline, axis=0, append=outline[:1]), axis=1).sum()
        assert abs(coco_masks.area(encoded)[0] - annotation["area"]) <= 0.6 * border + 1


def test_the_outline_is_where_the_picture_changes():
    """Erasing the noise: inside a lone object's outline the colour is not the ground's."""
    found = 0
    for seed in range(30):
        picture, shapes = draw_picture(64, 1, np.random.default_rng(seed))
        [shape] = shapes
        mask = coco_masks.decode(coco_masks.frPyObjects([shape.outline.ravel().tolist()], 64, 64))
        inside = mask[..., 0].astype(bool)
        contrast = picture[inside].mean(0) - picture[~inside].mean(0)
        found += np.linalg.norm(contrast) > 40
    assert found >= 28


def test_colour_does_not_tell_the_class(drawn):
    """Class means of the objects' colours differ no more than chance would have them."""
    document, folder = drawn
    colours = {kind: [] for kind in range(1, 6)}
    for annotation in document["annotations"]:
        image = np.asarray(Image.open(folder / f"{annotation['image_id']:06d}.jpg"))
        mask = coco_masks.decode(coco_masks.frPyObjects(annotation["segmentation"], 96, 96))
        colours[annotation["category_id"]].append(image[mask[..., 0] > 0].mean(0))
    everything = np.concatenate([np.array(each) for each in colours.values()])
    for each in colours.values():
        off = np.abs(np.mean(each, 0) - everything.mean(0))
        assert (off < 4 * everything.std(0) / np.sqrt(len(each))).all()


def test_unit_outlines_have_the_corners_of_their_name():
    assert [len(unit_outline(name)) for name in CLASSES] == [40, 4, 3, 10, 12]
    with pytest.raises(ValueError, match="no shape is called 'ring'"):
        unit_outline("ring")
