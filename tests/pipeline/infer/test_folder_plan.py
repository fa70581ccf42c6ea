"""A job that runs again predicts on what is new only, and no reader sees an image twice."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import storage
from tests.pipeline.infer.folder_jobs import KilledError, plan, read_outputs, run_job


class Folder:
    """A folder of images on which a test runs jobs; the content of an image is a number."""

    def __init__(self, base):
        self.url, self.output = storage.join(base, "in"), storage.join(base, "out")
        self.content = {}
        self._next = 100

    def write(self, *names):
        """Write images, new ones or others of the same size; return the names."""
        for name in names:
            self.content[name] = self._next
            storage.write_bytes(storage.join(self.url, name), str(self._next).encode())
            self._next += 1
        return list(names)

    def delete(self, *names):
        for name in names:
            del self.content[name]
            storage.delete(storage.join(self.url, name))

    def run(self, **options):
        return sorted(run_job(self.url, self.output, **options))

    def check(self, model="model"):
        rows = read_outputs(self.output)
        assert {row.file_name: row.labels for row in rows} == {
            name: [number] for name, number in self.content.items()
        }
        assert {name for row in rows for name in row.category_names} == {model}
        self.check_no_row_twice()
        again = plan(self.url, self.output, model=model)
        assert not (again.chunks or again.dropped or again.damaged or again.shrunk)
        entries = storage.list_files(storage.join(self.output, "_done"))
        outputs = storage.list_files(self.output, (".parquet",))
        assert len(entries) == len(outputs) == len(again.finished)
        assert all(entry.images for entry in again.finished)

    def check_no_row_twice(self):
        rows = read_outputs(self.output)
        assert len({row.file_name for row in rows}) == len(rows)
        assert len({row.image_id for row in rows}) == len(rows)

    def ids(self):
        return {row.file_name: row.image_id for row in read_outputs(self.output)}


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def folder(request, tmp_path):
    """Eleven images, b00 to b10, on which a job has predicted in chunks of four."""
    base = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")("job")
    folder = Folder(base)
    names = folder.write(*(f"b{n:02d}.jpg" for n in range(11)))
    assert folder.run() == names
    folder.check()
    assert folder.run() == []
    return folder


def test_new_images_that_sort_first_are_all_that_is_predicted_on(folder):
    before = folder.ids()
    new = folder.write("a1.jpg", "a0/x.jpg")
    assert folder.run() == sorted(new)
    folder.check()
    assert before.items() <= folder.ids().items()


def test_an_image_replaced_by_one_of_the_same_size_is_predicted_on_again(folder):
    replaced = folder.write("b05.jpg")
    assert folder.run() == replaced
    folder.check()


def test_rows_of_deleted_images_are_removed_without_predicting(folder):
    before = folder.ids()
    folder.delete("b00.jpg", "b05.jpg", "b08.jpg", "b09.jpg", "b10.jpg")
    assert folder.run() == []
    folder.check()
    assert folder.ids().items() <= before.items()
    assert folder.run(model="another") == sorted(folder.content)
    folder.check("another")
    assert folder.ids().items() <= before.items()


def test_another_model_predicts_on_all_images_and_keeps_their_ids(folder):
    folder.write("a.jpg")
    folder.run()
    before = folder.ids()
    assert folder.run(model="another") == sorted(folder.content)
    folder.check("another")
    assert folder.ids() == before


def last_first(chunks):
    return chunks[::-1]


def test_a_job_killed_between_an_output_and_its_entry_leaves_no_row_twice(folder):
    for name in list(folder.content):
        folder.write(name)
    with pytest.raises(KilledError):
        folder.run(kill_at=3)  # after the second output
    for size in (1, 3, 5):
        with pytest.raises(KilledError):
            folder.run(images_per_chunk=size, kill_at=1, chunk_order=last_first)
        folder.check_no_row_twice()
    folder.run(images_per_chunk=7)
    folder.check()


def test_the_old_row_of_a_replaced_image_goes_before_another_model_writes_the_new_one(folder):
    folder.write("b01.jpg")
    with pytest.raises(KilledError):
        folder.run(model="another", kill_at=2, chunk_order=last_first)
    folder.check_no_row_twice()
    folder.run(model="another")
    folder.check("another")


def test_an_interrupted_job_ends_with_the_same_files_as_an_uninterrupted_one(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write(*(f"{n:02d}.jpg" for n in range(30)))
    folder.run()
    expected = read_outputs(folder.output)
    storage.delete(folder.output)
    rng = random.Random(0)
    for kill_at in (3, 4, 5):
        with pytest.raises(KilledError):
            folder.run(kill_at=kill_at, chunk_order=lambda chunks: rng.sample(chunks, len(chunks)))
    folder.run()
    assert read_outputs(folder.output) == expected


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sets(st.integers(0, 20), min_size=1, max_size=6)),
        st.tuples(st.just("delete"), st.sets(st.integers(0, 20), min_size=1, max_size=6)),
        st.tuples(st.just("kill"), st.integers(0, 5)),
        st.tuples(st.just("model"), st.integers(0, 1)),
        st.tuples(st.just("size"), st.integers(1, 7)),
        st.tuples(st.just("damage"), st.integers(0, 5)),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=ACTIONS)
def test_whatever_happens_between_jobs_the_last_one_leaves_one_row_per_image(
    actions, tmp_path_factory
):
    folder = Folder(str(tmp_path_factory.mktemp("folder")))
    folder.write("a/00.jpg")
    model, size = "model", 4
    done = None  # what a job has predicted on, while nothing but the images has changed since
    for action, value in [*actions, ("kill", 99)]:
        names = (
            [f"{'ab'[n % 2]}/{n:02d}.jpg" for n in sorted(value)]
            if "e" in action and (isinstance(value, set))
            else []
        )
        if action == "write":
            folder.write(*names)
        elif action == "delete":
            folder.delete(*(set(names) & set(folder.content) - {"a/00.jpg"}))
        elif action == "model":
            model, done = f"model {value}", None
        elif action == "size":
            size = value
        elif action == "damage":
            entries = storage.list_files(storage.join(folder.output, "_done"))
            for url in entries[value : value + 1]:
                storage.write_bytes(url, b"{")
                done = None
        else:
            try:
                predicted = folder.run(images_per_chunk=size, model=model, kill_at=value)
            except KilledError:
                folder.check_no_row_twice()
                done = None
                continue
            folder.check(model)
            if done is not None:
                changed = {n for n in folder.content if done.get(n) != folder.content[n]}
                assert set(predicted) == changed
            done = dict(folder.content)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"name": "part-00001"}', b"[" * 5000],
    ids=["empty", "cut", "list", "binary", "null", "incomplete", "deep"],
)
def test_a_damaged_entry_is_named_and_its_images_are_predicted_on_again(tmp_path, caplog, content):
    folder = Folder(str(tmp_path))
    names = folder.write(*(f"{n}.jpg" for n in range(8)))
    folder.run()
    damaged = storage.join(folder.output, "_done", "part-00001.json")
    storage.write_bytes(damaged, content)
    storage.write_bytes(storage.join(folder.output, "_done", "part-00099.json"), content)
    assert folder.run() == names[4:]
    assert damaged in caplog.text
    folder.check()


def test_a_damaged_output_of_the_right_size_is_named_with_a_way_out(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write(*(f"{n}.jpg" for n in range(4)))
    folder.run()
    folder.delete("2.jpg")
    output = tmp_path / "out" / "part-00000.parquet"
    output.write_bytes(bytes(output.stat().st_size))
    with pytest.raises(storage.StorageError, match=r"part-00000.parquet: .*; delete it and start"):
        folder.run()
    output.unlink()
    folder.run()
    folder.check()


def test_files_of_others_in_the_output_folder_stay(tmp_path, caplog):
    folder = Folder(str(tmp_path))
    folder.write("0.jpg")
    storage.write_bytes(storage.join(folder.output, "sales.parquet"), b"not ours")
    storage.write_bytes(storage.join(folder.output, "notes.txt"), b"")
    folder.run()
    assert storage.read_bytes(storage.join(folder.output, "sales.parquet")) == b"not ours"
    assert storage.exists(storage.join(folder.output, "notes.txt"))
    assert "1 Parquet files in the output folder are not of this job" in caplog.text
    assert "sales.parquet" in caplog.text
