import pytest
import torch

from model.boxes.anchors import MOST_GRIDS_REMEMBERED, AnchorGrid
from model.boxes.coding import LARGEST_LOG_SCALE
from model.boxes.operations import image_limits
from model.config import RpnConfig
from model.rpn.network import RegionProposalNetwork
from model.structures import ImageBatch, ImageSize, Proposals
from ops_cuda import select_proposals
from tests.ops_cuda.test_proposals import RefusesToWait


def small_network():
    torch.manual_seed(0)
    grid = AnchorGrid((8, 16), (0.5, 1.0, 2.0), (4, 8))
    return RegionProposalNetwork(4, grid, RpnConfig(anchor_sizes=(8, 16, 32, 64, 96)), 1 / 9)


def test_rows_say_their_image_and_whether_they_hold_a_proposal():
    boxes = torch.tensor([[[1.0, 2, 3, 4], [0, 0, 0, 0]], [[5, 6, 7, 8], [6, 6, 9, 9]]])
    proposals = Proposals(boxes, torch.tensor([1, 2]))
    assert proposals.present().tolist() == [[True, False], [True, True]]
    rows = [[0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [1, 5, 6, 7, 8], [1, 6, 6, 9, 9]]
    assert proposals.rois().tolist() == rows


def test_boxes_and_counts_must_agree():
    with pytest.raises(ValueError, match=r"boxes must be \(B, P, 4\); got \(2, 4\)"):
        Proposals(torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(ValueError, match=r"counts must be \(B,\), one per image of 2"):
        Proposals(torch.zeros(2, 3, 4), torch.zeros(3))


def test_from_features_to_proposals_nothing_waits_for_the_device():
    network = small_network()
    features = [torch.randn(2, 4, 16, 24), torch.randn(2, 4, 8, 12)]
    sizes = (ImageSize(64, 96), ImageSize(50, 70))
    images = ImageBatch(torch.zeros(2, 3, 64, 96), sizes, sizes)
    expected, _ = network(features, images)
    with RefusesToWait():
        found, losses = network(features, images)
    assert losses == {}
    assert found.boxes.equal(expected.boxes)
    assert found.counts.equal(expected.counts)
    for boxes, count, size in zip(found.boxes, found.counts.tolist(), sizes, strict=True):
        assert count > 0
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= size.width).all()
        assert (boxes[:, 3] <= size.height).all()
        assert not boxes[count:].any()


def test_anchors_are_made_once_per_shape_and_only_so_many_kept():
    grid = AnchorGrid((8,), (1.0,), (4,))
    with torch.inference_mode():
        first = grid([ImageSize(2, 3)], ImageSize(8, 12))
    assert not first[0].is_inference()  # a training step may meet them
    assert grid([ImageSize(2, 3)], ImageSize(8, 12)) is first
    for side in range(1, MOST_GRIDS_REMEMBERED + 1):
        grid([ImageSize(side, side)], ImageSize(4 * side, 4 * side))
    again = grid([ImageSize(2, 3)], ImageSize(8, 12))
    assert again is not first
    assert again[0].equal(first[0])
    assert len(grid._remembered) == MOST_GRIDS_REMEMBERED


def test_anchors_of_a_moved_grid_are_on_its_device():
    grid = AnchorGrid((8,), (1.0,), (4,))
    grid([ImageSize(2, 3)], ImageSize(8, 12))
    assert grid.to("meta")([ImageSize(2, 3)], ImageSize(8, 12))[0].is_meta


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_from_features_to_proposals_serves_other_features():
    network = small_network().cuda()
    shapes = ((2, 4, 16, 24), (2, 4, 8, 12))
    held = [torch.randn(shape, device="cuda") for shape in shapes]
    sizes = (ImageSize(64, 96), ImageSize(50, 70))
    limits = image_limits(sizes, torch.device("cuda"))
    options = {"pre_nms": 200, "post_nms": 100, "iou_threshold": 0.7, "min_side": 1e-3}

    def propose(features):
        judged = [network.head(feature) for feature in features]
        anchors = network.anchors([ImageSize(16, 24), ImageSize(8, 12)], ImageSize(64, 96))
        logits, deltas = zip(*judged, strict=True)
        return select_proposals(
            logits, deltas, anchors, limits, **options, largest_log_scale=LARGEST_LOG_SCALE
        )

    images = ImageBatch(torch.zeros(2, 3, 64, 96, device="cuda"), sizes, sizes)
    with torch.no_grad():
        propose(held)  # cuDNN chooses its algorithms before the capture
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            network(held, images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = propose(held)
        for _ in range(2):
            for place in held:
                place.normal_()
            graph.replay()
            for one, other in zip(found, propose(held), strict=True):
                torch.testing.assert_close(one, other)
