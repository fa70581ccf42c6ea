"""Tiny annotated datasets in the layouts of COCO, VOC and Cityscapes, and their shards."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows

WIDTH, HEIGHT = 60, 40
CROWD = {"size": [48, 48], "counts": [1000, 500, 804]}


@dataclass(frozen=True)
class DrawnCoco:
    """A drawn COCO dataset of 12 images of 48 px; tests edit ``document`` before writing shards."""

    document: dict
    annotations: Path
    images: Path

    def write_shards(self, folder, rows_per_shard=5, rows_per_group=2):
        self.annotations.write_text(json.dumps(self.document))
        listing = read_coco(str(self.annotations), str(self.images))
        return write_shards(listing, str(folder), rows_per_shard, rows_per_group)


def draw_coco(folder, keypoints=False):
    annotations, images = draw_shapes_dataset(folder, 12, 48, 3, seed=3, keypoints=keypoints)
    return DrawnCoco(json.loads(annotations.read_text()), annotations, images)


def add_invalid_records(source):
    """Add records to a `DrawnCoco` that are invalid for each reason; return the expected counts."""
    document = source.document
    first, second, third, fourth = document["images"][:4]
    of_image = {i: [a for a in document["annotations"] if a["image_id"] == i] for i in range(1, 13)}
    path = source.images / first["file_name"]
    path.write_bytes(path.read_bytes()[:-300])
    (source.images / second["file_name"]).unlink()
    third["width"] = 50
    document["images"].append({**fourth, "file_name": "again.jpg"})
    document["images"].append({"id": 99, "file_name": ""})
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != 5]
    changes = [
        {"bbox": [-5, 10, 20, 20], "segmentation": []},  # clipped
        {"bbox": [60, 10, 5, 5]},
        {"bbox": [3, 3, 0, 9]},
        {"category_id": 77},
        {"image_id": 12345},
        {**of_image[4][0]},  # listed twice
        {"bbox": [1, float("nan"), 4, 4]},
        {"segmentation": [[1, 2]]},
        {"segmentation": CROWD, "bbox": [20, 0, 12, 48], "iscrowd": 1},  # valid
        {"id": None, "bbox": "none"},
    ]
    document["annotations"] += [
        of_image[6][0] | {"id": number} | change for number, change in enumerate(changes, 1001)
    ]
    return {
        "truncated or unreadable image": 1,
        "missing image file": 1,
        "image size differs from annotations": 1,
        "image quarantined": len(of_image[1]) + len(of_image[2]) + len(of_image[3]),
        "duplicate image id": 1,
        "malformed image record": 1,
        "box outside its image": 1,
        "degenerate box": 1,
        "unknown category": 1,
        "unknown image id": 1,
        "annotation listed twice": 1,
        "non-finite coordinates": 1,
        "invalid polygon": 1,
        "malformed annotation": 1,
    }


def all_rows(shards_url):
    files = read_manifest(str(shards_url)).files
    return [row for file in files for row in read_rows(str(shards_url), file.name)]


def quarantine_entries(shards_url):
    lines = storage.read_bytes(storage.join(str(shards_url), "quarantine.jsonl")).decode()
    return [json.loads(line) for line in lines.splitlines()]


def noise_image(seed, size=(WIDTH, HEIGHT)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def voc_object(name, xmin, ymin, xmax, ymax, difficult=0, extra=""):
    return f"""
  <object>
    <name>{name}</name><pose>Left</pose><truncated>0</truncated>
    <difficult>{difficult}</difficult>{extra}
    <bndbox><xmax>{xmax}</xmax><xmin>{xmin}</xmin><ymax>{ymax}</ymax><ymin>{ymin}</ymin></bndbox>
  </object>"""


def voc_xml(name, objects, head="", size=(WIDTH, HEIGHT)):
    return f"""{head}<annotation>
  <folder>VOC2007</folder><filename>{name}.jpg</filename>
  <size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>
  <segmented>0</segmented>{"".join(objects)}
</annotation>"""


_PERSON_HEAD = """
    <part><name>head</name>
      <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"""

VOC_IMAGES = {
    "000005": [voc_object("chair", 11, 6, 30, 25), voc_object("person", 1, 1, 60, 40)],
    "000007": [
        voc_object("car", 3.5, 4, 20, 9, difficult=1),
        voc_object("person", 21, 11, 40, 30, extra=_PERSON_HEAD),
    ],
    "000009": [],
}


def write_voc(root, images, image_set="trainval", kind="Main"):
    """Write a VOC dataset and return its folder.

    Args:
        root: the folder.
        images: name -> its objects from `voc_object`, or the whole XML text.
        image_set: name of the image list.
        kind: folder of the image list.
    """
    for folder in ("Annotations", "JPEGImages", f"ImageSets/{kind}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, (name, objects) in enumerate(images.items()):
        text = objects if isinstance(objects, str) else voc_xml(name, objects)
        (root / "Annotations" / f"{name}.xml").write_text(text)
        noise_image(seed).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets" / kind / f"{image_set}.txt").write_text("\n".join([*images, ""]))
    return root


def write_voc_masks(root, name, objects, classes):
    """Write the two mask files of an image from (HEIGHT, WIDTH) arrays."""
    for folder, numbers in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        (root / folder).mkdir(exist_ok=True)
        image = Image.fromarray(numbers.astype(np.uint8), mode="P")
        image.putpalette([v for n in range(256) for v in (n, 255 - n, n)])
        image.save(root / folder / f"{name}.png")


def write_cityscapes(root, images, image_set="train"):
    """Write a Cityscapes dataset of CITY/NAME -> list of (label, polygon); return its folder."""
    for seed, (name, objects) in enumerate(images.items()):
        annotation = root / "gtFine" / image_set / f"{name}_gtFine_polygons.json"
        image = root / "leftImg8bit" / image_set / f"{name}_leftImg8bit.png"
        for path in (annotation, image):
            path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "imgHeight": HEIGHT,
            "imgWidth": WIDTH,
            "objects": [{"label": label, "polygon": polygon} for label, polygon in objects],
        }
        annotation.write_text(json.dumps(document))
        noise_image(seed).save(image)
    return root


def rectangle(x1, y1, x2, y2):
    """Return the polygon whose painted pixels are x1, y1 to x2, y2, both inclusive."""
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
