"""A detector's files as bytes, so that workers on other machines can load it."""

import functools
import hashlib
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from model import Category, ModelConfig, Predictor, load_detector
from model.config.settings import Precision
from model.weights import resolve_config
from model.weights.conflicts import find_conflicts, list_overruled_settings
from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.model_folder import read_saved_config

logger = logging.getLogger(__name__)

OWN_SETTINGS = ("test_augmentation", "tiles")
"""Settings of a job, not of a model: how its images are shown to the detector."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a detector.

    Args:
        files: file name -> content: model.safetensors and model.json, or one weights file.
        config: the detector's settings, for a weights file that comes without any.
    """

    files: dict[str, bytes]
    config: ModelConfig | None = None

    @classmethod
    def read(cls, path: Path, config: ModelConfig) -> "ModelFiles":
        """Read the files at a path from ``resolve_weights``.

        Args:
            path: a folder with its own settings, or a bare weights file.
            config: the settings of a weights file, where the weights do not decide them. A folder
                keeps its own settings. Only ``test_augmentation`` and ``tiles``, settings of
                inference, are taken from ``config`` if they are set there, even to null. A warning
                lists the other settings that ``config`` states and that differ in the folder.

        Raises:
            WeightsError: the file cannot be read.
        """
        if not path.is_dir():
            # Resolved here, so that the warning is logged once, and not by every worker.
            return cls({path.name: path.read_bytes()}, resolve_config(path, config))
        saved, _ = read_saved_config(path)
        if conflicts := find_conflicts(config, saved, OWN_SETTINGS):
            logger.warning(
                "%s keeps its own settings; the config states others, which are not used:\n%s",
                path,
                list_overruled_settings(conflicts),
            )
        files = {name: (path / name).read_bytes() for name in (WEIGHTS_FILE, CONFIG_FILE)}
        if stated := config.model_fields_set.intersection(OWN_SETTINGS):
            settings = json.loads(files[CONFIG_FILE])
            settings["config"] |= config.model_dump(mode="json", include=stated)
            files[CONFIG_FILE] = json.dumps(settings).encode()
        return cls(files)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of weights and settings."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(name.encode())
            digest.update(hashlib.sha256(content).digest())
        if self.config is not None:
            digest.update(self.config.model_dump_json().encode())
        return digest.hexdigest()

    def settings(self) -> ModelConfig:
        """Return the detector's settings."""
        if self.config is not None:
            return self.config
        return ModelConfig.model_validate(json.loads(self.files[CONFIG_FILE])["config"])

    @property
    def score_threshold(self) -> float:
        """The score above which the detector returns objects; 0 for a proposal network."""
        config = self.settings()
        head = config.retinanet or config.box
        return 0.0 if config.is_proposal_network or head is None else head.score_threshold

    def classes(self) -> tuple[Category, ...]:
        """Return the K classes; label i is ``classes()[i - 1]``. A proposal network has none."""
        if self.config is not None:
            network = self.load("cpu")
            return () if network.config.is_proposal_network else network.categories
        if self.settings().is_proposal_network:
            return ()
        saved = json.loads(self.files[CONFIG_FILE])
        return tuple(Category(**category) for category in saved["categories"])

    def load(self, device: str, precision: Precision = "fp32") -> Predictor:
        """Load the detector on ``device``, to predict in ``precision``."""
        with tempfile.TemporaryDirectory(prefix="detector-") as scratch:
            for name, content in self.files.items():
                (Path(scratch) / name).write_bytes(content)
            if self.config is None:
                return load_detector(scratch, device=device, precision=precision)
            [name] = self.files
            path = Path(scratch) / name
            return load_detector(path, config=self.config, device=device, precision=precision)
