"""A dataset and all results in the stores of Google and Azure."""

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.chain.run import run_chain
from pipeline.config import RunConfig

STAGES = {"train_shards", "val_shards", "train", "evaluate", "register", "infer"}


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.soak
@pytest.mark.parametrize("store", ["gcs", "azure"])
def test_a_chain_reads_and_writes_a_bucket(
    ray_cluster, request, store, small_config, shapes_images, tmp_path
):
    annotations, images = shapes_images
    bucket = request.getfixturevalue(store)("chain")
    storage.upload_folder(Path(images), f"{bucket}/images")
    storage.upload_file(Path(annotations), f"{bucket}/all.json")
    part = {"annotations": f"{bucket}/all.json", "images": f"{bucket}/images"}
    tree = small_config.model_dump(mode="json", exclude_unset=True)
    tree["output"] = f"{bucket}/run"
    tree["data"] |= {"source": "coco", "train": part, "val": part}
    tree["track"]["uri"] = f"sqlite:///{tmp_path}/mlflow.db"
    tree.setdefault("infer", {}).update(inputs=f"{bucket}/images", score_threshold=0.0)
    config = RunConfig.model_validate(tree)
    records = {record.stage: record for record in run_chain(config)}
    assert set(records) == STAGES
    assert records["train"].outcome["checkpoint_url"].startswith(f"{bucket}/run/train/step_")
    assert records["infer"].outcome["images"] == 11
    again = list(run_chain(config))
    assert [record.stage for record in again if not record.skipped] == []
