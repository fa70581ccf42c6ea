"""Record in an MLflow run which data it used: a dataset input with digest, source and size."""

import json

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pipeline.shards.manifest import Manifest
from pipeline.track.mlflow_store import hide_password

MLFLOW_DIGEST_LENGTH = 36  # characters, the width of MLflow's column for a dataset's digest


def log_dataset(
    client: MlflowClient, run_id: str, context: str, shards_url: str, manifest: Manifest
) -> None:
    """Record a folder of shards as a dataset input of a run; again with the same data: no change.

    Args:
        client: client of the tracking store.
        run_id: the run.
        context: what the run used it for: training, validation, or the name of a further split;
            also the name of the dataset.
        shards_url: folder of the shards.
        manifest: its manifest.
    """
    dataset = Dataset(
        name=context,
        digest=dataset_digest(manifest.digest),
        source_type="shards",
        source=json.dumps({"url": hide_password(shards_url), "digest": manifest.digest}),
        profile=json.dumps(
            {
                "images": manifest.rows,
                "classes": len(manifest.categories),
                "shards": len(manifest.files),
            }
        ),
    )
    tag = InputTag(MLFLOW_DATASET_CONTEXT, context)
    client.log_inputs(run_id, [DatasetInput(dataset, [tag])])


def dataset_digest(digest: str) -> str:
    """Return the part of a digest that MLflow stores."""
    return digest[:MLFLOW_DIGEST_LENGTH]
