"""COCO splits of several parts: taken together where they agree, refused where they clash."""

import json
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.splits import prepare_split
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows
from pipeline.storage import MissingFileError, StorageError


@pytest.fixture
def parts(tmp_path):
    """Two drawn sets of 6 and 4 images, numbered 1-6 and 101-104, as parts of a split."""
    found = []
    for number, images in enumerate((6, 4)):
        folder = tmp_path / f"part{number}"
        annotations, pictures = draw_shapes_dataset(folder, images, 32, 2, seed=number)
        document = json.loads(annotations.read_text())
        for record in document["images"]:
            record["id"] += 100 * number
        for record in document["annotations"]:
            record["image_id"] += 100 * number
        annotations.write_text(json.dumps(document))
        found.append({"annotations": str(annotations), "images": str(pictures)})
    return found


def edit(part, change):
    path = Path(part["annotations"])
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def prepare(output, *train):
    data = {"source": "coco", "train": list(train), "val": train[0], "rows_per_shard": 4}
    return prepare_split(RunConfig.model_validate({"output": str(output), "data": data}), "train")


def rows_of(output):
    url = f"{output}/shards/train"
    rows = [row for file in read_manifest(url).files for row in read_rows(url, file.name)]
    return {row.image_id: row for row in rows}


def test_the_parts_of_a_split_become_one_folder_of_shards(parts, tmp_path):
    manifest = prepare(tmp_path / "both", *parts)
    alone = [prepare(tmp_path / str(n), part) for n, part in enumerate(parts)]
    assert (manifest.rows, len(manifest.files)) == (10, 3)
    for key in ("images_listed", "objects", "annotations_listed"):
        assert manifest.counts[key] == sum(one.counts[key] for one in alone)
    rows = rows_of(tmp_path / "both")
    assert sorted(rows) == [*range(1, 7), *range(101, 105)]
    # Both parts have a file of this name.
    assert rows[2].file_name == rows[102].file_name == "000002.jpg"
    for number, part in ((2, parts[0]), (102, parts[1])):
        assert rows[number].image_bytes == Path(part["images"], "000002.jpg").read_bytes()
    assert prepare(tmp_path / "both", *parts) == manifest


def test_categories_that_differ_between_parts_are_named(parts, tmp_path):
    edit(parts[1], lambda document: document["categories"][2].update(name="oval"))
    with pytest.raises(StorageError, match=r"differ in their categories.*triangle.*oval"):
        prepare(tmp_path, *parts)


def test_an_image_id_in_two_parts_is_named(parts, tmp_path):
    edit(parts[1], lambda document: document["images"][1].update(id=5))
    with pytest.raises(
        StorageError, match=r"1 image ids .* such as 5: 000005.jpg of .* and 000002.jpg of"
    ):
        prepare(tmp_path, *parts)
    with pytest.raises(StorageError, match=r"6 image ids .*is a part given twice"):
        prepare(tmp_path, parts[0], parts[0])


@pytest.mark.parametrize("text", ["[2, 5]", "2\n5\n", " 5 2"])
def test_a_list_of_image_ids_restricts_a_part(parts, tmp_path, text):
    (tmp_path / "ids").write_text(text)
    edit(parts[0], lambda document: document["annotations"].append({"id": 999, "image_id": 77}))
    manifest = prepare(tmp_path, parts[0] | {"image_ids": str(tmp_path / "ids")}, parts[1])
    rows = rows_of(tmp_path)
    assert sorted(rows) == [2, 5, 101, 102, 103, 104]
    # Nothing of the images left out is counted; what belongs to no image is still named.
    assert manifest.counts["images_listed"] == 6
    assert manifest.reasons == {"annotation of an unlisted image": 1}
    (tmp_path / "ids").write_text("[2]")
    prepare(tmp_path, parts[0] | {"image_ids": str(tmp_path / "ids")}, parts[1])
    assert sorted(rows_of(tmp_path)) == [2, 101, 102, 103, 104]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[2, 7, 8]", r"2 of 3 ids are not in .*\[7, 8\]"),
        ("a\nb", "not a list of image ids"),
        ("", "not a list of image ids"),
        ("[]", "not a list of image ids"),
        ("[true]", "not a list of image ids"),
        ('["2"]', "not a list of image ids"),
        ("[2,", "not a list of image ids"),
    ],
)
def test_a_list_of_image_ids_that_is_wrong_is_an_error(parts, tmp_path, text, problem):
    (tmp_path / "ids").write_text(text)
    with pytest.raises(StorageError, match=problem):
        prepare(tmp_path, parts[0] | {"image_ids": str(tmp_path / "ids")})


def test_a_part_that_is_missing_is_an_error(parts, tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        prepare(tmp_path, parts[0], parts[1] | {"annotations": "/nowhere/a.json"})
