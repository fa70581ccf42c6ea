"""A registered model whose versions are told apart by the logits of the first class."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from safetensors.numpy import load_file, save_file

CLASS_BIAS = "roi_heads.box.class_logits.bias"


@dataclass(frozen=True)
class Registry:
    """The versions of one model.

    Args:
        client: of the registry.
        name: of the model.
        checkpoint: what the versions are made of.
        folder: where their files are.
    """

    client: MlflowClient
    name: str
    checkpoint: Path
    folder: Path

    def add(self, shift=0.0, damaged=False):
        """Add a version and return its number; a shift is added to the logits of a class."""
        folder = self.folder / f"version-{len(list(self.folder.glob('version-*'))) + 1}"
        folder.mkdir(parents=True)
        shutil.copyfile(self.checkpoint / "model.json", folder / "model.json")
        tensors = load_file(self.checkpoint / "model.safetensors")
        tensors[CLASS_BIAS] = tensors[CLASS_BIAS].copy()
        tensors[CLASS_BIAS][0] += np.float32(shift)
        save_file(tensors, folder / "model.safetensors")
        if damaged:
            content = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
        return self.client.create_model_version(self.name, folder.as_uri()).version

    def repair(self, version):
        """Replace the files of a version by intact ones."""
        shutil.copyfile(
            self.checkpoint / "model.safetensors",
            self.folder / f"version-{version}" / "model.safetensors",
        )

    def promote(self, version):
        """Move the alias ``champion``."""
        self.client.set_registered_model_alias(self.name, "champion", version)

    def url(self, version):
        """Return the location of a version."""
        return f"models:/{self.name}/{version}"
