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
    # Within the clamp of the log scale: 1..301 pixels differ by less than 62.5 in most draws.
    inside = ((boxes[:, 2:] - boxes[:, :2]) < 60 * (references[:, 2:] - references[:, :2])).all(1)
    boxes, references = boxes[inside], references[inside]
    coder = BoxCoder(WEIGHTS)
    restored = coder.decode(coder.encode(boxes, references), references)
    # fp32 of coordinates up to 600, through a logarithm and back.
    torch.testing.assert_close(restored, boxes, atol=5e-3, rtol=1e-4)


def test_deltas_agree_with_torchvision():
    boxes, references = random_boxes(500, 1), random_boxes(500, 2)
    ours, theirs = BoxCoder(WEIGHTS), TorchvisionCoder(WEIGHTS)
    deltas = theirs.encode([boxes], [references])[0]
    torch.testing.assert_close(ours.encode(boxes, references), deltas)
    # Up to 8 sigma: the clamp of large scales is met too.
    deltas = torch.randn(500, 4, generator=torch.Generator().manual_seed(3)) * 20
    expected = theirs.decode(deltas, [references])[:, 0]
    torch.testing.assert_close(ours.decode(deltas, references), expected)


def test_a_wild_scale_is_clamped():
    reference = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    box = BoxCoder().decode(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), reference)
    torch.testing.assert_close(box[:, 2:] - box[:, :2], torch.full((1, 2), 1000.0))


def test_half_precision_deltas_give_single_precision_boxes():
    reference = torch.tensor([[1000.3, 0.0, 1010.3, 10.0]])
    box = BoxCoder().decode(torch.zeros(1, 4, dtype=torch.bfloat16), reference)
    torch.testing.assert_close(box, reference)
