"""Make the images of README.md and docs from the output of `make quickstart`.

    python tools/draw_readme_images.py runs/quickstart

Needs Chromium for the page. The objects in the images are shapes that this project draws.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from model import load_detector
from pipeline.draw import tile_images
from pipeline.ingest.shapes_dataset import draw_shapes_dataset

TARGET = Path(__file__).parents[1] / "docs/images"
COUNT, COLUMNS, SIDE = 8, 4, 128
SEED = 2017  # not the seed of the training images
CHROMIUM = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--blink-settings=preferredColorScheme=1", "--virtual-time-budget=30000"),
)


def main() -> None:
    """Draw, and photograph the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="output folder of a finished chain")
    output = parser.parse_args().output.resolve()
    TARGET.mkdir(exist_ok=True)
    draw_detections(output).save(TARGET / "detections.jpg", quality=88)
    with tempfile.TemporaryDirectory() as folder:
        # Without the path of this machine.
        report = Path(folder) / "report.html"
        text = (output / "report.html").read_text()
        report.write_text(text.replace(str(output), f"runs/{output.name}"))
        photograph(report.as_uri(), TARGET / "chain_report.png", (1100, 1250))


def draw_detections(output: Path) -> Image.Image:
    """Return a sheet of drawn shapes with what the trained detector finds in them."""
    detector = load_detector(output)
    with tempfile.TemporaryDirectory() as folder:
        _, images = draw_shapes_dataset(Path(folder), COUNT, SIDE, max_objects=4, seed=SEED)
        paths = sorted(images.iterdir())
        drawn = [np.asarray(detector.draw(path, min_score=0.8)) for path in paths]
    return Image.fromarray(tile_images(drawn, [""] * COUNT, COLUMNS)).reduce(2)


def photograph(url: str, path: Path, size: tuple[int, int]) -> None:
    """Save a page as it looks in a window of a width and height in pixels."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("no Chromium: install the package chromium")
    with tempfile.TemporaryDirectory() as profile:
        options = [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        command = [chromium, *CHROMIUM, *options, f"--screenshot={path}", url]
        subprocess.run(command, check=True, capture_output=True, timeout=300)


if __name__ == "__main__":
    main()
