"""The folder of results: checked before anything starts, written file by file."""

import io
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import simplejpeg
from PIL import Image

from model.images.decode import Pixels
from pipeline import storage
from pipeline.predict.errors import PredictError
from pipeline.predict.inputs import InputFile

if TYPE_CHECKING:
    from pipeline.predict.detector import Crop

CROPS_FOLDER = "crops"
JPEG_QUALITY = 92
_PNG_LEVEL = 3  # a third larger than 6, at a third of the time


class Output:
    """A folder of results.

    Args:
        url: a local folder, which is created, or an s3:// URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def check(self, inputs: Iterable[InputFile], others: Iterable[str], overwrite: bool) -> None:
        """Check that results can be written and that they replace nothing by accident.

        Args:
            inputs: their results are written under their names.
            others: names of further results: files, or folders that must not exist.
            overwrite: whether files that exist are replaced. Inputs never are.

        Raises:
            PredictError: the folder cannot be written to, or has files of these names.
            StorageError: the store cannot be read.
        """
        files = list(inputs)
        is_local = storage.local_path(self.url) is not None
        existing = None if is_local else set(storage.list_files(self.url))
        sources = {_real(file.url) for file in files}
        found = []
        for name in [*(file.name for file in files), *others]:
            url = self.url_of(name)
            if _real(url) in sources:
                raise PredictError(
                    f"{url} is an input and would be replaced; choose another --output"
                )
            if existing is None:
                is_there = os.path.lexists(url)
            else:
                is_there = url in existing or any(each.startswith(f"{url}/") for each in existing)
            if is_there:
                found.append(name)
        if found and not overwrite:
            more = f" and {len(found) - 1} more files of this job" if len(found) > 1 else ""
            raise PredictError(
                f"{self.url} has {found[0]}{more} already; choose another --output, or replace "
                "them with --overwrite"
            )
        if is_local:
            self._check_folder()

    def url_of(self, name: str) -> str:
        """Return the URL of a result."""
        return storage.join(self.url, name)

    def local_file(self, name: str) -> Path:
        """Return the path of a result in a local folder, which is created.

        Raises:
            PredictError: the output is no local folder, or cannot be written to.
        """
        path = storage.local_path(self.url_of(name))
        if path is None:
            raise PredictError(f"videos are written to local folders; got --output {self.url}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PredictError(f"cannot write to {path.parent}: {error.strerror}") from None
        return path

    def write_image(self, name: str, pixels: Pixels) -> None:
        """Write an image as the JPEG or PNG file that its name says.

        Raises:
            StorageError: it cannot be written.
        """
        storage.write_bytes(self.url_of(name), encode(name, pixels))

    def write_crops(self, name: str, crops: "Iterable[Crop]") -> None:
        """Write the objects of an image, named after it, into a folder per class.

        Raises:
            StorageError: one cannot be written.
        """
        path = PurePosixPath(name)
        stem = str(path.parent / path.stem)
        for number, crop in enumerate(crops):
            folder = re.sub(r"[\\/\x00-\x1f]", "_", crop.class_name).strip(". ") or "_"
            file = f"{CROPS_FOLDER}/{folder}/{stem}_{number:02d}.png"
            storage.write_bytes(self.url_of(file), encode(file, crop.pixels))

    def _check_folder(self) -> None:
        folder = self.local_file("any").parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise PredictError(f"cannot write to {folder}: {error.strerror}") from None


def encode(name: str, pixels: Pixels) -> bytes:
    """Encode an image, (H, W, 3 or 4) uint8, as JPEG or PNG by the suffix of a name."""
    if name.lower().endswith((".jpg", ".jpeg")):
        # Full color resolution: thin colored lines would be blurred.
        return bytes(
            simplejpeg.encode_jpeg(
                pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
            )
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()


def _real(url: str) -> str:
    path = storage.local_path(url)
    return url if path is None else os.path.realpath(path)
