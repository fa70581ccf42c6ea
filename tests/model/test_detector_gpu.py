"""Mask and Keypoint R-CNN on a GPU compute what they compute on the CPU, also in half precision."""

import numpy as np
import pytest
import torch

from model import Predictor, build_detector
from tests.model.training import total_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def detector_without_sampling(tiny_config, keypoint_head):
    """A detector that samples all candidates, since rounding would change random samples."""
    config = tiny_config(keypoint=keypoint_head)
    box = config.box.model_copy(update={"samples_per_image": 10_000})
    rpn = config.rpn.model_copy(update={"samples_per_image": 100_000})
    torch.manual_seed(0)
    return build_detector(config.model_copy(update={"box": box, "rpn": rpn}))


def test_losses_on_the_gpu_equal_those_on_the_cpu(
    detector_without_sampling, keypoint_scenes, make_batch
):
    batch, device = make_batch(keypoint_scenes), torch.device("cuda")
    expected = detector_without_sampling(batch, keypoint_scenes)
    targets = [target.to(device) for target in keypoint_scenes]
    terms = detector_without_sampling.to(device)(batch.to(device), targets)
    for name, term in terms.items():
        # TF32 is off by default for matrix products, on for convolutions: 10 bits.
        torch.testing.assert_close(
            (term.total / term.count).cpu(),
            expected[name].total / expected[name].count,
            rtol=2e-2,
            atol=1e-3,
        )


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_every_parameter_has_a_gradient_in_half_precision(
    detector_without_sampling, keypoint_scenes, make_batch, precision
):
    device = torch.device("cuda")
    detector = detector_without_sampling.to(device)
    targets = [target.to(device) for target in keypoint_scenes]
    with torch.autocast("cuda", precision):
        terms = detector(make_batch(keypoint_scenes).to(device), targets)
    total_loss(terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_detections_on_the_gpu_equal_those_on_the_cpu(full_detector):
    predictor = Predictor(full_detector)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    (expected,) = predictor.predict([image])
    (result,) = predictor.to("cuda").predict([image])
    assert result.boxes.device.type == result.keypoints.device.type == "cpu"
    assert result.keypoints.shape == (len(result), 3, 3)
    assert abs(len(result) - len(expected)) <= 0.2 * len(expected)
    torch.testing.assert_close(result.scores[:5], expected.scores[:5], atol=1e-2, rtol=0)
