"""Images through a detector: decoded ahead, batched, one bad image never stopping the rest."""

import hashlib
import json
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model import Detections, Detector, ModelConfig, load_detector
from pipeline.infer.inputs import InputImage
from pipeline.shards.decode import decode_image
from pipeline.track.weights_source import SETTINGS_FILE, WEIGHTS_FILE

DECODE_THREADS = 2


@dataclass(frozen=True)
class ImagePrediction:
    """What was found in one image, or why nothing could be looked for.

    Args:
        image: as it was read; its ``encoded`` is kept only until the prediction is consumed.
        detections: in the image's own pixels; None where ``error`` tells why.
        error: why the image could not be read or decoded.
    """

    image: InputImage
    detections: Detections | None
    error: str | None = None


@dataclass(frozen=True)
class ModelFiles:
    """A detector as bytes, to be handed to other machines.

    Args:
        files: name to content: model.safetensors and model.json, or one weights file.
        config: the model's settings, for a weights file that does not bring its own.
    """

    files: dict[str, bytes]
    config: ModelConfig | None = None

    @classmethod
    def read(cls, path: Path, config: ModelConfig) -> "ModelFiles":
        """Take what ``resolve_weights`` gave.

        Args:
            path: a folder with its own settings, or a bare weights file.
            config: of a weights file. Of a folder only ``test_augmentation`` is read, where the
                config states it, be it null: how pictures are looked at is decided when predicting,
                not when training.
        """
        if not path.is_dir():
            return cls({path.name: path.read_bytes()}, config)
        files = {name: (path / name).read_bytes() for name in (WEIGHTS_FILE, SETTINGS_FILE)}
        if "test_augmentation" in config.model_fields_set:
            description = json.loads(files[SETTINGS_FILE])
            stated = config.model_dump(mode="json", include={"test_augmentation"})
            description["config"] |= stated
            files[SETTINGS_FILE] = json.dumps(description).encode()
        return cls(files)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of weights and settings."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(name.encode())
            digest.update(hashlib.sha256(content).digest())
        if self.config is not None:
            digest.update(self.config.model_dump_json().encode())
        return digest.hexdigest()

    def load(self, device: str) -> Detector:
        """The detector in eval mode on ``device``."""
        with tempfile.TemporaryDirectory(prefix="detector-") as scratch:
            for name, content in self.files.items():
                (Path(scratch) / name).write_bytes(content)
            if self.config is None:
                return load_detector(scratch, device=device)
            [name] = self.files
            return load_detector(Path(scratch) / name, config=self.config, device=device)


def predict_images(
    detector: Detector, images: Iterable[InputImage], batch: int
) -> Iterator[ImagePrediction]:
    """Run the detector over a stream of images.

    Args:
        detector: on any device, in any mode.
        images: encoded images; those with ``error`` pass through.
        batch: images per forward pass.

    Yields:
        One prediction per image, in order.
    """
    for group in _decoded_groups(images, batch):
        pictures = [pixels for _, pixels in group if isinstance(pixels, np.ndarray)]
        found = iter(detector.predict(pictures, batch_size=batch) if pictures else ())
        for image, pixels in group:
            if isinstance(pixels, str):
                yield ImagePrediction(image, None, pixels)
            else:
                yield ImagePrediction(image, next(found))


Decoded = np.ndarray | str
"""(H, W, 3) uint8 RGB, or why there is none."""


def _decoded_groups(
    images: Iterable[InputImage], batch: int
) -> Iterator[list[tuple[InputImage, Decoded]]]:
    """Groups of ``batch`` images; the next group is decoded while the caller uses this one."""
    waiting: deque[tuple[InputImage, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(DECODE_THREADS, "decode") as pool:
        for image in images:
            waiting.append((image, pool.submit(_decode, image)))
            if len(waiting) == 2 * batch:
                yield [_result(waiting) for _ in range(batch)]
        while waiting:
            yield [_result(waiting) for _ in range(min(batch, len(waiting)))]


def _result(
    waiting: deque[tuple[InputImage, Future[Decoded]]],
) -> tuple[InputImage, Decoded]:
    image, decoded = waiting.popleft()
    return image, decoded.result()


def _decode(image: InputImage) -> Decoded:
    if image.error is not None:
        return image.error
    try:
        return decode_image(image.encoded)
    except Exception as error:  # a decoder's errors are of many kinds
        return f"cannot be decoded ({type(error).__name__}: {error})"
