import pytest
import torch
import torch.nn.functional as F

from model import build_detector
from model.layers.patches import gather_patches, patches_save_work
from model.rpn import network as rpn
from model.rpn.loss import gather_from_levels
from model.rpn.network import RpnHead


def pyramid(layout=torch.channels_last):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 9, 7), (2, 5, 4, 3), (2, 5, 1, 1)]
    maps = [torch.rand(shape, generator=generator) for shape in shapes]
    return [each.contiguous(memory_format=layout).requires_grad_() for each in maps]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_patches_are_unfold_s_on_every_level(layout):
    maps = pyramid(layout)
    cells = torch.arange(63 + 12 + 1).expand(2, -1)
    unfolded = [F.unfold(each, 3, padding=1).unflatten(1, (5, 9)) for each in maps]
    expected = torch.cat([each.permute(0, 3, 2, 1).flatten(2) for each in unfolded], 1)
    assert gather_patches(maps, cells).equal(expected)


def test_the_head_judges_sampled_anchors_as_it_judges_all():
    torch.manual_seed(0)
    head, maps = RpnHead(5, 3), pyramid()
    index = torch.randint(0, 3 * 76, (2, 40))
    index[0, 5] = index[0, 6]
    judged = [head(each) for each in maps]
    weights = torch.rand(2, 40, 5)
    gradients = []
    for logits, deltas in (
        head.judge_sampled(maps, index),
        [gather_from_levels([level[i] for level in judged], index) for i in range(2)],
    ):
        found = torch.cat((logits[..., None], deltas), 2)
        leaves = [*maps, *head.parameters()]
        gradients.append((found, *torch.autograd.grad((found * weights).sum(), leaves)))
    for sampled, dense in zip(*gradients, strict=True):
        torch.testing.assert_close(sampled, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [8, 16])
def test_few_samples_lose_and_learn_as_if_all_anchors_had_a_gradient(
    tiny_config, scenes, batch_of, monkeypatch, samples
):
    config = tiny_config()
    config = config.model_copy(
        update={"rpn": config.rpn.model_copy(update={"samples_per_image": samples})}
    )
    torch.manual_seed(0)
    detector = build_detector(config)
    results = []
    for few in (True, False):
        monkeypatch.setattr(rpn, "patches_save_work", lambda *_, few=few: few)
        detector.zero_grad()
        terms = detector(batch_of(scenes), scenes)
        sum(term.total / term.count for term in terms.values()).backward()
        results.append((terms, {name: p.grad.clone() for name, p in detector.named_parameters()}))
    (sampled, gradients), (dense, expected) = results
    for name, term in sampled.items():
        # Winograd's and oneDNN's convolutions differ in the last bits, and so may proposals.
        torch.testing.assert_close(term.total, dense[name].total, rtol=1e-3, atol=1e-4)
        assert term.count == dense[name].count
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-2, atol=1e-4)


def test_patches_of_few_cells_are_chosen_and_those_of_many_are_not():
    maps = pyramid()
    assert patches_save_work(maps, 8)
    assert not patches_save_work(maps, 9)
