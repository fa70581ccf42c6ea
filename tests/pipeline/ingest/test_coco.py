"""COCO instances files become listings; files and id lists in another format are errors."""

import json

import pytest

from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards
from pipeline.storage import StorageError
from tests.annotated_datasets import all_rows, draw_coco


@pytest.fixture
def source(tmp_path):
    return draw_coco(tmp_path / "source", keypoints=True)


@pytest.fixture
def read(source, tmp_path):
    """A function: read the source, restricted to a list of image ids if its text is given."""

    def read(ids=None):
        source.annotations.write_text(json.dumps(source.document))
        if ids is not None:
            (tmp_path / "ids").write_text(ids)
        return read_coco(
            str(source.annotations),
            str(source.images),
            None if ids is None else str(tmp_path / "ids"),
        )

    return read


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_the_error_of_a_file_in_another_format_names_it(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StorageError, match=r"a\.json: not a COCO instances file"):
        read_coco(str(tmp_path / "a.json"), str(tmp_path))


@pytest.mark.parametrize("change", ["none", "duplicate"])
def test_categories_must_exist_and_have_unique_ids(source, read, change):
    categories = source.document["categories"]
    source.document["categories"] = [] if change == "none" else [*categories, categories[0]]
    with pytest.raises(StorageError, match="at least one category, and unique category ids"):
        read()


@pytest.mark.parametrize(
    "change",
    [
        {"skeleton": [[0, 1]]},
        {"skeleton": [[1, 5]]},
        {"skeleton": [1, 2]},
        {"keypoints": ["a", "b", "c", "a"]},
    ],
)
def test_impossible_keypoints_of_a_category_are_an_error(source, read, change):
    for category in source.document["categories"]:
        category |= change
    with pytest.raises(StorageError, match=r"skeleton links must be pairs|names must be unique"):
        read()


@pytest.mark.parametrize("text", ["[2, 5]", "2\n5\n", " 5 2", '["2", 5.0]'])
def test_a_list_of_image_ids_restricts_the_images(source, read, tmp_path, text):
    source.document["annotations"].append({"id": 999, "image_id": 77})
    manifest = write_shards(read(text), str(tmp_path / "s"), 4, 2)
    assert sorted(row.image_id for row in all_rows(tmp_path / "s")) == [2, 5]
    # Records of other images are not counted; an annotation of no listed image is still reported.
    assert manifest.counts["images_listed"] == 2
    assert manifest.reasons == {"unknown image id": 1}
    write_shards(read("[2]"), str(tmp_path / "s"), 4, 2)
    assert [row.image_id for row in all_rows(tmp_path / "s")] == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[2, 77, 78]", r"2 of 3 image ids are not in .*\[77, 78\]"),
        ("a\nb", r"2 of 2 image ids are not in .*\['a', 'b'\]"),
        ("", "not a list of image ids"),
        ("[]", "not a list of image ids"),
        ("[true]", "not a list of image ids"),
        ("[[2]]", "not a list of image ids"),
        ("[2,", "not a list of image ids"),
    ],
)
def test_a_wrong_list_of_image_ids_is_an_error(read, text, message):
    with pytest.raises(StorageError, match=message):
        read(text)
