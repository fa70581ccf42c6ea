"""Damaged datasets of every format: nothing crashes, nothing is lost, all that is kept decodes.

``make fuzz`` runs 10,000 cases of each format instead of 100.
"""

import io
import json
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import storage
from pipeline.ingest.cityscapes import read_cityscapes
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.voc import read_voc
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.decoding import Decoding
from pipeline.stream.samples import sample_from_row
from tests.annotated_datasets import HEIGHT, WIDTH, all_rows, noise_image, quarantine_entries
from tests.pipeline.ingest.damage import damaged, fuzz, texts


def image_files():
    """Return images by name: good ones, turned, deep, damaged, and none at all."""
    files = {}

    def add(name, kind, image=None, **options):
        buffer = io.BytesIO()
        (image or noise_image(len(files))).save(buffer, kind, **options)
        files[name] = buffer.getvalue()

    add("1.jpg", "JPEG")
    add("2.png", "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    add("turned.jpg", "JPEG", exif=exif)
    add("deep.png", "PNG", Image.fromarray(np.full((HEIGHT, WIDTH), 60000, np.uint16)))
    add("dark.png", "PNG", Image.fromarray(np.full((HEIGHT, WIDTH), 60, np.uint16)))
    files["cut.jpg"] = files["1.jpg"][:-200]
    files["empty.jpg"] = b""
    files["text.jpg"] = b"not an image"
    return files


FILES = image_files()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def check(read, decoding=None):
    """Write the shards of a listing and check that every record is accounted for."""
    with tempfile.TemporaryDirectory() as folder:
        shards = f"{folder}/s"
        try:
            listing = read()
            manifest = write_shards(listing, shards, 4, 2, decoding or Decoding())
        except storage.StorageError as error:
            assert str(error)
            return None
        counts = manifest.counts
        assert counts["images_listed"] == counts["images"] + counts["images_quarantined"]
        kept = counts["objects"] + counts["crowd"]
        assert counts["annotations_listed"] == kept + counts["annotations_quarantined"]
        left_out = [entry for entry in quarantine_entries(shards) if not entry["corrected"]]
        quarantined = counts["images_quarantined"] + counts["annotations_quarantined"]
        assert len(left_out) == quarantined == sum(manifest.reasons.values())
        rows = all_rows(shards)
        assert len(rows) == counts["images"] == len({row.image_id for row in rows})
        assert sum(len(row.labels) for row in rows) == kept
        for row in rows:
            sample = sample_from_row(row, with_masks=True)
            boxes, corner = sample.targets.boxes.numpy(), np.array(row.size[::-1])
            assert np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes >= 0).all() and (boxes[:, 2:] <= corner).all()
            assert (row.area > 0).all() and np.isfinite(row.area).all()
        document = coco_ground_truth(shards)
        assert len(document["annotations"]) == kept
        return counts


SQUARE = [10, 10, 30, 10, 30, 25, 10, 25]


def coco_document():
    names = [*FILES, "missing.jpg"]
    segmentations = [
        [SQUARE],
        {"size": [HEIGHT, WIDTH], "counts": [405, 100, 1895]},
        [],
        [SQUARE] * 2,
    ]
    boxes = [[10, 10, 20, 15], [10, 5, 3, 40], [5, 5, 9, 9], [10, 10, 20, 15]]
    return {
        "images": [
            {"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for n, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": n % len(names),
                "category_id": n % 3,
                "bbox": boxes[n % 4],
                "segmentation": segmentations[n % 4],
                "area": 300,
                "iscrowd": int(n % 7 == 0),
                "keypoints": [1, 2, 2, 3, 4, 0],
            }
            for n in range(2 * len(names))
        ],
        "categories": [
            {"id": n, "name": f"class {n}", "keypoints": ["a", "b"], "skeleton": [[1, 2]]}
            for n in range(3)
        ],
    }


@fuzz
@given(damaged(coco_document()), st.sampled_from(["auto", "apply", "ignore"]))
def test_a_damaged_coco_file_loses_no_record(images, document, mode):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.json")
        path.write_text(json.dumps(document))
        counts = check(lambda: read_coco(str(path), str(images)), Decoding(mode))
    if counts is not None:
        assert counts["images_listed"] == len(document["images"])
        assert counts["annotations_listed"] == len(document["annotations"])


CITYSCAPES = {
    "imgHeight": HEIGHT,
    "imgWidth": WIDTH,
    "objects": [
        {"label": "car", "polygon": [[5, 5], [20, 5], [20, 20]]},
        {"label": "persongroup", "polygon": [[30, 5], [50, 5], [50, 30], [30, 30]]},
        {"label": "road", "polygon": [[0, 30], [59, 30], [59, 39]]},
        {"label": "bus", "polygon": [[40, 5], [58, 5], [58, 20]], "deleted": 0},
    ],
}


@fuzz
@given(st.lists(damaged(CITYSCAPES), min_size=1, max_size=3))
def test_a_damaged_cityscapes_file_loses_no_record(documents):
    with tempfile.TemporaryDirectory() as folder:
        for n, document in enumerate([CITYSCAPES, *documents]):
            annotation = Path(folder, f"gtFine/train/a/{n}_gtFine_polygons.json")
            image = Path(folder, f"leftImg8bit/train/a/{n}_leftImg8bit.png")
            for path in (annotation, image):
                path.parent.mkdir(parents=True, exist_ok=True)
            annotation.write_text(json.dumps(document))
            image.write_bytes(list(FILES.values())[1 + n % 4])
        counts = check(lambda: read_cityscapes(folder, "train"))
    assert counts is not None and counts["images_listed"] == len(documents) + 1


VOC = {
    "filename": ["1.jpg"],
    "size": [{"width": [WIDTH], "height": [HEIGHT], "depth": [3]}],
    "object": [
        {
            "name": ["cat"],
            "difficult": [0],
            "bndbox": [{"xmin": [5], "ymin": [5], "xmax": [20], "ymax": [20]}],
        },
        {"name": ["dog"], "bndbox": [{"xmin": [1], "ymin": [1], "xmax": [60], "ymax": [40]}]},
    ],
}


def xml(tag, content):
    """Return an element; lists are repeated elements, other values are text."""
    if not isinstance(content, dict):
        text = "" if content is None else str(content)
        return f"<{tag}>{escape(text)}</{tag}>"
    inner = "".join(
        xml(name, each)
        for name, values in content.items()
        if name.isidentifier()
        for each in (values if isinstance(values, list) else [values])
    )
    return f"<{tag}>{inner}</{tag}>"


@fuzz
@given(st.lists(damaged(VOC), min_size=1, max_size=3), st.lists(texts, max_size=3))
def test_a_damaged_voc_file_loses_no_record(documents, lines):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / part).mkdir(parents=True)
        names = [str(n) for n in range(len(documents) + 1)]
        for name, document in zip(names, [VOC, *documents], strict=True):
            text = xml("annotation", document)
            (root / f"Annotations/{name}.xml").write_bytes(text.encode("utf-8", "surrogatepass"))
            (root / f"JPEGImages/{name}.jpg").write_bytes(FILES["1.jpg"])
        image_list = "\n".join([*names, *lines]).encode("utf-8", "surrogatepass")
        (root / "ImageSets/Main/train.txt").write_bytes(image_list)
        counts = check(lambda: read_voc(folder, "train", 2012))
    assert counts is not None and counts["images"] >= 1
