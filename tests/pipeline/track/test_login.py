"""An MLflow server with a login, PostgreSQL and S3, started by the lines in docs/CLUSTER.md."""

import contextlib
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psycopg2
import pytest
from mlflow.server import get_app_client

from pipeline.config import TrackConfig
from pipeline.track.manual_promotion import promote_version
from pipeline.track.mlflow_run import open_run
from pipeline.track.mlflow_store import TrackingError
from pipeline.track.model_registry import register_model
from pipeline.track.weights_source import resolve_weights
from tests.mlflow_server import MlflowServer

ROOT = Path(__file__).resolve().parent.parent.parent.parent
ADMIN = ("admin", "a-long-password")
MEMBER = ("member", "another-password")


def block_with(text):
    """Return the only block of code in docs/CLUSTER.md that has a text."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", (ROOT / "docs/CLUSTER.md").read_text(), re.DOTALL)
    [block] = [block for block in blocks if text in block]
    return block.replace("...", ADMIN[1])


@pytest.fixture(scope="module")
def server(postgres, s3, tmp_path_factory):
    pytest.importorskip("flask_wtf", reason="no login: pip install 'mlflow[auth]'")
    connection = psycopg2.connect(postgres.replace("+psycopg2", ""))
    connection.autocommit = True
    for statement in block_with("CREATE ROLE").split(";")[:-1]:
        connection.cursor().execute(statement)
    lines = block_with("--app-name basic-auth").splitlines(keepends=True)
    script = "".join(line for line in lines if not line.startswith("pip install"))
    for placeholder, value in {
        "DATABASE": f"127.0.0.1 PGPORT={connection.info.port}",
        "--host MLFLOW": "--host 127.0.0.1 --workers 1",
        "MLFLOW:": "127.0.0.1:",
        "5000": "{port}",
        "s3://bucket/mlflow": s3("mlflow"),
    }.items():
        assert placeholder in script
        script = script.replace(placeholder, value)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    folder = tmp_path_factory.mktemp("login")
    with (
        contextlib.closing(connection),
        MlflowServer(folder, script=script, cwd=ROOT, PATH=path) as server,
    ):
        yield server


@pytest.fixture
def log_in(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

    def use(user, password):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return use


def config_at(run_config, uri):
    return run_config.model_copy(update={"track": TrackConfig(uri=uri, model_name="with-login")})


@pytest.mark.soak
@pytest.mark.s3
def test_members_record_and_promote_in_what_another_one_created(
    run_config, server, log_in, make_checkpoint
):
    config = config_at(run_config, server.uri)

    def register(number, value):
        with open_run(config, "train") as run:
            metrics = {"segm/AP": value}
            return register_model(config, make_checkpoint(number), metrics, run.run_id, "d" * 64)

    log_in(*ADMIN)
    get_app_client("basic-auth", tracking_uri=server.uri).create_user(*MEMBER)
    assert register(1, 0.2).promoted
    log_in(*MEMBER)
    assert register(2, 0.3).promoted
    with resolve_weights("models:/with-login@champion", config) as folder:
        stored = (folder / "model.safetensors").read_bytes()
    assert stored == (Path(make_checkpoint(2)) / "model.safetensors").read_bytes()
    assert not register(3, 0.1).promoted
    # Members cannot remove the alias of a candidate, which must not keep them from promoting it.
    because = config.track.model_copy(update={"because": "fewer false alarms"})
    promoted = promote_version(config.model_copy(update={"track": because}), "3")
    assert (promoted.version, promoted.promoted) == ("3", True)


@pytest.mark.s3
@pytest.mark.parametrize("user", [("admin", "a-wrong-password"), ("", "")], ids=["wrong", "none"])
def test_a_wrong_password_is_one_line_that_says_what_to_set(run_config, server, log_in, user):
    log_in(*user)
    with (
        pytest.raises(TrackingError, match="refuses the user or password") as raised,
        open_run(config_at(run_config, server.uri), "train"),
    ):
        pytest.fail("the run was opened")
    message = str(raised.value)
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in message
    assert "\n" not in message
    assert "a-wrong-password" not in message


def test_a_host_name_that_the_server_does_not_allow_is_named_as_the_reason(run_config, log_in):
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"Invalid Host header - possible DNS rebinding attack detected"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        Thread(target=refusing.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{refusing.server_port}"
        with (
            pytest.raises(TrackingError, match="--allowed-hosts"),
            open_run(config_at(run_config, uri), "train"),
        ):
            pytest.fail("the run was opened")
        refusing.shutdown()
