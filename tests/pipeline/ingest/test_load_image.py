"""Images are turned as their EXIF data and their annotations say, in every job alike."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from model.images.decode import STORED, decode_image
from model.structures import ImageSize
from pipeline.infer.input_image import InputImage
from pipeline.ingest.coco import read_coco
from pipeline.ingest.load_image import validate_image
from pipeline.ingest.rejects import InvalidRecordError
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.decoding import Decoding
from pipeline.stream.samples import sample_from_row
from tests.annotated_datasets import all_rows, draw_coco, noise_image
from tests.pipeline.infer.folder_jobs import input_images

STORED_SIZE, UPRIGHT_SIZE = ImageSize(40, 60), ImageSize(60, 40)


def jpeg(orientation, size=(60, 40)):
    image = noise_image(0, size)
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "orientation", "annotated", "used", "unclear"),
    [
        ("auto", 6, UPRIGHT_SIZE, 6, False),
        ("auto", 8, UPRIGHT_SIZE, 8, False),
        ("auto", 6, STORED_SIZE, STORED, False),
        ("auto", 3, STORED_SIZE, STORED, True),
        ("auto", 6, None, STORED, True),
        ("auto", 1, None, STORED, False),
        ("auto", 1, STORED_SIZE, STORED, False),
        ("apply", 6, UPRIGHT_SIZE, 6, False),
        ("apply", 3, STORED_SIZE, 3, False),
        ("apply", 6, None, 6, False),
        ("ignore", 6, STORED_SIZE, STORED, False),
        ("ignore", 6, None, STORED, False),
    ],
)
def test_an_image_is_turned_where_its_annotations_agree(
    mode, orientation, annotated, used, unclear
):
    data = jpeg(orientation)
    geometry = validate_image(data, annotated, Decoding(mode))
    assert (geometry.orientation, geometry.unclear) == (used, unclear)
    assert decode_image(data, used).shape[:2] == geometry.size


@pytest.mark.parametrize(
    ("mode", "annotated"),
    [("auto", ImageSize(41, 60)), ("apply", STORED_SIZE), ("ignore", UPRIGHT_SIZE)],
)
def test_an_image_whose_size_does_not_agree_is_refused(mode, annotated):
    with pytest.raises(InvalidRecordError, match="image size differs"):
        validate_image(jpeg(6), annotated, Decoding(mode))


def test_an_image_that_is_square_or_upside_down_fits_both_ways():
    square = jpeg(6, (40, 40))
    assert validate_image(square, ImageSize(40, 40), Decoding("auto")).unclear


@pytest.fixture
def phone_source(tmp_path):
    """A drawn dataset whose first image is stored on its side, as phones store upright photos."""
    source = draw_coco(tmp_path / "source")
    for image in source.document["images"]:
        path = source.images / image["file_name"]
        upright = Image.open(path).convert("RGB").crop((0, 0, 48, 40))
        turned = image["id"] == 1
        stored = upright.transpose(Image.Transpose.ROTATE_90) if turned else upright
        exif = stored.getexif()
        exif[0x0112] = 6 if turned else 1
        stored.save(path, "JPEG", exif=exif, quality=100, subsampling=0)
        image["height"] = 40
    return source


def test_ingest_training_and_inference_decode_a_turned_image_alike(phone_source, tmp_path):
    manifest = phone_source.write_shards(tmp_path / "s")
    assert "image size differs from annotations" not in manifest.reasons
    assert manifest.counts["images_turned"] == 1
    assert manifest.decoding == Decoding("auto")
    assert "1 images turned" in manifest.summary()
    [row] = [row for row in all_rows(tmp_path / "s") if row.image_id == 1]
    assert (row.orientation, row.size) == (6, (40, 48))
    pixels = row.decode()
    assert pixels.shape == (40, 48, 3)
    assert np.array_equal(sample_from_row(row, with_masks=True).pixels.numpy(), pixels)
    from_shard = InputImage.from_row(row).decode()
    from_file, *_ = input_images(phone_source.images)
    assert np.array_equal(from_shard, pixels) and np.array_equal(from_file.decode(), pixels)


def test_the_setting_that_other_images_speak_for_is_recommended(phone_source, tmp_path, caplog):
    path = phone_source.images / phone_source.document["images"][1]["file_name"]
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 3
        image.save(path, "JPEG", exif=exif)
    manifest = phone_source.write_shards(tmp_path / "s")
    assert (manifest.counts["images_turned"], manifest.counts["orientation_unclear"]) == (1, 1)
    assert "set data.exif_orientation=apply" in caplog.text


def test_the_setting_decides_for_all_images(phone_source, tmp_path):
    phone_source.write_shards(tmp_path / "auto")
    listing = read_coco(str(phone_source.annotations), str(phone_source.images))
    manifest = write_shards(listing, str(tmp_path / "auto"), 5, 2, Decoding("ignore"))
    assert manifest.reasons["image size differs from annotations"] == 1
    assert manifest.decoding == Decoding("ignore")


@pytest.mark.parametrize("bit_depth", [None, 12])
def test_images_of_12_bits_need_a_bit_depth_in_ingest_and_keep_it(tmp_path, bit_depth):
    source = draw_coco(tmp_path / "source")
    for image in source.document["images"]:
        path = source.images / image["file_name"]
        gray = np.asarray(Image.open(path).convert("L"))
        image["file_name"] = f"{image['id']}.png"
        Image.fromarray(gray.astype(np.uint16) << 4).save(source.images / image["file_name"])
    source.annotations.write_text(json.dumps(source.document))
    listing = read_coco(str(source.annotations), str(source.images))
    if bit_depth is None:
        with pytest.raises(OSError, match=r"none of the 12 images is valid"):
            write_shards(listing, str(tmp_path / "s"), 5, 2)
        return
    write_shards(listing, str(tmp_path / "s"), 5, 2, Decoding(bit_depth=12))
    row = all_rows(tmp_path / "s")[0]
    assert row.bit_depth == 12 and row.decode().max() > 100
    folder = input_images(source.images, bit_depth=12)
    shown = [image for image in folder if image.file_name.endswith("png")]
    assert max(image.decode().max() for image in shown) > 100
