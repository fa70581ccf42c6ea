"""Build the detector that a configuration describes."""

from collections.abc import Sequence

import torch

from model.config import ModelConfig
from model.detector import Detector
from model.one_stage import OneStageDetector
from model.proposal_network import ProposalNetwork
from model.structures import Category
from model.two_stage import TwoStageDetector


def build_detector(config: ModelConfig, categories: Sequence[Category] = ()) -> Detector:
    """Return a detector with random weights, in channels_last layout.

    Args:
        config: all settings.
        categories: the classes; by default ``class_1`` to ``class_K`` with ids 1 to K.

    Raises:
        ValueError: the number of categories is not ``config.num_classes``.
    """
    categories = categories or [Category(i, f"class_{i}") for i in range(1, config.num_classes + 1)]
    detector: Detector
    if config.retinanet is not None:
        detector = OneStageDetector(config, config.retinanet, categories)
    elif config.box is not None:
        detector = TwoStageDetector(config, config.box, categories)
    else:
        detector = ProposalNetwork(config, categories)
    return detector.to(memory_format=torch.channels_last)
