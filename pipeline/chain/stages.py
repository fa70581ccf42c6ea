"""The stages of the chain: what each runs, reads and writes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from model.weights.storage import WEIGHTS_FILE
from model.weights.storage.checksums import CHECKSUMS_FILE
from pipeline import storage
from pipeline.chain.earlier_results import set_aside_other_data
from pipeline.chain.stage import Outcome, Stage
from pipeline.config import DataConfig, RunConfig, ShapesConfig
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.registration import register_evaluated
from pipeline.infer.inference import run_inference
from pipeline.ingest.splits import prepare_split
from pipeline.output_layout import split_shards_url
from pipeline.shards.manifest import MANIFEST_NAME, read_manifest
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.search_space import with_values
from pipeline.track.mlflow_store import TrackingError
from pipeline.track.promotion_record import CHAMPION
from pipeline.track.weights_source import pin_version
from pipeline.train.driver import run_training
from pipeline.train.run_record import SAMPLING

_TRACKER = ("track.uri", "track.experiment")
_DECODING = ("decode_threads", "lookahead_batches")
_OF_ONE_SPLIT = ("train", "val", "train_shards", "val_shards", "shapes", "splits", "split_shards")
_SHAPE_COUNTS = {"train": "images", "val": "val_images"}
_SHARD_SETTINGS = tuple(
    f"data.{name}"
    for name in DataConfig.model_fields
    if name not in {*SAMPLING, *_DECODING, *_OF_ONE_SPLIT}
)
_REGISTRY_SETTINGS = (
    "track.uri",
    "track.model_name",
    "track.champion_metric",
    "track.champion_minimum",
    *(
        f"track.promotion.{name}"
        for name in ("margin", "max_class_drop", "min_class_objects", "max_slowdown", "confidence")
    ),
)


def chain_stages(config: RunConfig) -> tuple[Stage, ...]:
    """Return the stages of the chain of a configuration, each after those it depends on."""
    stages = (
        _shards_stage("train"),
        _shards_stage("val"),
        *((_SWEEP,) if config.chain.sweep else ()),
        _TRAIN,
        _EVALUATE,
        _REGISTER,
        _infer_stage(config),
    )
    if not config.chain.sweep:
        return stages
    # The values that the sweep found are settings of all later stages.
    later = stages[stages.index(_SWEEP) + 1 :]
    return (
        *stages[: len(stages) - len(later)],
        *(replace(each, inputs={**each.inputs, "sweep": ("best_values",)}) for each in later),
    )


def stage_config(config: RunConfig, stage: Stage, outcomes: Mapping[str, Outcome]) -> RunConfig:
    """Return the settings of a stage: with the best values of the sweep, if it comes after one."""
    values = outcomes.get("sweep", {}).get("best_values")
    return with_values(config, values) if values and "sweep" in stage.inputs else config


def _shards_stage(split: str) -> Stage:
    def run(config: RunConfig, _outcomes: Mapping[str, Outcome]) -> Outcome:
        manifest = prepare_split(config, split)
        return {
            "shards": split_shards_url(config, split),
            "digest": manifest.digest,
            "summary": manifest.summary(),
        }

    def sources(config: RunConfig) -> Sequence[str]:
        return _shard_sources(config, split)

    others = set(ShapesConfig.model_fields) - set(_SHAPE_COUNTS.values())
    shapes = (_SHAPE_COUNTS[split], *sorted(others))
    return Stage(
        f"{split}_shards",
        run,
        settings=(
            *("seed", f"data.{split}", f"data.{split}_shards", *_SHARD_SETTINGS),
            *(f"data.shapes.{name}" for name in shapes),
        ),
        outputs=("shards",),
        sources=sources,
        why_outdated=_changed_shards,
    )


def _shard_sources(config: RunConfig, split: str) -> list[str]:
    data = config.data
    if data.source == "shapes":
        return []
    parts = data.parts(split)
    if not parts:
        return [storage.join(split_shards_url(config, split), MANIFEST_NAME)]
    urls = [
        url
        for part in parts
        for url in (
            *(part.annotations, part.images, part.image_ids, part.root),
            part.shards and storage.join(part.shards, MANIFEST_NAME),
        )
        if url
    ]
    return list(dict.fromkeys(urls))


def _changed_shards(config: RunConfig, outcome: Outcome) -> str | None:
    """Return what is wrong with finished shards, by their names; their content is not read."""
    if config.data.source == "function":
        return "its function may return other annotations now"
    url = str(outcome["shards"])
    try:
        manifest = read_manifest(url)
    except storage.StorageError as error:
        return str(error)
    if manifest.digest != outcome["digest"]:
        return f"the shards in {url} were written again"
    present = set(storage.list_files(url, (".parquet",)))
    missing = [f.name for f in manifest.files if storage.join(url, f.name) not in present]
    return f"{url} has no {missing[0]}" if missing else None


def _sweep(config: RunConfig, _outcomes: Mapping[str, Outcome]) -> Outcome:
    set_aside_other_data(config, "sweep")
    result = run_sweep(config)
    return {
        "best_values": dict(result.best_values),
        "best_metrics": dict(result.best_metrics),
        "best_config_url": result.best_config_url,
        "run_id": result.run_id,
    }


def _train(config: RunConfig, _outcomes: Mapping[str, Outcome]) -> Outcome:
    set_aside_other_data(config, "train")
    outcome = asdict(run_training(config))
    return {**outcome, "weights_sha256": _recorded_sha256(outcome["checkpoint_url"])}


def _recorded_sha256(checkpoint_url: str) -> str | None:
    """Return the SHA-256 of a checkpoint's weights from its checksums; None without them."""
    url = storage.join(checkpoint_url, CHECKSUMS_FILE)
    if not storage.exists(url):
        return None
    try:
        return str(storage.read_json(url)["files"][WEIGHTS_FILE]["sha256"])
    except (storage.DamagedRecordError, LookupError, TypeError):
        return None


