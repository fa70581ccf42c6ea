"""Batch inference on local files, and the bare detector on the same images in memory.

    python -m benchmarks.batch_inference --images FOLDER --count 64

The job lists and decodes the files, predicts, encodes masks and writes rows and ledger; the
detector alone gets decoded images and returns detections (``detector``), or also encodes their
masks (``detector, rle``). Rounds take turns. Starting the job and loading the model do not count.
``share`` is the job's rate over that of the case.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import PIL.Image
import torch

from benchmarks.machine import print_table, save
from benchmarks.peers import (
    LIGHT,
    MODELS,
    Image,
    build_ours,
    build_peer,
    read_images,
    time_alternately,
)
from model import Predictor
from model.images.decode import decode_image
from ops_cuda import backend
from pipeline.infer.detection_stream import WINDOW_BATCHES
from pipeline.infer.image_plan import plan_images
from pipeline.infer.inference_worker import InferenceJob, predict_chunk
from pipeline.infer.sources.folder import FolderImages

SHORT_SIDE, LIGHT_SHORT_SIDE = 800, 480


def main() -> None:
    options = _parse()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    images = read_images(options.images, options.count)
    print(backend())
    rows = [row for model in options.models for row in _measure(model, options, images, device)]
    print_table(rows)
    if options.out:
        save(rows, options.out)


def _measure(
    model: str, options: argparse.Namespace, images: Sequence[Image], device: torch.device
) -> list[dict[str, object]]:
    short_side = LIGHT_SHORT_SIDE if model == LIGHT else SHORT_SIDE
    long_side = round(short_side * 1333 / 800)
    peer = build_peer(model, short_side, long_side, device).eval()
    predictor = build_ours(peer, short_side, long_side, device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        for number, image in enumerate(images):
            PIL.Image.fromarray(image).save(folder / f"{number:06d}.jpg", quality=92)
        decoded = [decode_image(path.read_bytes()) for path in sorted(folder.iterdir())]
        cases = _bare_cases(predictor, decoded, options.batch)
        job = _job(predictor, folder, Path(scratch), options.batch)
        times = time_alternately([job, *cases.values()], options.repeats, device)
    job_ms, *case_ms = (ms / len(images) for ms in times)
    return [
        {
            "model": model,
            "device": options.device,
            "short_side": short_side,
            "batch": options.batch,
            "images": len(images),
            "case": case,
            "job_images_per_s": 1000 / job_ms,
            "case_images_per_s": 1000 / ms,
            "share": ms / job_ms,
        }
        for case, ms in zip(cases, case_ms, strict=True)
    ]


def _job(predictor: Predictor, folder: Path, scratch: Path, batch: int) -> Callable[[], None]:
    """Return a function that runs a job into an output folder of its own each time."""

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=scratch) as output:
            job = InferenceJob(output, batch, 0.05, "benchmark", model_digest="0")
            plan = plan_images(FolderImages(str(folder)), output, 64, None, lambda _: "key")
            for chunk in plan.unfinished():
                for _ in predict_chunk(predictor, chunk, job, "key"):
                    pass

    return run


def _bare_cases(
    predictor: Predictor, images: Sequence[Image], batch: int
) -> dict[str, Callable[[], None]]:
    # As many images in a call as the job gives the detector: it batches them by shape.
    size = WINDOW_BATCHES * batch
    windows = [images[start : start + size] for start in range(0, len(images), size)]

    def detect() -> None:
        for window in windows:
            for _ in predictor.predict(window, batch):
                pass

    def detect_and_encode() -> None:
        for window in windows:
            for detections in predictor.predict(window, batch):
                if detections.masks is not None:
                    detections.rle()

    return {"detector": detect, "detector, rle": detect_and_encode}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", choices=(*MODELS, LIGHT), nargs="+", default=("mask_rcnn", LIGHT)
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=Path, help="folder of images; default: synthetic images")
    parser.add_argument("--count", type=int, default=32, help="number of images")
    parser.add_argument("--batch", type=int, default=4, help="images per forward pass")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    return parser.parse_args()


if __name__ == "__main__":
    main()
