"""Make the images of MLflow's pages, and of the page of `serve`, for docs.

    maskrcnn-ray end_to_end configs/quickstart.yaml
    maskrcnn-ray sweep configs/quickstart.yaml 'sweep.space={train.optimizer.lr: ...}'
    maskrcnn-ray serve configs/quickstart.yaml &
    python -m tools.draw_mlflow_pages runs/quickstart --serve http://127.0.0.1:8000

Starts an MLflow server on the output's database and opens its pages in Chromium, which is driven by
the protocol of its developer tools. With `chromium --screenshot` the charts stay empty: its
virtual time runs on while MLflow's page still asks for the metrics. All images are written to --to;
those that the docs show belong in docs/images.
"""

import argparse
import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from tests.pipeline.serve.browser import Page, opened_browser
from tests.postgresql import free_port

WIDTH = 1200  # pixels
COLORS = 128  # enough for pages with charts, and small files
START_S, DRAWN_S, SETTLE_S = 300.0, 180.0, 3.0
KIND = "?workflowType=machine_learning"  # else MLflow shows the menu for language models

CHARTS = "document.querySelectorAll('.js-plotly-plot path.js-line').length >= 6"
"""True once the lines of the charts in the window are drawn."""

PREPARE = """
const stored = {
  'mlflow.assistant.fab.autoOpenedOnFirstLoad_v1': 'true',
  'mlflow.assistant.panelOpen_v1': 'false',
  'mlflow.workflowType_v1': '"machine_learning"',
};
for (const [key, value] of Object.entries(stored)) localStorage.setItem(key, value);
for (let id = 0; id < 100; id++)
  localStorage.setItem(`MLflowLocalStorage-1.1-ExperimentView-${id}-expandRows`, 'true');
const style = document.createElement('style');
style.textContent = '.modebar {display: none}';
addEventListener('DOMContentLoaded', () => document.head.append(style));
"""
"""Runs in each page first: no assistant, nested runs unfolded, no buttons over the charts, which
MLflow shows only below a mouse."""


def main() -> None:
    """Draw the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="output folder with an mlflow.db")
    parser.add_argument("--serve", metavar="URL", help="a running server of the job serve")
    parser.add_argument("--to", type=Path, default=Path("pages"), help="folder of the images")
    parser.add_argument("--only", nargs="+", metavar="PAGE", help="such as run_charts version")
    options = parser.parse_args()
    options.to.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, opened_browser(Path(scratch)) as page:
        if options.serve:
            draw_serve_page(page, options.serve, Path(scratch), options.to / "serve_page.png")
        page.call("Page.addScriptToEvaluateOnNewDocument", source=PREPARE)
        with mlflow_server(options.output.resolve()) as uri:
            for name, (path, drawn, height) in pages_of(MlflowClient(uri)).items():
                if options.only and name not in options.only:
                    continue
                try:
                    open_page(page, f"{uri}/#{path}{KIND}", drawn, height)
                except AssertionError as error:  # what the page shows instead
                    print(f"{name} is not drawn in {DRAWN_S:g} s: {error}"[:1000])
                else:
                    save(page, options.to / f"mlflow_{name}.png")


def pages_of(client: MlflowClient) -> dict[str, tuple[str, str, int]]:
    """Return name -> path, what is true in the page once it is drawn, and height in pixels."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)  # the newest first
    pages = {}
    if (run := _newest(runs, "train")) is not None:
        path = f"/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        pages["run"] = (path, _shows("Registered models", "Logged models"), 1100)
        pages["run_charts"] = (f"{path}/model-metrics", CHARTS, 900)
        pages["system_charts"] = (f"{path}/system-metrics", CHARTS, 900)
        pages["artifacts"] = (f"{path}/artifacts", _shows("config.yaml"), 800)
        models = f"/experiments/{run.info.experiment_id}/models"
        pages["checkpoints"] = (models, _shows("step_"), 500)
    if (run := _newest(runs, "sweep")) is not None:
        path = f"/experiments/{run.info.experiment_id}/runs"
        pages["nested_runs"] = (path, _shows(run.info.run_name, "0000"), 560)
    for model in client.search_registered_models():
        version = max(int(each.version) for each in model.latest_versions)
        pages["model"] = (f"/models/{model.name}", _shows("champion"), 520)
        path = f"/models/{model.name}/versions/{version}"
        pages["version"] = (path, _shows("promotion_reason"), 900)
    return pages


def _newest(runs: list[Run], job: str) -> Run | None:
    """Return the newest run of a job that is not nested in another."""
    alone = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    return next((run for run in alone if run.data.tags.get("job") == job), None)


def _shows(*texts: str) -> str:
    return " && ".join(f"document.body.innerText.includes({json.dumps(text)})" for text in texts)


def draw_serve_page(page: Page, url: str, scratch: Path, path: Path) -> None:
    """Draw the page of the job serve with an image of shapes."""
    _, images = draw_shapes_dataset(scratch / "shapes", 1, 256, max_objects=6, seed=2017)
    page.open(url)
    page.choose_file("#file", next(images.iterdir()))
    page.wait_for("document.querySelectorAll('#objects li').length > 0", DRAWN_S)
    resize(page, 900)
    save(page, path)


def open_page(page: Page, url: str, drawn: str, height: int) -> None:
    """Open an address in a window of a height, and wait until it is drawn."""
    resize(page, height)
    page.open("about:blank")  # another part after the # alone would not load the page again
    page.open(url)
    page.wait_for(drawn, DRAWN_S)
    time.sleep(SETTLE_S)  # texts and charts move to their places


def resize(page: Page, height: int) -> None:
    """Give the window a height in pixels."""
    size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **size)


def save(page: Page, path: Path) -> None:
    """Save the window as a PNG of few colors."""
    content = base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"])
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


@contextlib.contextmanager
def mlflow_server(output: Path) -> Iterator[str]:
    """Start MLflow's server on the database of an output for a ``with`` block; yield its URI."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{output}/mlflow.db"),
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("the MLflow server did not start")
            time.sleep(0.5)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