def _changed_checkpoint(_config: RunConfig, outcome: Outcome) -> str | None:
    url = str(outcome["checkpoint_url"])
    if not storage.exists(storage.join(url, WEIGHTS_FILE)):
        return f"{url} has no {WEIGHTS_FILE}"
    if _recorded_sha256(url) != outcome.get("weights_sha256"):
        return f"the checkpoint {url} is another one now"
    return None


def _evaluate(config: RunConfig, outcomes: Mapping[str, Outcome]) -> Outcome:
    trained = outcomes["train"]
    return asdict(run_evaluation(config, trained["checkpoint_url"], trained["run_id"]))


def _register(config: RunConfig, _outcomes: Mapping[str, Outcome]) -> Outcome:
    return asdict(register_evaluated(config))


def _infer(config: RunConfig, _outcomes: Mapping[str, Outcome]) -> Outcome:
    return asdict(run_inference(config))


def _infer_sources(config: RunConfig) -> Sequence[str]:
    return [config.infer.inputs] if config.infer.inputs else []


def _changed_model(config: RunConfig, outcome: Outcome) -> str | None:
    """Return whether another version is the champion now, for example after a rollback."""
    source = config.infer.model or f"models:/{config.track.model_name}@{CHAMPION}"
    try:
        present = pin_version(source, config)
    except TrackingError as error:  # the stage itself fails with it, if it still does
        return str(error)
    return None if present == outcome["model"] else f"the model is {present} now"


def _infer_stage(config: RunConfig) -> Stage:
    inputs: dict[str, tuple[str, ...]] = {"register": ("champion",)}
    if config.infer.inputs is None:
        inputs["val_shards"] = ("digest",)
    return Stage(
        "infer",
        _infer,
        settings=(
            "infer",
            "track.uri",
            "track.model_name",
            "model.test_augmentation",
            "model.tiles",
        ),
        inputs=inputs,
        outputs=("output_url",),
        sources=_infer_sources,
        why_outdated=_changed_model,
    )


_TRAINING_SETTINGS = ("seed", "model", "train", *(f"data.{name}" for name in sorted(SAMPLING)))

_SWEEP = Stage(
    "sweep",
    _sweep,
    settings=("sweep", *_TRAINING_SETTINGS, *_TRACKER),
    inputs={"train_shards": ("digest",), "val_shards": ("digest",)},
    outputs=("best_config_url",),
)
_TRAIN = Stage(
    "train",
    _train,
    settings=(*_TRAINING_SETTINGS, *_TRACKER),
    inputs={"train_shards": ("digest",)},
    # Validation during the training reads them, but a finished training is not repeated for them.
    after=("val_shards",),
    outputs=("checkpoint_url",),
    why_outdated=_changed_checkpoint,
)
_EVALUATE = Stage(
    "evaluate",
    _evaluate,
    settings=("evaluate", "model.test_augmentation", "model.tiles", *_TRACKER),
    inputs={
        "val_shards": ("digest",),
        "train": ("checkpoint_url", "weights_sha256", "run_id"),
    },
    outputs=("report_url",),
)
_REGISTER = Stage(
    "register",
    _register,
    settings=_REGISTRY_SETTINGS,
    inputs={"evaluate": ("metrics", "dataset_digest", "weights", "run_id")},
)
