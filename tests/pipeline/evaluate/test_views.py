"""How pictures are looked at is decided when they are evaluated."""

from pathlib import Path

import pytest

from model import ModelConfig, build_detector, load_detector, save_detector
from pipeline.config import DataConfig, EvaluateConfig
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.infer.prediction_rows import read_predictions
from pipeline.infer.predictor import ModelFiles
from pipeline.shards.decode import decode_image
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows


def test_an_evaluation_looks_at_pictures_as_it_is_told_not_as_the_checkpoint_says(
    run_config, tiny_checkpoint, shapes_shards
):
    plain = load_detector(tiny_checkpoint)
    views = {"test_augmentation": {"short_sides": (48, 64), "long_side": 96}}
    model = ModelConfig.model_validate(plain.config.model_dump() | views)
    config = run_config.model_copy(
        update={
            "model": model,
            "data": DataConfig(val_shards=shapes_shards),
            "evaluate": EvaluateConfig(batch=2, pictures=0),
        }
    )
    result = run_evaluation(config, weights=str(tiny_checkpoint))
    page = Path(result.report_url)
    assert "Measured with model.test_augmentation" in page.read_text()
    name = read_manifest(shapes_shards).files[0].name
    truth = next(iter(read_rows(shapes_shards, name)))
    files = sorted(page.parent.glob("predictions/*.parquet"))
    rows = [row for file in files for row in read_predictions(str(file))]
    (row,) = (row for row in rows if row.image_id == truth.image_id)
    told = load_detector(tiny_checkpoint, model)
    (expected,) = told.predict([decode_image(truth.image_bytes)])
    (alone,) = plain.predict([decode_image(truth.image_bytes)])
    assert row.scores == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert row.boxes[0] == pytest.approx(expected.boxes[0].tolist(), abs=1e-2)
    assert row.scores != pytest.approx(alone.scores.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("stated", "looked_at"), [({}, 2), ({"test_augmentation": None}, None)], ids=["silent", "null"]
)
def test_a_config_that_says_nothing_leaves_the_views_of_the_model_and_null_takes_them(
    tiny_model_config, tmp_path, stated, looked_at
):
    views = {"test_augmentation": {"short_sides": (48, 64), "long_side": 96}}
    tree = tiny_model_config.model_dump(exclude={"test_augmentation"})
    save_detector(build_detector(ModelConfig.model_validate(tree | views)), tmp_path)
    files = ModelFiles.read(tmp_path, ModelConfig.model_validate(tree | stated))
    kept = files.load("cpu").config.test_augmentation
    assert (kept and len(kept.short_sides)) == looked_at
