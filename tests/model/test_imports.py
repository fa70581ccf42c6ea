"""The model works without the packages of the pipeline: cluster, tracker and storage."""

import subprocess
import sys

WITHOUT_PIPELINE_PACKAGES = """
import sys

for name in ("ray", "mlflow", "pyarrow", "boto3", "pycocotools", "torchvision"):
    sys.modules[name] = None  # importing it now fails

import numpy as np
from model import ModelConfig, Predictor, build_detector

config = ModelConfig.model_validate(
    {"num_classes": 2, "input": {"short_side": 64, "long_side": 64},
     "backbone": {"depth": 18, "width": 8}, "fpn": {"channels": 16}, "box": {"hidden": 16}}
)
[detections] = Predictor(build_detector(config)).predict([np.zeros((50, 40, 3), np.uint8)])
assert detections.image_size == (50, 40)
"""


def test_a_detector_predicts_without_the_packages_of_the_pipeline():
    subprocess.run([sys.executable, "-c", WITHOUT_PIPELINE_PACKAGES], check=True)
