"""Laws of the synthetic data set."""

import json

import numpy as np
import pycocotools.mask as coco_masks
import pytest
from PIL import Image

from pipeline.ingest.shapes import SHAPE_CLASSES, draw_image, unit_outline
from pipeline.ingest.shapes_dataset import draw_shapes_dataset


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    annotations, images = draw_shapes_dataset(folder, images=40, side=96, max_objects=4, seed=5)
    return json.loads(annotations.read_text()), images


def test_pictures_and_annotations_repeat_for_the_same_seed_only():
    draw = [draw_image(64, 3, np.random.default_rng(seed)) for seed in (1, 1, 2)]
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
    assert {a["category_id"] for a in document["annotations"]} == set(
        range(1, len(SHAPE_CLASSES) + 1)
    )
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
        picture, shapes = draw_image(64, 1, np.random.default_rng(seed))
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
    assert [len(unit_outline(name)) for name in SHAPE_CLASSES] == [40, 4, 3, 10, 12]
    with pytest.raises(ValueError, match="no shape is called 'ring'"):
        unit_outline("ring")


def test_keypoints_are_the_outermost_points_and_known_where_they_are_covered(tmp_path):
    annotations, _ = draw_shapes_dataset(tmp_path, 20, 96, 5, seed=5, keypoints=True)
    document = json.loads(annotations.read_text())
    assert document["categories"][0]["keypoints"] == ["top", "left_side", "right_side", "bottom"]
    drawn = document["annotations"]
    seen = {1: 0, 2: 0}
    for number, annotation in enumerate(drawn):
        x1, y1, width, height = annotation["bbox"]
        points = np.array(annotation["keypoints"]).reshape(4, 3)
        x, y = points[:, 0] + 0.5, points[:, 1] + 0.5  # COCO counts pixels
        sides = [y[0], x[1], x[2], y[3]]
        assert sides == pytest.approx([y1, x1, x1 + width, y1 + height], abs=0.02)
        # A corner of the outline each, so inside the box in the other coordinate.
        assert ((x > x1 - 0.02) & (x < x1 + width + 0.02)).all()
        above = [a for a in drawn[number + 1 :] if a["image_id"] == annotation["image_id"]]
        masks = [coco_masks.frPyObjects(a["segmentation"], 96, 96)[0] for a in above]
        over = coco_masks.decode(coco_masks.merge(masks)) if masks else np.zeros((96, 96))
        for px, py, visibility in points.tolist():
            seen[visibility] += 1
            column, row = (min(95, int(v + 0.5)) for v in (px, py))
            near = over[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            if near.all() or not near.any():  # rasters may differ by the pixels of a border
                assert visibility == (1 if near.all() else 2)
    assert seen[1] > 10 and seen[2] > 100


def test_keypoints_change_nothing_else_of_the_pictures(tmp_path):
    bare, _ = draw_shapes_dataset(tmp_path / "a", 3, 48, 3, seed=2)
    pointed, _ = draw_shapes_dataset(tmp_path / "b", 3, 48, 3, seed=2, keypoints=True)
    with_points = json.loads(pointed.read_text())["annotations"]
    for annotation in with_points:
        del annotation["keypoints"], annotation["num_keypoints"]
    assert with_points == json.loads(bare.read_text())["annotations"]
    for name in ("000001.jpg", "000003.jpg"):
        assert (tmp_path / "a/images" / name).read_bytes() == (
            tmp_path / "b/images" / name
        ).read_bytes()
