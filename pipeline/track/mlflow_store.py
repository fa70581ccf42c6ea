"""The MLflow store of a job: a tracking server, or the SQLite file in the job's output folder.

MLflow records the artifacts' folder as an absolute path in its database. If an output folder was
moved or copied, the artifacts of its own database are those beside the database.
"""

import logging
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient
from sqlalchemy.engine import URL, make_url

from pipeline.config import RunConfig
from pipeline.output_layout import OUTPUT_MARK
from pipeline.storage import join, local_path

logger = logging.getLogger(__name__)

_DATABASE, _ARTIFACTS = "mlflow.db", "mlartifacts"
_LOCATION_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow's database has locations of artifacts."""


class TrackingError(RuntimeError):
    """MLflow cannot be reached or refuses a request; the message says where and what to do."""


def tracking_uri(config: RunConfig) -> str:
    """Return ``track.uri``, else MLFLOW_TRACKING_URI, else the output's own SQLite file.

    Raises:
        TrackingError: neither is set, and the output is not a local folder.
    """
    uri = config.track.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return uri
    if local_path(config.output) is None:
        raise TrackingError(
            f"output {config.output} is not a local folder, so it cannot hold MLflow's database; "
            "set track.uri or MLFLOW_TRACKING_URI to a tracking server."
        )
    return _own_uri(config.output)


def recorded_uri(uri: str, output: str) -> str:
    """Return a tracking URI as records hold it: without a password, and valid after a move.

    The output's own SQLite file is recorded as ``sqlite:///{output}/mlflow.db``.
    """
    if local_path(output) is not None and uri == _own_uri(output):
        return f"sqlite:///{OUTPUT_MARK}/{_DATABASE}"
    return hide_password(uri)


def open_store(config: RunConfig) -> MlflowClient:
    """Return a client of the job's store, which is created if need be.

    Raises:
        TrackingError: the store is an SQLite file that cannot be opened.
    """
    uri = tracking_uri(config)
    database = _database_path(uri)
    if database is not None:
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            _relocate_artifacts(database, is_own=uri == _own_uri(config.output))
        except (OSError, sqlite3.Error) as error:
            # MLflow would try again for 100 s.
            raise TrackingError(
                f"MLflow's database {database} cannot be opened ({error}). Check the path and its "
                "permissions, or set track.uri; if the file is damaged, rename it: a new one is "
                "created."
            ) from error
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def artifact_location(config: RunConfig) -> str | None:
    """Return the folder for the artifacts of a new experiment; None for a server, which has one.

    Without one, MLflow would use the current directory for a bare database.
    """
    uri = tracking_uri(config)
    if uri.startswith(("http://", "https://")):
        return None
    if (database := _database_path(uri)) is not None:
        return _artifacts_beside(database)
    return join(config.output, _ARTIFACTS)


def hide_password(text: str) -> str:
    """Replace the secret of ``scheme://user:secret@host`` with ``***``."""
    return re.sub(r"(://[^/\s:@]+):[^/\s@]+@", r"\1:***@", text)


def _own_uri(output: str) -> str:
    folder = local_path(output)
    path = str((folder or Path(output)).absolute() / _DATABASE)
    if not re.search(r"[%?#]", path):
        return f"sqlite:///{path}"
    # MLflow would create a folder with the escaped name if the scheme were only "sqlite".
    uri = URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)
    if make_url(uri).database != path:  # SQLAlchemy before 2.1
        raise TrackingError(
            f"output {output}: MLflow cannot open a database in a folder whose path has '?', '%' "
            "or '#' with this version of SQLAlchemy; choose another output or set track.uri."
        )
    return uri


def _database_path(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for any other store."""
    if not uri.startswith("sqlite"):
        return None
    database = make_url(uri).database
    return Path(database) if database and database != ":memory:" else None


def _artifacts_beside(database: Path) -> str:
    return (database.absolute().parent / _ARTIFACTS).as_uri()


def _relocate_artifacts(database: Path, is_own: bool) -> None:
    """Correct the locations of artifacts that were moved together with their database.

    Args:
        database: MLflow's SQLite file.
        is_own: whether it is an output's own. The artifacts of any other store are only looked for
            beside the database if they are no longer where it says.
    """
    present = _artifacts_beside(database)
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        # The first statement that reads also opens the file.
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return
        locations = connection.execute("SELECT DISTINCT artifact_location FROM experiments")
        for (recorded,) in locations.fetchall():
            if not _has_moved(recorded, present, is_own):
                continue
            for table, column in _LOCATION_COLUMNS:
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (
                            *(present, len(recorded) + 1),
                            *(recorded, len(recorded) + 1, f"{recorded}/"),
                        ),
                    )
            logger.info("MLflow's artifacts moved from %s to %s", recorded, present)


def _has_moved(recorded: str | None, present: str, is_own: bool) -> bool:
    """Return whether artifacts recorded elsewhere are those beside the database."""
    if not recorded or recorded == present or recorded.rpartition("/")[2] != _ARTIFACTS:
        return False
    old, new = local_path(recorded), local_path(present)
    if old is None or new is None or not new.is_dir():
        return False
    return is_own or not old.exists()
