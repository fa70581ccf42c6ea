"""The synthetic dataset is reproducible, and its annotations match its images."""

import json

import numpy as np
import pycocotools.mask as coco_masks
import pytest
from PIL import Image

from pipeline.ingest.shapes import SHAPE_CLASSES
from pipeline.ingest.shapes_dataset import draw_shapes_dataset


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    annotations, images = draw_shapes_dataset(folder, images=40, side=96, max_objects=4, seed=5)
    return json.loads(annotations.read_text()), images


def test_a_complete_dataset_is_kept_and_other_arguments_draw_it_again(tmp_path):
    annotations, _ = draw_shapes_dataset(tmp_path, 2, 32, 2, 0)
    first = annotations.stat().st_mtime_ns
    draw_shapes_dataset(tmp_path, 2, 32, 2, 0)
    assert annotations.stat().st_mtime_ns == first
    draw_shapes_dataset(tmp_path, 3, 32, 2, 0)
    assert len(json.loads(annotations.read_text())["images"]) == 3


def test_every_image_holds_one_to_max_objects_objects_of_the_documented_size(drawn):
    document, _ = drawn
    per_image = np.bincount([a["image_id"] for a in document["annotations"]], minlength=41)[1:]
    assert per_image.min() >= 1 and per_image.max() <= 4
    boxes = np.array([a["bbox"] for a in document["annotations"]])
    longer_sides = boxes[:, 2:].max(1)
    assert (longer_sides >= 0.20 * 96 - 0.02).all() and (longer_sides <= 0.55 * 96 + 0.02).all()
    assert boxes.min() >= 0 and (boxes[:, :2] + boxes[:, 2:]).max() <= 96 + 0.02


def test_all_classes_occur_and_boxes_and_areas_match_the_outlines(drawn):
    document, _ = drawn
    class_count = len(SHAPE_CLASSES)
    assert {a["category_id"] for a in document["annotations"]} == set(range(1, class_count + 1))
    for annotation in document["annotations"]:
        outline = np.array(annotation["segmentation"][0]).reshape(-1, 2)
        x, y, width, height = annotation["bbox"]
        assert np.allclose(outline.min(0), [x, y])
        assert np.allclose(outline.max(0), [x + width, y + height], atol=0.02)
        encoded = coco_masks.frPyObjects(annotation["segmentation"], 96, 96)
        # A rasterized area differs from the exact one by at most about half the border pixels.
        border = np.linalg.norm(np.diff(outline, axis=0, append=outline[:1]), axis=1).sum()
        assert abs(coco_masks.area(encoded)[0] - annotation["area"]) <= 0.6 * border + 1


def test_color_does_not_reveal_the_class(drawn):
    """The mean color of each class differs from that of all by no more than chance."""
    document, folder = drawn
    colors = {category_id: [] for category_id in range(1, 6)}
    for annotation in document["annotations"]:
        image = np.asarray(Image.open(folder / f"{annotation['image_id']:06d}.jpg"))
        mask = coco_masks.decode(coco_masks.frPyObjects(annotation["segmentation"], 96, 96))
        colors[annotation["category_id"]].append(image[mask[..., 0] > 0].mean(0))
    all_colors = np.concatenate([np.array(of_class) for of_class in colors.values()])
    for of_class in colors.values():
        difference = np.abs(np.mean(of_class, 0) - all_colors.mean(0))
        assert (difference < 4 * all_colors.std(0) / np.sqrt(len(of_class))).all()


def test_keypoints_are_the_outermost_points_and_hidden_where_covered(tmp_path):
    annotations, _ = draw_shapes_dataset(tmp_path, 20, 96, 5, seed=5, keypoints=True)
    document = json.loads(annotations.read_text())
    assert document["categories"][0]["keypoints"] == ["top", "left_side", "right_side", "bottom"]
    objects = document["annotations"]
    counts = {1: 0, 2: 0}
    for number, annotation in enumerate(objects):
        x1, y1, width, height = annotation["bbox"]
        points = np.array(annotation["keypoints"]).reshape(4, 3)
        x, y = points[:, 0] + 0.5, points[:, 1] + 0.5  # from COCO's pixel indices
        sides = [y[0], x[1], x[2], y[3]]
        assert sides == pytest.approx([y1, x1, x1 + width, y1 + height], abs=0.02)
        # Each is a vertex of the outline, so its other coordinate is inside the box.
        assert ((x > x1 - 0.02) & (x < x1 + width + 0.02)).all()
        above = [a for a in objects[number + 1 :] if a["image_id"] == annotation["image_id"]]
        masks = [coco_masks.frPyObjects(a["segmentation"], 96, 96)[0] for a in above]
        cover = coco_masks.decode(coco_masks.merge(masks)) if masks else np.zeros((96, 96))
        for px, py, visibility in points.tolist():
            counts[visibility] += 1
            column, row = (min(95, int(v + 0.5)) for v in (px, py))
            near = cover[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            if near.all() or not near.any():  # rasterizers may disagree on border pixels
                assert visibility == (1 if near.all() else 2)
    assert counts[1] > 10 and counts[2] > 100


def test_keypoints_change_nothing_else(tmp_path):
    without, _ = draw_shapes_dataset(tmp_path / "a", 3, 48, 3, seed=2)
    with_keypoints, _ = draw_shapes_dataset(tmp_path / "b", 3, 48, 3, seed=2, keypoints=True)
    annotations = json.loads(with_keypoints.read_text())["annotations"]
    for annotation in annotations:
        del annotation["keypoints"], annotation["num_keypoints"]
    assert annotations == json.loads(without.read_text())["annotations"]
    for name in ("000001.jpg", "000003.jpg"):
        first, second = (tmp_path / folder / "images" / name for folder in "ab")
        assert first.read_bytes() == second.read_bytes()
