"""What an input is, is seen from its URL; what is wrong with it is said before it is listed."""

import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.config.settings import ConfigError
from pipeline import storage
from pipeline.config import InferConfig
from pipeline.infer.inference_input import open_input
from pipeline.infer.sources.coco_document import CocoDocument
from pipeline.infer.sources.folder import FolderImages
from pipeline.infer.sources.list_file import ListFile
from pipeline.infer.sources.named_files import folder_of
from pipeline.infer.sources.parquet_files import ParquetFiles
from pipeline.infer.sources.video_file import VideoFrames
from pipeline.storage import retries
from tests.pipeline.infer.folder_jobs import plan


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("1.jpg\n")
    (tmp_path / "a.json").write_text('{"images": [{"id": 1, "file_name": "1.jpg"}]}')
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "1.jpg").write_bytes(b"1")
    (tmp_path / "dir.txt").mkdir()
    pq.write_table(pa.table({"image": [b"1"], "n": [1]}), tmp_path / "a.parquet")
    return tmp_path


def opened(url, **settings):
    return open_input(str(url), InferConfig(**settings), "/nowhere")


@pytest.mark.parametrize(
    ("name", "settings", "kind"),
    [
        ("a.txt", {}, ListFile),
        ("a.json", {}, CocoDocument),
        ("a.mp4", {}, VideoFrames),
        ("a.parquet", {"image_column": "image"}, ParquetFiles),
        ("", {"image_column": "image", "id_column": "n"}, ParquetFiles),
        ("", {}, FolderImages),
        ("dir.txt", {}, FolderImages),
        ("1.jpg", {}, FolderImages),
    ],
)
def test_the_kind_is_seen_from_the_url(folder, name, settings, kind):
    found = opened(folder / name, **settings)
    assert isinstance(found.source, kind)
    assert found.has_files() == (kind not in (VideoFrames, ParquetFiles))


def test_a_folder_with_a_manifest_is_shards(shapes_shards):
    found = opened(shapes_shards)
    assert found.source is None
    assert [category.id for category in found.categories()] == [10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("1.jpg", {"images": "/x"}, "infer.images: is for a COCO document"),
        ("1.jpg", {"id_column": "n"}, "infer.id_column: is for Parquet files"),
        ("a.json", {"image_column": "n"}, "infer.image_column: is for Parquet files, not for"),
        ("a.parquet", {}, r"infer.image_column: must name .* image \(binary\), n \(int64\)"),
        ("a.parquet", {"image_column": "x"}, r"infer.image_column: .* no column x"),
        ("a.txt", {"image_column": "n"}, "image_column: is for Parquet files, not for a text file"),
        ("a.mp4", {"image_column": "n", "id_column": "n"}, "Parquet files, not for a video"),
    ],
)
def test_settings_that_do_not_fit_the_input_are_named(folder, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        opened(folder / name, **settings)


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("", "."),
        ("", ".."),
        ("", "out"),
        ("", "../link"),
        ("a.parquet", "."),
        ("a.parquet", "../link/"),
    ],
)
def test_an_output_that_mixes_with_tables_of_the_input_is_refused(folder, name, output):
    """Both are Parquet files: outputs would overwrite tables, or be read with them."""
    (folder.parent / "link").unlink(missing_ok=True)
    (folder.parent / "link").symlink_to(folder)
    settings = InferConfig(image_column="image")
    with pytest.raises(ConfigError, match=r"infer.output: .* must be folders apart"):
        open_input(str(folder / name), settings, str(folder / output))
    (folder.parent / "link").unlink()


@pytest.mark.parametrize(("name", "output"), [("", "../out"), ("a.parquet", "out")])
def test_an_output_beside_the_tables_of_the_input_is_none_of_them(folder, name, output):
    settings = InferConfig(image_column="image")
    assert open_input(str(folder / name), settings, str(folder / output)).source is not None


def test_an_output_that_would_overwrite_the_shards_is_refused(shapes_shards):
    with pytest.raises(ConfigError, match=r"infer.output: .* must be folders apart"):
        open_input(shapes_shards, InferConfig(), f"{shapes_shards}/")


