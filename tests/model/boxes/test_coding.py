import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder as TorchvisionCoder

from model.boxes.coding import BoxCoder

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 300
    return torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator) * 300), 1)


@given(st.integers(0, 2**31), st.integers(1, 20))
def test_decoding_inverts_encoding(seed, count):
    boxes, references = random_boxes(count, seed), random_boxes(count, seed + 1)
    # Only boxes below the clamp of the log scale: sides of 1 to 301 pixels seldom differ by 62.5.
    inside = ((boxes[:, 2:] - boxes[:, :2]) < 60 * (references[:, 2:] - references[:, :2])).all(1)
    boxes, references = boxes[inside], references[inside]
    coder = BoxCoder(WEIGHTS)
    restored = coder.decode(coder.encode(boxes, references), references)
    # fp32 of coordinates up to 600, through a logarithm and back.
    torch.testing.assert_close(restored, boxes, atol=5e-3, rtol=1e-4)


def test_deltas_and_boxes_agree_with_torchvision():
    boxes, references = random_boxes(500, 1), random_boxes(500, 2)
    coder, reference_coder = BoxCoder(WEIGHTS), TorchvisionCoder(WEIGHTS)
    deltas = reference_coder.encode([boxes], [references])[0]
    torch.testing.assert_close(coder.encode(boxes, references), deltas)
    # Log scales with a standard deviation of 4: some are clamped at 4.1.
    deltas = torch.randn(500, 4, generator=torch.Generator().manual_seed(3)) * 20
    expected = reference_coder.decode(deltas, [references])[:, 0]
    torch.testing.assert_close(coder.decode(deltas, references), expected)


def test_large_log_scales_are_clamped():
    reference = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    box = BoxCoder().decode(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), reference)
    torch.testing.assert_close(box[:, 2:] - box[:, :2], torch.full((1, 2), 1000.0))


def test_half_precision_deltas_decode_to_single_precision_boxes():
    reference = torch.tensor([[1000.3, 0.0, 1010.3, 10.0]])
    box = BoxCoder().decode(torch.zeros(1, 4, dtype=torch.bfloat16), reference)
    torch.testing.assert_close(box, reference)
