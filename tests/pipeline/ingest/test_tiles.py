"""Tiles of large images: exact pixels and masks, cut objects, ids, counts and shards."""

import io
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from model.images.decode import decode_image
from pipeline.config import DataConfig, RunConfig
from pipeline.config.data_tiles import DataTilesConfig
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_check import check_shards
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.splits import prepare_split
from pipeline.ingest.tiles import cut_row
from pipeline.shards.aspect_bins import aspect_bins
from pipeline.shards.manifest import read_manifest
from tests.annotated_datasets import all_rows, noise_image

WIDTH, HEIGHT = 90, 70
COORDINATES = st.floats(-10, 100).map(lambda value: round(value, 2))
POLYGONS = st.lists(
    st.lists(COORDINATES, min_size=6, max_size=12).filter(lambda flat: len(flat) % 2 == 0),
    min_size=1,
    max_size=2,
)


def encode(segmentation, height, width):
    """Return the bitmap of polygons or compressed counts, as pycocotools paints it."""
    if isinstance(segmentation, str):
        encoded = {"size": [height, width], "counts": segmentation}
    else:
        parts = coco_mask.frPyObjects([list(part) for part in segmentation], height, width)
        encoded = coco_mask.merge(parts)
    return coco_mask.decode(encoded).astype(bool)


def make_row(segmentations, boxes, iscrowd=None, keypoints=None):
    count = len(segmentations)
    file = io.BytesIO()
    noise_image(1, (WIDTH, HEIGHT)).save(file, format="PNG")
    return {
        "image_bytes": file.getvalue(),
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 7,
        "file_name": "sub/aerial.jpg",
        "boxes": boxes,
        "labels": [1 + n % 3 for n in range(count)],
        "polygons": [() if isinstance(each, str | None) else each for each in segmentations],
        "rle": [each if isinstance(each, str) else None for each in segmentations],
        "iscrowd": iscrowd or [False] * count,
        "area": [1234.5] * count,
        "annotation_id": [100 + n for n in range(count)],
        "keypoints": keypoints,
        "orientation": 1,
        "bit_depth": None,
        "source_image_id": None,
        "source_annotation_id": [None] * count,
    }


def corner(row):
    """Return x, y of a tile in its image."""
    return tuple(int(part) for part in row["file_name"].removesuffix(".png").split("_")[-2:])


def tiles_of(row, counts=None, **changes):
    tiles = DataTilesConfig(**{"size": 40, "overlap": 0.2, "min_kept": 0.0} | changes)
    return list(cut_row(row, 3, tiles, Counter() if counts is None else counts))


@settings(max_examples=40, deadline=None)
@given(st.lists(POLYGONS, min_size=1, max_size=3), st.integers(0, 2**20), st.sampled_from([0, 0.3]))
def test_masks_and_pixels_of_tiles_pasted_together_are_those_of_the_image(polygons, seed, overlap):
    noise = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.3
    run_lengths = coco_mask.encode(np.asfortranarray(noise.astype(np.uint8)))["counts"].decode()
    segmentations = [*polygons, run_lengths]
    masks = [encode(each, HEIGHT, WIDTH) for each in segmentations]
    row = make_row(segmentations, [[0, 0, WIDTH, HEIGHT]] * len(masks))
    pasted = np.zeros((len(masks), HEIGHT, WIDTH), bool)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for tile in tiles_of(row, overlap=overlap):
        x, y = corner(tile)
        height, width = tile["height"], tile["width"]
        window = (slice(y, y + height), slice(x, x + width))
        pixels[window] = decode_image(tile["image_bytes"])
        for n, source_id in enumerate(tile["source_annotation_id"]):
            index = int(source_id) - 100
            if masks[index].any():  # a polygon may be too thin to have a pixel
                part = encode(tile["rle"][n] or tile["polygons"][n], height, width)
                assert np.array_equal(part, masks[index][window])
                assert part.any()
                pasted[index][window] |= part
    for whole, mask in zip(pasted, masks, strict=True):
        assert np.array_equal(whole, mask)
    assert np.array_equal(pixels, decode_image(row["image_bytes"]))


