"""The same images give the same detections from whatever kind of input they come."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import InferConfig
from pipeline.infer.detection_files import read_detection_rows
from pipeline.infer.inference import run_inference
from tests.pipeline.predict.conftest import clip  # noqa: F401


@pytest.fixture
def infer(run_config, tiny_checkpoint, tmp_path, monkeypatch):
    """Run inference in this process; returns the result and the rows."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(name, **settings):
        values = {
            "model": str(tiny_checkpoint),
            "output": str(tmp_path / name),
            "images_per_shard": 4,
            "pictures": 1,
            **settings,
        }
        result = run_inference(run_config.model_copy(update={"infer": InferConfig(**values)}))
        paths = sorted(Path(result.output_url).glob("*.parquet"))
        return result, [row for path in paths for row in read_detection_rows(str(path))]

    return run


def test_every_kind_of_input_gives_the_detections_of_the_folder(infer, shapes_images, tmp_path):
    annotations, folder = shapes_images
    paths = sorted(folder.iterdir())
    names = [path.name for path in paths]
    ids = {each["file_name"]: each["id"] for each in json.loads(annotations.read_text())["images"]}
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    content = [path.read_bytes() for path in paths]
    table = {"image": content, "path": [str(path) for path in paths], "key": names}
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    parquet = {"inputs": str(tmp_path / "table.parquet"), "id_column": "key"}
    inputs = {
        "list": {"inputs": str(tmp_path / "list.txt")},
        "coco": {"inputs": str(annotations), "images": str(folder)},
        "encoded": {**parquet, "image_column": "image"},
        "paths": {**parquet, "image_column": "path"},
    }
    _, expected = infer("folder", inputs=str(folder))
    assert [row.file_name for row in expected] == names
    for kind, settings in inputs.items():
        result, rows = infer(kind, **settings)
        if kind == "coco":
            assert {row.file_name: row.image_id for row in rows} == ids
            rows = sorted(rows, key=lambda row: row.file_name)
        elif kind in ("encoded", "paths"):
            assert [json.loads(row.source_image_id) for row in rows] == names
        assert (result.images, result.failed, len(result.pictures)) == (11, 0, 1)
        for row, other in zip(rows, expected, strict=True):
            for name in ("height", "width", "labels", "error", "model"):
                assert getattr(row, name) == getattr(other, name)
            # In the document the images stand in another order, and so do the batches.
            np.testing.assert_allclose(row.scores, other.scores, atol=1e-4)
            np.testing.assert_allclose(row.boxes, other.boxes, atol=1e-2)
        again, _ = infer(kind, **settings)
        assert (again.shards_done, again.images) == (0, 11)


def test_the_frames_of_a_video_are_rows(infer, clip):  # noqa: F811
    result, rows = infer("video", inputs=str(clip()))
    assert (result.images, result.failed, result.shards_done) == (12, 0, 3)
    assert [row.image_id for row in rows] == list(range(12))
    assert {(row.height, row.width) for row in rows} == {(48, 64)}
    assert Path(result.pictures[0]).stat().st_size > 1000
    assert infer("video", inputs=str(clip()))[0].images == 12
