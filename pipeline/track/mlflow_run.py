"""Open and close the MLflow run of a job, and record its settings and code."""

import getpass
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME, MLFLOW_USER
from pydantic import BaseModel

from ops_cuda import backend
from pipeline.config import RunConfig, config_digest, to_yaml
from pipeline.track.artifact_upload import UPLOAD_TIMEOUT_S, ArtifactUpload
from pipeline.track.attempt import attempt
from pipeline.track.code_version import code_commit, read_code_version
from pipeline.track.dataset_inputs import MLFLOW_DIGEST_LENGTH
from pipeline.track.environment import describe_environment
from pipeline.track.mlflow_store import (
    TrackingError,
    artifact_location,
    hide_password,
    open_store,
    tracking_uri,
)
from pipeline.track.unsent_run import STATUS, UnsentRun

__all__ = ["MLFLOW_DIGEST_LENGTH", "TrackedRun", "code_commit", "flatten_settings", "open_run"]

logger = logging.getLogger(__name__)

PARAMS_PER_REQUEST = 100  # MLflow's limit for log_batch
MAX_PARAM_LENGTH = 6000  # characters, MLflow's limit


@dataclass(frozen=True)
class TrackedRun:
    """An open run.

    Args:
        uri: tracking URI; workers need it together with ``run_id``.
        run_id: MLflow's id of the run.
        experiment_id: MLflow's id of the run's experiment.
        url: the run's page on a tracking server; for a local store the command that serves it.
        artifacts: uploads files of the run.
        unsent: keeps what the store does not take.
    """

    uri: str
    run_id: str
    experiment_id: str
    url: str
    artifacts: ArtifactUpload = field(repr=False, compare=False)
    unsent: UnsentRun = field(repr=False, compare=False)


@contextmanager
def open_run(
    config: RunConfig, job: str, run_id: str | None = None, parent_run_id: str | None = None
) -> Iterator[TrackedRun]:
    """Record a job: settings, code, machine and packages at the start, its status at the end.

    Settings are parameters and the artifact ``config.yaml``; ``code.diff`` is what differs from
    the commit, and ``environment.json`` has devices and packages. A broken artifact store does not
    stop the job (`ArtifactUpload`); what it and the tracker do not take is kept (`UnsentRun`), and
    sent when the run is continued or when it ends.

    Args:
        config: the job's settings.
        job: what runs, such as ``train``; the run is named ``{config.name}-{job}``.
        run_id: run to continue instead of creating a new one.
        parent_run_id: run under which to nest the new one.

    Raises:
        TrackingError: the tracker cannot be reached at the start. If it fails later, only a warning
            is logged.
    """
    uri = tracking_uri(config)
    try:
        client = open_store(config)
        run = None if run_id is None else _continue_run(client, run_id)
        is_new = run is None
        code = read_code_version()
        if run is None:
            run = _create_run(client, config, job, parent_run_id, code.commit)
    except TrackingError:
        raise
    except Exception as error:  # of SQLAlchemy, requests or MLflow, depending on the store
        raise TrackingError(_cannot_record(uri, error)) from error
    info = run.info
    url = _run_url(uri, info.experiment_id, info.run_id)
    unsent = UnsentRun(config.output, info.run_id)
    artifacts = ArtifactUpload(client, info.run_id, unsent)
    tracked = TrackedRun(uri, info.run_id, info.experiment_id, url, artifacts, unsent)
    if not is_new:
        artifacts.send_kept()
        unsent.drop_note(STATUS)
    else:
        artifacts.text(hide_password(to_yaml(config)), "config.yaml")
        artifacts.text(json.dumps(describe_environment(), indent=2), "environment.json")
        if code.diff:
            artifacts.text(code.diff, "code.diff")
    try:
        yield tracked
    except BaseException as error:
        _end(client, tracked, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    _end(client, tracked, "FINISHED")


def flatten_settings(tree: BaseModel | dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return dotted key -> value, one entry per leaf; passwords in URLs are hidden."""
    items = tree.model_dump(mode="json") if isinstance(tree, BaseModel) else tree
    flat: dict[str, str] = {}
    for key, value in items.items():
        if isinstance(value, dict) and value:
            flat |= flatten_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = hide_password(str(value))[:MAX_PARAM_LENGTH]
    return flat


def _cannot_record(uri: str, error: Exception) -> str:
    first_line = hide_password(next(iter(str(error).splitlines()), ""))
    place = f"MLflow at {hide_password(uri)}"
    if isinstance(error, MlflowException) and error.get_http_status_code() == 401:
        return (
            f"{place} refuses the user or password of this job, or it has none: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, on a cluster before ray start "
            "(docs/CLUSTER.md)."
        )
    if "Invalid Host header" in first_line:
        return (
            f"{place} refuses requests to this host name: start the server with it in "
            "--allowed-hosts (docs/CLUSTER.md), or use its IP address in track.uri."
        )
    return (
        f"{place} cannot record the run ({type(error).__name__}: {first_line}). Start the server, "
        "or set track.uri."
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return "unknown"


def _continue_run(client: MlflowClient, run_id: str) -> Run | None:
    """Mark a run as running; return None if someone deleted it."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        logger.warning("MLflow has no run %s any more; recording in a new run", run_id)
        return None
    client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    return run


def _create_run(
    client: MlflowClient, config: RunConfig, job: str, parent_run_id: str | None, commit: str
) -> Run:
    tags = {
        "job": job,
        "config_digest": config_digest(config),
        "code_commit": commit,
        # Shown by MLflow as source and user.
        MLFLOW_SOURCE_NAME: f"workflows/{job}.py",
        MLFLOW_GIT_COMMIT: commit.removesuffix("-dirty"),
        MLFLOW_USER: _user(),
        "ops_backend": backend(),
        "output": config.output,
    }
    if parent_run_id:
        tags["mlflow.parentRunId"] = parent_run_id
    experiment_id = _experiment(client, config)
    run = client.create_run(experiment_id, run_name=f"{config.name}-{job}", tags=tags)
    params = [Param(key, value) for key, value in flatten_settings(config).items()]
    for first in range(0, len(params), PARAMS_PER_REQUEST):
        client.log_batch(run.info.run_id, params=params[first : first + PARAMS_PER_REQUEST])
    return run


def _experiment(client: MlflowClient, config: RunConfig) -> str:
    name = config.track.experiment
    if (existing := client.get_experiment_by_name(name)) is not None:
        return str(existing.experiment_id)
    try:
        location = artifact_location(config)
        # MLflow's page then shows runs and models first, not traces of language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except MlflowException:
        # Another job may have created it between the two calls.
        if (existing := client.get_experiment_by_name(name)) is None:
            raise
        return str(existing.experiment_id)


def _run_url(uri: str, experiment_id: str, run_id: str) -> str:
    if uri.startswith(("http://", "https://")):
        return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"mlflow server --backend-store-uri {hide_password(uri)}"


def _end(client: MlflowClient, run: TrackedRun, status: str) -> None:
    """Mark the run as ended; must not hide the job's own result or error."""
    run.artifacts.send_kept()
    failure = attempt(lambda: client.set_terminated(run.run_id, status), UPLOAD_TIMEOUT_S)
    if failure is not None:
        run.unsent.keep_note(STATUS, status)
        logger.warning("MLflow run %s could not be marked %s: %s", run.run_id, status, failure)