def test_polygons_that_would_paint_other_pixels_in_a_tile_become_run_lengths():
    # Moved by 25, a vertex on the border of pycocotools' grid is rounded to its other side.
    polygon = [[27.8, 35.4, 32.8, 30.0, 32.3, 37.6, 38.1, 30.7]]
    row = make_row([polygon], [[27.8, 30.0, 38.1, 37.6]])
    [tile] = [each for each in tiles_of(row, overlap=0) if corner(each) == (25, 0)]
    assert tile["polygons"] == [()]
    part = encode(tile["rle"][0], tile["height"], tile["width"])
    assert np.array_equal(part, encode(polygon, HEIGHT, WIDTH)[:40, 25:65])


SQUARE = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]
CUT = [[30.0, 10.0, 50.0, 10.0, 50.0, 30.0, 30.0, 30.0]]


def test_whole_objects_keep_their_polygons_and_cut_ones_have_tight_boxes():
    row = make_row([SQUARE, CUT, None], [[10, 10, 30, 30], [30, 10, 50, 30], [20, 5, 60, 15]])
    tiles = {corner(tile): tile for tile in tiles_of(row, overlap=0)}
    first = tiles[0, 0]
    assert first["source_annotation_id"] == ["100", "101", "102"]
    assert first["polygons"] == [(tuple(SQUARE[0]),), (), ()]
    assert first["rle"][0] is None is first["rle"][2]
    assert first["boxes"] == [[10, 10, 30, 30], [30, 10, 40, 30], [20, 5, 40, 15]]
    # The area of a whole object is the annotated one; of a part, its pixels or its share.
    assert first["area"] == [1234.5, 200.0, 1234.5 / 2]
    second = tiles[25, 0]
    assert second["source_annotation_id"] == ["100", "101", "102"]
    assert second["polygons"][1] == ((5.0, 10.0, 25.0, 10.0, 25.0, 30.0, 5.0, 30.0),)
    assert second["boxes"] == [[0, 10, 5, 30], [5, 10, 25, 30], [0, 5, 35, 15]]


@pytest.mark.parametrize("smaller_parts", ["ignore", "drop"])
def test_small_parts_are_ignored_or_left_out(smaller_parts):
    row = make_row([CUT, SQUARE], [[30, 10, 50, 30], [10, 10, 30, 30]], iscrowd=[False, True])
    counts = Counter()
    tiles = tiles_of(row, counts, overlap=0, min_kept=0.6, smaller_parts=smaller_parts)
    [first, second] = [tile for tile in tiles if tile["labels"] and corner(tile)[1] == 0][:2]
    kept = smaller_parts == "ignore"
    # Half of the object is in the first tile; crowd regions are cut, however little remains.
    assert first["iscrowd"] == ([True, True] if kept else [True])
    assert second["iscrowd"] == [False, True]
    assert all(first["rle"])
    name = "tile_parts_ignored" if kept else "tile_parts_dropped"
    assert (counts[name], counts["tile_objects"]) == (1, 1)


def test_keypoints_outside_of_a_tile_are_unlabeled():
    points = [(12.5, 10.5, 2.0, 45.5, 12.5, 1.0, 0.0, 0.0, 0.0)]
    row = make_row([None], [[10, 5, 50, 20]], keypoints=points)
    tiles = {corner(tile): tile for tile in tiles_of(row, overlap=0)}
    assert tiles[0, 0]["keypoints"] == [(12.5, 10.5, 2.0) + (0.0,) * 6]
    assert tiles[25, 0]["keypoints"] == [(0.0,) * 3 + (20.5, 12.5, 1.0) + (0.0,) * 3]


def test_empty_tiles_are_kept_or_dropped():
    row = make_row([SQUARE], [[10, 10, 30, 30]])
    counts = Counter()
    everything = tiles_of(row, overlap=0)
    assert len(everything) == 6
    assert len(tiles_of(row, counts, overlap=0, empty_tiles="drop")) == 2
    assert (counts["tiles"], counts["tiles_dropped"]) == (2, 4)


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    """Twelve images of 100 pixels with shapes, two of them cut down to 40 x 100."""
    folder = tmp_path_factory.mktemp("large")
    annotations, images = draw_shapes_dataset(folder, 12, 100, 4, seed=5)
    document = json.loads(annotations.read_text())
    for record in document["images"][:2]:
        path = images / record["file_name"]
        Image.open(path).crop((0, 0, 40, 100)).save(path)
        record["width"] = 40
        gone = {record["id"]}
        document["annotations"] = [
            each for each in document["annotations"] if each["image_id"] not in gone
        ]
    annotations.write_text(json.dumps(document))
    return read_coco(str(annotations), str(images))


