"""The parts of a split are combined if they agree and refused if they conflict."""

import json
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.splits import prepare_split
from pipeline.storage import MissingFileError, StorageError
from tests.annotated_datasets import all_rows


@pytest.fixture
def parts(tmp_path):
    """Two drawn datasets of 6 and 4 images, with ids 1-6 and 101-104, as parts of a split."""
    parts = []
    for number, image_count in enumerate((6, 4)):
        folder = tmp_path / f"part{number}"
        annotations, images = draw_shapes_dataset(folder, image_count, 32, 2, seed=number)
        document = json.loads(annotations.read_text())
        for record in document["images"]:
            record["id"] += 100 * number
        for record in document["annotations"]:
            record["image_id"] += 100 * number
        annotations.write_text(json.dumps(document))
        parts.append({"annotations": str(annotations), "images": str(images)})
    return parts


def edit(part, change):
    path = Path(part["annotations"])
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def prepare(output, *train):
    data = {"source": "coco", "train": list(train), "val": train[0], "rows_per_shard": 4}
    data["max_quarantined"] = 0.2
    return prepare_split(RunConfig.model_validate({"output": str(output), "data": data}), "train")


def rows_by_id(output):
    return {row.image_id: row for row in all_rows(f"{output}/shards/train")}


def test_the_parts_of_a_split_become_one_folder_of_shards(parts, tmp_path):
    manifest = prepare(tmp_path / "both", *parts)
    single = [prepare(tmp_path / str(n), part) for n, part in enumerate(parts)]
    assert (manifest.rows, len(manifest.files)) == (10, 3)
    for key in ("images_listed", "objects", "annotations_listed"):
        assert manifest.counts[key] == sum(part.counts[key] for part in single)
    rows = rows_by_id(tmp_path / "both")
    assert sorted(rows) == [*range(1, 7), *range(101, 105)]
    # Both parts have a file of this name.
    assert rows[2].file_name == rows[102].file_name == "000002.jpg"
    for image_id, part in ((2, parts[0]), (102, parts[1])):
        assert rows[image_id].image_bytes == Path(part["images"], "000002.jpg").read_bytes()
    assert prepare(tmp_path / "both", *parts) == manifest


def test_different_categories_of_two_parts_are_an_error_that_names_them(parts, tmp_path):
    edit(parts[1], lambda document: document["categories"][2].update(name="oval"))
    with pytest.raises(StorageError, match=r"have different categories.*triangle.*oval"):
        prepare(tmp_path, *parts)


def test_an_image_id_in_two_parts_is_an_error_that_names_it(parts, tmp_path):
    edit(parts[1], lambda document: document["images"][1].update(id=5))
    with pytest.raises(
        StorageError, match=r"1 image ids .* such as 5: 000005.jpg in .* and 000002.jpg in"
    ):
        prepare(tmp_path, *parts)
    with pytest.raises(StorageError, match=r"6 image ids .*Is a part given twice"):
        prepare(tmp_path, parts[0], parts[0])


def test_a_list_of_image_ids_restricts_only_its_own_part(parts, tmp_path):
    (tmp_path / "ids").write_text("[2, 5]")
    edit(parts[0], lambda document: document["annotations"].append({"id": 999, "image_id": 77}))
    manifest = prepare(tmp_path, parts[0] | {"image_ids": str(tmp_path / "ids")}, parts[1])
    assert sorted(rows_by_id(tmp_path)) == [2, 5, 101, 102, 103, 104]
    assert manifest.counts["images_listed"] == 6
    assert manifest.reasons == {"unknown image id": 1}
    (tmp_path / "ids").write_text("[2]")
    prepare(tmp_path, parts[0] | {"image_ids": str(tmp_path / "ids")}, parts[1])
    assert sorted(rows_by_id(tmp_path)) == [2, 101, 102, 103, 104]


def test_a_missing_part_is_an_error(parts, tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        prepare(tmp_path, parts[0], parts[1] | {"annotations": "/nowhere/a.json"})