@pytest.mark.parametrize("name", ["no.txt", "no.json", "no.mp4", "no.parquet"])
def test_a_missing_file_is_named(folder, name):
    with pytest.raises(storage.MissingFileError, match=rf"{name}: no such file"):
        opened(folder / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n# only a comment\n", "a.txt lists no images; write one path or URL"),
        ("a.txt", b"\xff\xfe1.jpg", "a.txt is no text in UTF-8"),
        ("a.txt", b"ftp://host/1.jpg\n", "ftp://host/1.jpg: unsupported URL scheme"),
        ("a.json", b"{", "a.json: not valid JSON"),
        ("a.json", b"[1]", "a.json: not a COCO document; it needs the list images"),
        ("a.json", b'{"images": []}', "a.json has no usable images"),
        ("a.json", b'{"images": [3, {"id": 1}]}', r"no usable images \(2 \(malformed image"),
        (
            "a.json",
            b'{"images": [{"id": 1, "file_name": "1.jpg"}, {"id": 1, "file_name": "2.jpg"}]}',
            "1.jpg and 2.jpg have the same id 1",
        ),
    ],
)
def test_an_empty_or_damaged_list_is_one_clear_error(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(storage.StorageError, match=message):
        plan(lambda: opened(folder / name).source, folder / "out")


def test_lines_of_a_list_may_be_paths_urls_and_names_with_spaces(folder):
    names = ["b c/ü#?.jpg", str(folder / "abs.jpg"), (folder / "u%20 r.jpg").as_uri(), "dir.txt"]
    for name in ("b c/ü#?.jpg", "abs.jpg", "u%20 r.jpg"):
        storage.write_bytes(str(folder / name), name.encode())
    lines = ["\ufeff", f"  {names[0]}  ", "", "#x.jpg", *names[1:], names[0]]
    (folder / "list.txt").write_text("\r\n".join(lines), encoding="utf-8")
    source = opened(folder / "list.txt").source
    [chunk] = plan(lambda: source, folder / "out").unfinished()
    read = list(chunk.reader(chunk))
    assert [image.file_name for image in read] == names
    assert [image.encoded.decode() for image in read[:3]] == [
        "b c/ü#?.jpg",
        "abs.jpg",
        "u%20 r.jpg",
    ]
    assert read[3].error.endswith("dir.txt is not a file")
    assert source.skipped == {"(listed twice)": 1}


def test_what_cannot_be_a_name_is_a_failed_row(folder):
    (folder / "list.txt").write_bytes(b"a\0b.jpg\n" + b"x" * 5000 + b".jpg\n1.jpg\n")
    [chunk] = plan(lambda: opened(folder / "list.txt").source, folder / "out").unfinished()
    errors = [image.error for image in chunk.reader(chunk)]
    assert errors[:2] == [r"'a\x00b.jpg' names no file", f"'{'x' * 200}' names no file"]
    assert errors[2] is None


def test_one_entry_that_leads_nowhere_does_not_end_the_job(folder):
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "~thumb.jpg").write_bytes(b"2")
    lines = ["1.jpg/2.jpg", "loop.jpg", "~thumb.jpg", "~nobody/3.jpg", "1.jpg"]
    (folder / "list.txt").write_text("\n".join(lines))
    [chunk] = plan(lambda: opened(folder / "list.txt").source, folder / "out", 9).unfinished()
    images = list(chunk.reader(chunk))
    assert "1.jpg/2.jpg: no such file" in images[0].error
    assert images[1].error.endswith("loop.jpg is not a file")
    assert "~nobody/3.jpg: no such file" in images[3].error
    assert [image.encoded for image in images if image.error is None] == [b"2", b"1"]


def test_a_name_that_no_bucket_can_have_is_a_failed_row_at_once(folder, monkeypatch):
    """boto checks the name itself; no server is asked."""

    def no_pause(seconds):
        raise AssertionError(f"retried after {seconds} s")

    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=no_pause))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (folder / "list.txt").write_text("s3://Bad Bucket!/1.jpg\ns3:///1.jpg\n1.jpg\n")
    [chunk] = plan(lambda: opened(folder / "list.txt").source, folder / "out").unfinished()
    errors = [image.error for image in chunk.reader(chunk)]
    assert errors == [
        "'s3://Bad Bucket!/1.jpg' names no file",
        "'s3:///1.jpg' names no file",
        None,
    ]


def test_names_in_a_list_at_the_root_are_relative_to_the_root():
    source = ListFile("/list.txt")
    assert (source.url, source.image_url("a/b.jpg")) == ("/", "/a/b.jpg")
    assert folder_of("/table.parquet") == "/"
    assert folder_of("s3://bucket/list.txt") == "s3://bucket"


def test_the_categories_of_a_document_are_in_the_order_of_their_ids(folder):
    document = {
        "images": [],
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
    }
    (folder / "a.json").write_text(json.dumps(document))
    assert opened(folder / "a.json").categories() == ((3, "a"), (7, "b"))
    assert opened(folder / "a.txt").categories() == ()