def test_shards_of_tiles_have_new_ids_old_names_and_counts(listing, tmp_path):
    url = str(tmp_path / "shards")
    tiles = DataTilesConfig(size=64, overlap=0.25)
    manifest = write_shards(listing, url, 16, 4, tiles=tiles)
    rows = all_rows(url)
    assert len(rows) == 10 * 4 + 2 * 2 == manifest.counts["tiles"] == manifest.rows
    assert len({row.image_id for row in rows}) == len(rows)
    ids = [number for row in rows for number in row.annotation_id.tolist()]
    assert len(set(ids)) == len(ids) > 0
    by_image = defaultdict(set)
    for row in rows:
        by_image[row.source_image_id].add(row.file_name)
    assert sorted(map(len, by_image.values())) == [2, 2, *[4] * 10]
    assert set(by_image) == {json.dumps(image.image_id) for image in listing.images}
    counts = manifest.counts
    assert counts["images"] == 12
    assert counts["objects"] == counts["annotations_listed"]
    assert counts["tile_objects"] == sum(int((~row.iscrowd).sum()) for row in rows)
    assert counts["tile_parts_ignored"] == sum(int(row.iscrowd.sum()) for row in rows) > 0
    assert f"cut into 44 tiles with {counts['tile_objects']} objects" in manifest.summary()
    for file in manifest.files:
        assert file.rows <= 16
        for group in np.split(aspect_bins(file.sizes), np.cumsum(file.row_groups)[:-1]):
            assert len(set(group.tolist())) == 1
    assert sum(file.row_groups.count(4) for file in manifest.files) >= 8
    check_shards([url])


def test_shards_are_written_again_if_the_tiles_change(listing, tmp_path):
    url = str(tmp_path / "shards")
    whole = write_shards(listing, url, 16, 4)
    tiled = write_shards(listing, url, 16, 4, tiles=DataTilesConfig(size=64))
    assert (whole.rows, tiled.rows) == (12, 44)
    other = write_shards(listing, url, 16, 4, tiles=DataTilesConfig(size=64, min_kept=0.9))
    assert other.counts["tile_objects"] < tiled.counts["tile_objects"]
    again = write_shards(listing, url, 16, 4, tiles=DataTilesConfig(size=64, min_kept=0.9))
    assert again == other == read_manifest(url)


def test_images_that_fit_into_a_tile_are_stored_as_they_are(listing, tmp_path):
    plain = {}
    for name, tiles in [("whole", None), ("tiles", DataTilesConfig(size=100))]:
        manifest = write_shards(listing, str(tmp_path / name), 16, 4, tiles=tiles)
        plain[name] = sorted(all_rows(tmp_path / name), key=lambda row: row.file_name)
    assert manifest.counts["images_not_cut"] == 12
    for one, other in zip(plain["whole"], plain["tiles"], strict=True):
        assert one.image_bytes == other.image_bytes
        assert one.boxes.tolist() == other.boxes.tolist()
        assert json.dumps(one.image_id) == other.source_image_id
        assert [json.dumps(n) for n in one.annotation_id.tolist()] == list(
            other.source_annotation_id
        )


@pytest.mark.parametrize(("val", "rows"), [(False, 3), (True, 12)])
def test_validation_images_stay_whole_unless_asked(tmp_path, val, rows):
    shapes = {"images": 5, "val_images": 3, "side": 96}
    data = DataConfig(shapes=shapes, tiles={"size": 64, "val": val})
    config = RunConfig(output=str(tmp_path), data=data)
    assert prepare_split(config, "train").rows == 20
    assert prepare_split(config, "val").rows == rows


def test_existing_shards_are_not_cut():
    part = {"shards": "somewhere"}
    with pytest.raises(ValueError, match=r"data.tiles cuts images of a dataset"):
        DataConfig(source="shards", train=part, val=part, tiles={})
