"""A job on any kind of input predicts on what is new only, and leaves one row per image."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.infer.sources.coco_document import CocoDocument
from pipeline.infer.sources.list_file import ListFile
from pipeline.infer.sources.parquet_files import ParquetFiles
from tests.pipeline.infer.folder_jobs import KilledError, plan, read_outputs, run_job

KINDS = ("list", "coco", "coco_names", "parquet", "parquet_ids")


class NamedInput:
    """Files with numbers as content, and a document that names them in some order."""

    def __init__(self, base, kind):
        self.kind = kind
        self.files = storage.join(base, "files")
        self.document = storage.join(base, "document")
        self.output = storage.join(base, "out")
        self.names = []
        self.content = {}
        self._next = 100

    def write(self, *names, at_front=False):
        """Write files, new ones or others of the same size, and name them in the document."""
        for name in names:
            self.content[name] = self._next
            storage.write_bytes(storage.join(self.files, name), str(self._next).encode())
            self._next += 1
        new = [name for name in names if name not in self.names]
        self.names = new + self.names if at_front else self.names + new
        return list(names)

    def forget(self, *names):
        """Take names out of the document; their files stay."""
        self.names = [name for name in self.names if name not in names]
        for name in names:
            del self.content[name]

    def id_of(self, name):
        """Return the id that the document gives an image."""
        number = int(name.rpartition("/")[2].partition(".")[0])
        return number + 1000 if self.kind in ("coco", "parquet") else f"x{number}"

    def source(self):
        """Write the document and return the source."""
        if self.kind == "list":
            lines = "".join(f"../files/{name}\n" for name in self.names)
            storage.write_bytes(f"{self.document}/list.txt", f"# images\n\n{lines}".encode())
            return ListFile(f"{self.document}/list.txt")
        ids = [self.id_of(name) for name in self.names]
        if self.kind.startswith("coco"):
            pairs = zip(ids, self.names, strict=True)
            images = [{"id": number, "file_name": name} for number, name in pairs]
            storage.write_json(f"{self.document}/a.json", {"images": images})
            return CocoDocument(f"{self.document}/a.json", self.files)
        names = [f"../files/{name}" for name in self.names]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"url": names, "key": ids}), sink)
        storage.write_bytes(f"{self.document}/a.parquet", sink.getvalue().to_pybytes())
        return ParquetFiles(
            f"{self.document}/a.parquet", "url", "key" if self.kind == "parquet_ids" else None
        )

    def run(self, **options):
        names = run_job(self.source, self.output, **options)
        return sorted(name.removeprefix("../files/") for name in names)

    def check(self, model="model"):
        rows = read_outputs(self.output)
        assert len({row.image_id for row in rows}) == len(rows)
        assert {row.file_name.removeprefix("../files/"): row.labels for row in rows} == {
            name: [number] for name, number in self.content.items()
        }
        assert len(rows) == len(self.content)
        for row in rows:
            expected = self.id_of(row.file_name)
            if self.kind == "coco":
                assert (row.image_id, row.source_image_id) == (expected, None)
            elif self.kind in ("coco_names", "parquet_ids"):
                assert json.loads(row.source_image_id) == expected
        again = plan(self.source, self.output, model=model)
        assert not (again.chunks or again.dropped or again.damaged or again.shrunk)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def base(request, tmp_path):
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")("job")


@pytest.mark.parametrize("kind", KINDS)
def test_new_and_replaced_images_are_predicted_on_and_missing_ones_are_failed_rows(base, kind):
    images = NamedInput(base, kind)
    names = images.write(*(f"b/{n}.jpg" for n in range(11)))
    assert images.run() == sorted(names)
    images.check()
    assert images.run() == []
    before = {row.file_name: row.image_id for row in read_outputs(images.output)}

    new = images.write("a b/20.jpg", "a b/21.jpg", at_front=True) + images.write("b/4.jpg")
    images.forget("b/0.jpg", "b/5.jpg")
    random.Random(0).shuffle(images.names)
    assert images.run() == sorted(new)
    images.check()
    after = {row.file_name: row.image_id for row in read_outputs(images.output)}
    kept = before.keys() - {
        name for name in before if name.endswith(("/0.jpg", "/4.jpg", "/5.jpg"))
    }
    assert all(after[name] == before[name] for name in kept)

    storage.delete(storage.join(images.files, "b/7.jpg"))
    assert images.run() == ["b/7.jpg"]
    [failed] = [row for row in read_outputs(images.output) if row.error]
    assert (failed.file_name.endswith("b/7.jpg"), failed.input_version) == (True, "missing")
    assert "no such file" in failed.error
    assert images.run() == []  # it is missing still
    assert images.run(model="x") == sorted(images.names)
    images.write("b/7.jpg")
    assert images.run(model="x") == ["b/7.jpg"]
    images.check("x")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    actions=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.sets(st.integers(0, 12), min_size=1, max_size=5)),
            st.tuples(st.just("forget"), st.sets(st.integers(0, 12), min_size=1, max_size=5)),
            st.tuples(st.just("kill"), st.integers(0, 5)),
            st.tuples(st.just("size"), st.integers(1, 5)),
            st.tuples(st.just("shuffle"), st.integers(0, 9)),
        ),
        max_size=8,
    )
)
def test_whatever_happens_between_jobs_the_last_one_leaves_one_row_per_image(
    actions, kind, tmp_path_factory
):
    images = NamedInput(str(tmp_path_factory.mktemp("job")), kind)
    images.write("99.jpg")
    size = 3
    done = {}
    for action, value in [*actions, ("kill", 99)]:
        if action == "write":
            images.write(*(f"{n}.jpg" for n in sorted(value)))
        elif action == "forget":
            images.forget(*{f"{n}.jpg" for n in value}.intersection(images.names))
        elif action == "size":
            size = value
        elif action == "shuffle":
            random.Random(value).shuffle(images.names)
        else:
            try:
                predicted = images.run(images_per_chunk=size, kill_at=value)
            except KilledError:
                rows = read_outputs(images.output)
                assert len({row.file_name for row in rows}) == len(rows)
                done = None
                continue
            images.check()
            if done is not None:
                changed = {n for n in images.content if done.get(n) != images.content[n]}
                assert set(predicted) == changed
            done = dict(images.content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_job_ends_with_the_same_rows_as_an_undisturbed_one(tmp_path, kind):
    images = NamedInput(str(tmp_path), kind)
    images.write(*(f"{n}.jpg" for n in range(30)))
    images.run()
    expected = read_outputs(images.output)
    storage.delete(images.output)
    rng = random.Random(0)
    for kill_at in (3, 4, 5):
        with pytest.raises(KilledError):
            images.run(kill_at=kill_at, chunk_order=lambda chunks: rng.sample(chunks, len(chunks)))
    images.run()
    assert read_outputs(images.output) == expected
