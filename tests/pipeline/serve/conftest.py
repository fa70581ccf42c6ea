"""Replicas of a tiny detector on the tests' Ray, web servers in front of them, and a registry."""

import contextlib
import io
import json
import urllib.error
import urllib.request
from dataclasses import dataclass

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from model import load_detector
from pipeline.cluster import connect
from pipeline.config import RunConfig, ServeConfig
from pipeline.serve.app import DetectionApp
from pipeline.serve.deployment import deployed_detector
from pipeline.serve.http_server import HttpServer, listen, url_of
from tests.pipeline.serve.registry import Registry


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    body: bytes
    headers: dict

    @property
    def content(self):
        return json.loads(self.body)


@pytest.fixture(scope="session")
def send():
    """A function: URL, body and headers -> `Reply`, also of errors."""

    def send_request(url, body=None, headers=()):
        request = urllib.request.Request(url, body, dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Reply(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.read(), dict(error.headers))

    return send_request


@pytest.fixture(scope="session")
def encoded():
    """A function: seed, size, format and options -> an image file of smooth noise, as bytes."""

    def encode(seed=0, width=80, height=60, image_format="PNG", **options):
        small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def predictor(tiny_checkpoint):
    """The detector that is served, in this process."""
    return load_detector(tiny_checkpoint)


@pytest.fixture(scope="session")
def serve_config(tiny_checkpoint, tmp_path_factory):
    """Settings of a server with low limits and a batch of four images."""
    settings = ServeConfig(
        model=str(tiny_checkpoint),
        port=0,
        batch=4,
        min_score=0.0,
        max_megabytes=0.1,
        max_pixels=500 * 400,
        stop_s=5.0,
    )
    return RunConfig(output=str(tmp_path_factory.mktemp("served")), serve=settings)


@pytest.fixture(scope="package")
def service(ray_cluster, serve_config):
    """One replica, on one of the two CPUs, which other tests need afterwards."""
    with deployed_detector(serve_config, connect(), port=1) as deployed:
        yield deployed


@pytest.fixture(scope="session")
def web_server(serve_config):
    """A context: a service (or None while one is loading) and changed settings -> the URL."""

    @contextlib.contextmanager
    def run(service, **settings):
        config = serve_config.serve.model_copy(update=settings)
        app = DetectionApp(config)
        app.service = service
        listening = listen("127.0.0.1", 0)
        http = HttpServer(app.asgi, listening, config.stop_s)
        http.start()
        try:
            yield url_of(listening)
        finally:
            http.stop()

    return run


@pytest.fixture(scope="package")
def url(service, web_server):
    """The address of a server in front of the replica."""
    with web_server(service) as address:
        yield address


@pytest.fixture
def registry(mlflow_uri, run_config, tiny_checkpoint, tmp_path):
    """A registered model without versions."""
    client = MlflowClient(mlflow_uri, registry_uri=mlflow_uri)
    name = run_config.track.model_name
    client.create_registered_model(name)
    return Registry(client, name, tiny_checkpoint, tmp_path)
