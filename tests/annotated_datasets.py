"""Data sets of a few small pictures, written as VOC and Cityscapes lay them out."""

import json

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40


def picture(seed, size=(WIDTH, HEIGHT)):
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


def write_voc(root, images, image_set="trainval", kind="Main"):
    """A VOC folder.

    Args:
        root: the folder.
        images: name -> its objects, as of `voc_object`; or the whole XML text.
        image_set: name of the list.
        kind: folder of the list.
    """
    for folder in ("Annotations", "JPEGImages", f"ImageSets/{kind}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, (name, objects) in enumerate(images.items()):
        text = objects if isinstance(objects, str) else voc_xml(name, objects)
        (root / "Annotations" / f"{name}.xml").write_text(text)
        picture(seed).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets" / kind / f"{image_set}.txt").write_text("\n".join([*images, ""]))
    return root


def write_voc_masks(root, name, objects, classes):
    """The two pictures of masks, from (HEIGHT, WIDTH) arrays."""
    for folder, numbers in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        (root / folder).mkdir(exist_ok=True)
        image = Image.fromarray(numbers.astype(np.uint8), mode="P")
        image.putpalette([v for n in range(256) for v in (n, 255 - n, n)])
        image.save(root / folder / f"{name}.png")


def write_cityscapes(root, images, image_set="train"):
    """A Cityscapes folder; ``images``: CITY/NAME -> list of (label, polygon)."""
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
        picture(seed).save(image)
    return root


def rectangle(x1, y1, x2, y2):
    """The outline whose painted pixels are those from x1, y1 to x2, y2, both included."""
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
