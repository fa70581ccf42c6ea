"""What the report of a chain shows, collected from its records and its MLflow run."""

import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from PIL import Image

from pipeline import storage
from pipeline.chain.plan import ChainStatus, chain_status
from pipeline.chain.stage import Outcome
from pipeline.config import RunConfig, to_yaml
from pipeline.track.mlflow_store import hide_password, open_store

logger = logging.getLogger(__name__)

MAX_IMAGES = 12
_MAX_IMAGE_SIDE = 1100  # pixels: sharp on a phone, and 100 kB
_JPEG_QUALITY = 82

Curve = tuple[tuple[float, float], ...]
"""Points (step, value), in the order of the steps."""


@dataclass(frozen=True)
class ReportImage:
    """An image to show: its caption, and its content as JPEG."""

    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class ReportContent:
    """The content of a report.

    Args:
        name: name of the run.
        output: URL of the run's folder.
        created: when the report was made, UTC.
        status: the chain and its stages.
        outcomes: stage -> its last outcome, also of a stage that is out of date now.
        curves: metric -> its values during the training.
        images: ground truth beside predictions.
        settings: the configuration as YAML, without passwords.
    """

    name: str
    output: str
    created: str
    status: ChainStatus
    outcomes: Mapping[str, Outcome]
    curves: Mapping[str, Curve]
    images: Sequence[ReportImage]
    settings: str


def collect_content(config: RunConfig) -> ReportContent:
    """Read what the report shows; what cannot be read is left out with a warning.

    Raises:
        StorageError: the records of the chain cannot be read.
    """
    status = chain_status(config)
    outcomes = {
        each.planned.name: each.planned.record.outcome
        for each in status.stages
        if each.planned.record is not None
    }
    run_id = outcomes.get("train", {}).get("run_id")
    return ReportContent(
        name=config.name,
        output=config.output,
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        status=status,
        outcomes=outcomes,
        curves=_read_curves(config, run_id) if run_id else {},
        images=_read_images(outcomes.get("evaluate", {}).get("pictures", ())),
        settings=hide_password(to_yaml(config)),
    )


def _read_curves(config: RunConfig, run_id: str) -> dict[str, Curve]:
    """Return the curves of losses, learning rate and validation metrics of a run."""
    try:
        client = open_store(config)
        names = client.get_run(run_id).data.metrics
        shown = [
            name
            for name in names
            if name.startswith("train/") or (name.startswith("val/") and name.endswith("/AP"))
        ]
        curves = {name: _read_curve(client, run_id, name) for name in sorted(shown)}
    except Exception as error:  # of MLflow, requests or SQLAlchemy: the report goes without
        logger.warning("the report has no curves: MLflow cannot be read (%s)", error)
        return {}
    return {name: curve for name, curve in curves.items() if len(curve) > 1}


def _read_curve(client: MlflowClient, run_id: str, name: str) -> Curve:
    history = client.get_metric_history(run_id, name)
    # A resumed training logs some steps again; the last value counts.
    points = {each.step: each.value for each in sorted(history, key=lambda each: each.timestamp)}
    return tuple((float(step), float(points[step])) for step in sorted(points))


def _read_images(urls: Sequence[str]) -> list[ReportImage]:
    images = []
    for url in urls[:MAX_IMAGES]:
        try:
            content = storage.read_bytes(url)
            with Image.open(io.BytesIO(content)) as opened:
                image = opened.convert("RGB")
        except (OSError, ValueError) as error:
            logger.warning("the report leaves out %s: %s", url, error)
            continue
        image.thumbnail((_MAX_IMAGE_SIDE, _MAX_IMAGE_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
        images.append(ReportImage(url.rpartition("/")[2], buffer.getvalue()))
    return images
