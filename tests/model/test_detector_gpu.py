import numpy as np
import pytest
import torch

from model import build_detector

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def posed_scenes(scenes, with_keypoints):
    return [with_keypoints(target) for target in scenes]


def everything(tiny_config, keypoint_head):
    """A detector that samples all candidates: rounding moves proposals, and with them a choice."""
    config = tiny_config(keypoint=keypoint_head)
    box = config.box.model_copy(update={"samples_per_image": 10_000})
    rpn = config.rpn.model_copy(update={"samples_per_image": 100_000})
    torch.manual_seed(0)
    return build_detector(config.model_copy(update={"box": box, "rpn": rpn}))


def test_the_gpu_loses_what_the_cpu_loses(tiny_config, keypoint_head, posed_scenes, batch_of):
    detector = everything(tiny_config, keypoint_head)
    scenes = posed_scenes
    expected = detector(batch_of(scenes), scenes)
    device = torch.device("cuda")
    got = detector.to(device)(batch_of(scenes).to(device), [target.to(device) for target in scenes])
    for name, term in got.items():
        # TF32 is off by default for matrix products, on for convolutions: 10 bits.
        torch.testing.assert_close(
            (term.total / term.count).cpu(),
            expected[name].total / expected[name].count,
            rtol=2e-2,
            atol=1e-3,
        )


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_trains_every_parameter_on_the_gpu(
    tiny_config, keypoint_head, posed_scenes, batch_of, precision
):
    device = torch.device("cuda")
    detector = everything(tiny_config, keypoint_head).to(device)
    targets = [target.to(device) for target in posed_scenes]
    with torch.autocast("cuda", precision):
        terms = detector(batch_of(targets).to(device), targets)
    sum(term.total / term.count.clamp(min=1) for term in terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_the_gpu_finds_what_the_cpu_finds(full_detector):
    detector = full_detector
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    (expected,) = detector.predict([picture])
    (got,) = detector.to("cuda").predict([picture])
    assert got.boxes.device.type == got.keypoints.device.type == "cpu"
    assert got.keypoints.shape == (len(got), 3, 3)
    assert abs(len(got) - len(expected)) <= 0.2 * len(expected)
    torch.testing.assert_close(got.scores[:5], expected.scores[:5], atol=1e-2, rtol=0)
