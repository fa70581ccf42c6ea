"""``sweep.json``: which sweep an output folder holds, and how far its report is."""

from dataclasses import asdict, dataclass

from pipeline import storage
from pipeline.config import RunConfig, digest_of
from pipeline.output_layout import from_portable, to_portable
from pipeline.storage.records import parse_record
from pipeline.sweep.space_check import SAME_FOR_ALL
from pipeline.sweep.trial import sweep_folder

_CHANGEABLE = {"trials", "max_hours", "max_concurrent", "retry_failed", "register_best"}


class SweepError(RuntimeError):
    """No trial succeeded, or the output holds another sweep; the message says what to do."""


@dataclass(frozen=True)
class SweepRecord:
    """The content of ``sweep.json``.

    Args:
        config_digest: digest of the settings that all trials share.
        dataset_digest: digest of the training shards.
        run_id: the sweep's MLflow run.
        reported: number of trials that ``report.md`` and ``best.yaml`` cover; 0 until then.
        registered: the version of the best trial's model, if it was registered.
        registered_trial: that trial.
    """

    config_digest: str
    dataset_digest: str
    run_id: str
    reported: int = 0
    registered: str | None = None
    registered_trial: str | None = None


def shared_digest(config: RunConfig) -> str:
    """Return the digest of what all trials share and what decides their values.

    A sweep that is moved to another output folder or other machines, extended, or given more time
    stays the same sweep. A population has a fixed size.
    """
    settings = config.model_dump(
        mode="json", include={"seed", "model", "data", "train", "evaluate", "sweep"}
    )
    for key in SAME_FOR_ALL:
        settings["train"].pop(key, None)
    fixed = {"trials"} if config.sweep.scheduler == "pbt" else set()
    for key in _CHANGEABLE - fixed:
        del settings["sweep"][key]
    return digest_of(settings)


def read_record(config: RunConfig, dataset_digest: str) -> SweepRecord | None:
    """Read ``sweep.json``; raise if it is that of another sweep, or of other data."""
    url = _record_url(config)
    if not storage.exists(url):
        return None
    remedy = "rename it, and the sweep continues with the trials in its ledger"
    record = parse_record(
        from_portable(storage.read_json(url), config.output), SweepRecord, url, remedy
    )
    if record.config_digest != shared_digest(config):
        raise SweepError(
            f"{config.output} holds a sweep with other settings; choose another output (of sweep, "
            f"only {', '.join(sorted(_CHANGEABLE))} may change; of train, how it runs)"
        )
    if record.dataset_digest != dataset_digest:
        raise SweepError(
            f"{config.output} holds a sweep on other data (the shards' digest is now "
            f"{dataset_digest[:12]}, was {record.dataset_digest[:12]}); choose another output"
        )
    return record


def write_record(config: RunConfig, record: SweepRecord) -> None:
    """Write ``sweep.json``."""
    storage.write_json(_record_url(config), to_portable(asdict(record), config.output))


def _record_url(config: RunConfig) -> str:
    return storage.join(sweep_folder(config), "sweep.json")
