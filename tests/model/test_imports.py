"""The detector works where no cluster, tracker or store is installed."""

import subprocess
import sys

WITHOUT_PIPELINE_PACKAGES = """
import sys

for name in ("ray", "mlflow", "pyarrow", "boto3", "pycocotools", "torchvision"):
    sys.modules[name] = None  # importing it now fails

import numpy as np
from model import ModelConfig, build_detector

config = ModelConfig.model_validate(
    {"num_classes": 2, "input": {"short_side": 64, "long_side": 64},
     "backbone": {"depth": 18, "width": 8}, "fpn": {"channels": 16}, "box": {"hidden": 16}}
)
[found] = build_detector(config).predict([np.zeros((50, 40, 3), np.uint8)])
assert found.image_size == (50, 40)
"""


def test_the_detector_predicts_without_the_packages_of_the_pipeline():
    subprocess.run([sys.executable, "-c", WITHOUT_PIPELINE_PACKAGES], check=True)
