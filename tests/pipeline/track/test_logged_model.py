"""A registered model is served by a new process, without any unpickling."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from model import Predictor
from model.weights import load_network
from pipeline.shards.decode import decode_image
from pipeline.track.model_registry import register_model

ROOT = Path(__file__).resolve().parents[3]

SERVE = """
import json, sys
import mlflow, numpy, pandas
uri, image = sys.argv[1:]
model = mlflow.pyfunc.load_model(uri)
frame = pandas.DataFrame({"image": [open(image, "rb").read()] * 2})
rows = model.predict(frame, params={"score_threshold": 0.0})
print(json.dumps(rows.to_dict("list")))
"""


def test_a_new_process_serves_the_champion_without_unpickling(
    run_config, run, tiny_checkpoint, shapes_images
):
    version = register_model(
        run_config, str(tiny_checkpoint), {"segm/AP": 0.3}, run.run_id, "d" * 64
    )
    client = MlflowClient(run.uri, registry_uri=run.uri)
    stored = Path(
        client.get_model_version_download_uri(version.name, version.version).removeprefix("file://")
    )
    names = {path.name for path in stored.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]
    assert {"model.safetensors", "model.json", "served_model.py", "MLmodel"} <= names

    image = sorted(shapes_images[1].iterdir())[0]
    process = subprocess.run(
        [sys.executable, "-c", SERVE, f"models:/{version.name}@champion", str(image)],
        env=os.environ
        | {
            "MLFLOW_TRACKING_URI": run.uri,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    rows = json.loads(process.stdout)
    [expected] = Predictor(load_network(tiny_checkpoint)).predict(
        [decode_image(image.read_bytes())]
    )
    assert len(expected) > 0
    assert rows["labels"] == [expected.labels.tolist()] * 2
    assert rows["category_ids"][0] == [10 * label for label in expected.labels.tolist()]
    # The other process may use another number of threads.
    np.testing.assert_allclose(rows["boxes"][0], expected.boxes, atol=1e-3)
    assert [mask["size"] for mask in rows["masks"][0]] == [[64, 64]] * len(expected)
    assert rows["keypoints"] == rows["keypoint_names"] == [[], []]
