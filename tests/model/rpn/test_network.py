import pytest
import torch

from model import build_detector
from model.boxes.anchors import AnchorGrid
from model.boxes.coding import MAX_LOG_SCALE
from model.boxes.operations import image_limits
from model.config import RpnConfig
from model.layers.patches import gather_from_levels
from model.rpn import network as rpn_network
from model.rpn.network import RegionProposalNetwork, RpnHead
from model.structures import ImageBatch, ImageSize
from ops_cuda import select_proposals
from tests.model.training import total_loss
from tests.ops_cuda.forbid_sync import ForbidSync

SIZES = (ImageSize(64, 96), ImageSize(50, 70))


def small_network():
    torch.manual_seed(0)
    grid = AnchorGrid([(8,), (16,)], (0.5, 1.0, 2.0), (4, 8))
    return RegionProposalNetwork(4, grid, RpnConfig(anchor_sizes=(8, 16, 32, 64, 96)), 1 / 9)


def random_features(device="cpu"):
    return [torch.randn(2, 4, 16, 24, device=device), torch.randn(2, 4, 8, 12, device=device)]


def test_proposals_lie_in_their_images_and_need_no_sync():
    network, features = small_network(), random_features()
    images = ImageBatch(torch.zeros(2, 3, 64, 96), SIZES, SIZES)
    expected = network(features, images)
    with ForbidSync():
        proposals = network(features, images)
    assert proposals.boxes.equal(expected.boxes)
    assert proposals.counts.equal(expected.counts)
    for boxes, count, size in zip(proposals.boxes, proposals.counts.tolist(), SIZES, strict=True):
        assert count > 0
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= size.width).all()
        assert (boxes[:, 3] <= size.height).all()
        assert not boxes[count:].any()


def test_predictions_for_sampled_anchors_equal_those_for_all_anchors():
    torch.manual_seed(0)
    head = RpnHead(5, 3)
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 9, 7), (2, 5, 4, 3), (2, 5, 1, 1)]
    maps = [torch.rand(shape, generator=generator) for shape in shapes]
    maps = [each.contiguous(memory_format=torch.channels_last).requires_grad_() for each in maps]
    indices = torch.randint(0, 3 * 76, (2, 40))
    indices[0, 5] = indices[0, 6]
    per_level = [head(each) for each in maps]
    weights = torch.rand(2, 40, 5)
    results = []
    for logits, deltas in (
        head.predict_sampled(maps, indices),
        [gather_from_levels([level[i] for level in per_level], indices) for i in range(2)],
    ):
        predicted = torch.cat((logits[..., None], deltas), 2)
        leaves = [*maps, *head.parameters()]
        gradients = torch.autograd.grad((predicted * weights).sum(), leaves)
        results.append((predicted, *gradients))
    for sampled, dense in zip(*results, strict=True):
        torch.testing.assert_close(sampled, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [8, 16])
def test_gradients_of_few_sampled_anchors_equal_those_through_all_anchors(
    tiny_config, scenes, make_batch, monkeypatch, samples
):
    config = tiny_config()
    config = config.model_copy(
        update={"rpn": config.rpn.model_copy(update={"samples_per_image": samples})}
    )
    torch.manual_seed(0)
    detector = build_detector(config)
    results = []
    for few in (True, False):
        monkeypatch.setattr(rpn_network, "patches_save_work", lambda *_, few=few: few)
        detector.zero_grad()
        terms = detector(make_batch(scenes), scenes)
        total_loss(terms).backward()
        results.append((terms, {name: p.grad.clone() for name, p in detector.named_parameters()}))
    (sampled, gradients), (dense, expected) = results
    for name, term in sampled.items():
        # Winograd's and oneDNN's convolutions differ in the last bits, and so may the proposals.
        torch.testing.assert_close(term.total, dense[name].total, rtol=1e-3, atol=1e-4)
        assert term.count == dense[name].count
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-2, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_of_proposals_can_be_replayed_on_other_features():
    network = small_network().cuda()
    features = random_features("cuda")
    limits = image_limits(SIZES, torch.device("cuda"))
    options = {"pre_nms": 200, "post_nms": 100, "iou_threshold": 0.7, "min_side": 1e-3}

    def propose():
        logits, deltas = zip(*(network.head(feature) for feature in features), strict=True)
        anchors = network.anchors(features, ImageSize(64, 96))
        return select_proposals(
            logits, deltas, anchors, limits, **options, max_log_scale=MAX_LOG_SCALE
        )

    images = ImageBatch(torch.zeros(2, 3, 64, 96, device="cuda"), SIZES, SIZES)
    with torch.no_grad():
        propose()  # cuDNN selects its algorithms before the capture
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            network(features, images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = propose()
        for _ in range(2):
            for feature in features:
                feature.normal_()
            graph.replay()
            for result, expected in zip(captured, propose(), strict=True):
                torch.testing.assert_close(result, expected)
