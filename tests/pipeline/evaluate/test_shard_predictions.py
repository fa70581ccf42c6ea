"""The metrics of what batch inference has written are those of a direct evaluation."""

import json
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline import storage
from pipeline.config import DataConfig, EvaluateConfig, InferConfig
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.shard_predictions import UnusablePredictionsError, read_written_predictions
from pipeline.infer import inference
from pipeline.infer.detection_files import SCHEMA_VERSION, write_detection_rows
from pipeline.infer.inference import run_inference
from pipeline.infer.inputs import plan_shards
from pipeline.infer.ledger import LedgerEntry, chunk_key, output_url, write_entry
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards
from tests.pipeline.infer.folder_jobs import KilledError


@pytest.fixture
def predictions(evaluate_config, tiny_checkpoint, monkeypatch):
    """Run inference on the validation shards; returns the folder."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(**settings):
        values = {"model": str(tiny_checkpoint), "score_threshold": 0.0, "pictures": 0, "batch": 2}
        config = evaluate_config.model_copy(update={"infer": InferConfig(**values | settings)})
        return run_inference(config).output_url

    return run


def evaluating(config, **settings):
    evaluate = config.evaluate.model_copy(update=settings)
    return config.model_copy(update={"evaluate": evaluate})


def test_the_metrics_equal_those_of_a_direct_evaluation_to_the_last_digit(
    evaluate_config, predictions
):
    direct = run_evaluation(evaluate_config)
    report = json.loads(Path(direct.report_url).with_name("report.json").read_text())
    url = predictions()
    shutil.rmtree(Path(evaluate_config.output) / "train")  # no weights are needed
    shutil.rmtree(Path(direct.report_url).parent)
    written = run_evaluation(evaluating(evaluate_config, predictions=url))
    assert written.metrics == direct.metrics
    assert written.per_class == direct.per_class
    assert (written.images, written.failed_images) == (11, 0)
    again = json.loads(Path(written.report_url).with_name("report.json").read_text())
    assert again["model_digest"] == report["model_digest"]
    assert again["metrics"] == report["metrics"]
    assert len(written.pictures) == len(direct.pictures) == 2
    assert again["worst"].keys() == report["worst"].keys()
    assert not (Path(written.report_url).parent / "predictions").exists()


def test_scores_that_were_left_out_are_noted(evaluate_config, predictions, caplog):
    url = predictions(score_threshold=0.3)
    result = run_evaluation(evaluating(evaluate_config, predictions=url))
    note = "Detections with a score below 0.3 were not written, and AP lacks them"
    assert note in Path(result.report_url).read_text()
    assert note in caplog.text


def test_predictions_that_miss_images_are_refused(evaluate_config, predictions, shapes_shards):
    url = predictions()
    folder = Path(url)
    assert read_written_predictions(url, shapes_shards).names
    [*_, last] = sorted(folder.glob("*.parquet"))
    content = last.read_bytes()
    last.write_bytes(content[:-10])
    with pytest.raises(UnusablePredictionsError, match=r"no predictions on 3 images .* finish it"):
        run_evaluation(evaluating(evaluate_config, predictions=url))
    last.write_bytes(content)
    entry = folder / "_done" / f"{last.stem}.json"
    text = entry.read_text()
    entry.unlink()
    with pytest.raises(UnusablePredictionsError, match="no predictions on 3 images"):
        read_written_predictions(url, shapes_shards)
    entry.write_text(json.dumps(json.loads(text) | {"model_digest": "0" * 64}))
    with pytest.raises(UnusablePredictionsError, match="of several models or settings"):
        read_written_predictions(url, shapes_shards)
    entry.write_text(text)
    (folder / "summary.json").unlink()
    with pytest.raises(UnusablePredictionsError, match=r"no summary.json, so it is no output"):
        read_written_predictions(url, shapes_shards)


@pytest.fixture
def written(shapes_shards, tmp_path):
    """Write a finished output without a detector; ``written(shard_number, score, precision)``."""
    url, chunks = str(tmp_path / "written"), plan_shards(shapes_shards)

    def write(number, score=0.1, precision="fp32"):
        chunk = chunks[number]
        entry = LedgerEntry(
            name=chunk.name,
            key=chunk_key(chunk, "digest", score, precision),
            images=chunk.images,
            failed=0,
            objects=0,
            size=write_detection_rows(output_url(url, chunk.name), []),
            model="model",
            files=chunk.files,
            versions=chunk.versions,
            schema=SCHEMA_VERSION,
            model_digest="digest",
            score_threshold=score,
            precision=precision,
        )
        write_entry(url, entry)

    for number in range(len(chunks)):
        write(number)
    summary = {"model": "model", "model_digest": "digest", "classes": [], "unfinished": 0}
    summary |= {"left_out_below": 0.1, "score_threshold": 0.1, "precision": "fp32"}
    storage.write_json(f"{url}/summary.json", summary)
    write.url, write.summary = url, summary
    return write


@pytest.mark.parametrize("settings", [{"score": 0.3}, {"precision": "bf16"}])
def test_outputs_of_several_settings_beside_an_old_summary_are_refused(
    written, shapes_shards, settings
):
    """As a job leaves them that was started again with other settings, and killed halfway."""
    assert len(read_written_predictions(written.url, shapes_shards).names) == 3
    for number in range(3):
        written(number, **settings)
        with pytest.raises(UnusablePredictionsError, match="of several models or settings"):
            read_written_predictions(written.url, shapes_shards)


def test_a_summary_of_an_earlier_version_is_named_as_one(written, shapes_shards):
    summary = written.summary
    for lacking in ("classes", "score_threshold"):
        document = {name: value for name, value in summary.items() if name != lacking}
        storage.write_json(f"{written.url}/summary.json", document)
        message = rf"earlier version of maskrcnn-ray and lacks {lacking}; start infer_batch again"
        with pytest.raises(UnusablePredictionsError, match=message):
            read_written_predictions(written.url, shapes_shards)


def test_a_job_that_is_killed_leaves_no_summary_of_an_earlier_one(
    evaluate_config, predictions, shapes_shards, monkeypatch
):
    url = predictions()

    def killed(*_):
        assert not (Path(url) / "summary.json").exists()
        raise KilledError

    monkeypatch.setattr(inference, "predict_plan", killed)
    with pytest.raises(KilledError):
        predictions(score_threshold=0.3)
    with pytest.raises(UnusablePredictionsError, match=r"no summary.json, .* start infer_batch"):
        read_written_predictions(url, shapes_shards)


def test_predictions_on_other_images_are_refused(
    evaluate_config, predictions, shapes_images, shapes_shards, tmp_path
):
    annotations, images = shapes_images
    document = json.loads(annotations.read_text())
    kept = {image["id"] for image in document["images"][:8]}
    document["images"] = document["images"][:8]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
    (tmp_path / "fewer.json").write_text(json.dumps(document))
    other = str(tmp_path / "fewer")
    write_shards(read_coco(str(tmp_path / "fewer.json"), str(images)), other, 4, 4)
    url = predictions()
    message = r"predictions on other images than those of .*fewer; write them with maskrcnn-ray"
    with pytest.raises(UnusablePredictionsError, match=message):
        read_written_predictions(url, other)
    config = evaluating(evaluate_config, predictions=predictions(inputs=str(images)))
    with pytest.raises(UnusablePredictionsError, match="on other images than those of"):
        run_evaluation(config)
    url = predictions(inputs=other)
    config = config.model_copy(update={"data": DataConfig(val_shards=other)})
    assert run_evaluation(evaluating(config, predictions=url)).images == 8


def test_a_shard_that_could_not_be_read_is_missing_images(evaluate_config, predictions, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(evaluate_config.data.val_shards, folder)
    shard = sorted(folder.glob("*.parquet"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:200])
    url = predictions(inputs=str(folder))
    shard.write_bytes(content)
    with pytest.raises(UnusablePredictionsError, match="no predictions on 4 images, because their"):
        run_evaluation(evaluating(evaluate_config, predictions=url))


def test_predictions_and_weights_cannot_both_be_given():
    with pytest.raises(ValidationError, match="cannot both be given"):
        EvaluateConfig(predictions="/p", weights="/w")
