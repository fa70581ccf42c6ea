from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from model.heads.mask import MaskHead, mask_loss, mask_targets
from model.structures import (
    BitmapMasks,
    ImageBatch,
    ImageSize,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
    join_targets,
)
from model.structures.batch_masks import encode_bitmaps
from tests.model.heads.rois import positive_rois
from tests.model.torchvision_norms import TORCHVISION_NORMS

SIDE = 28
SIZES = (ImageSize(64, 64), ImageSize(64, 40))


def polygon_targets(polygons):
    """Return targets with one polygon per object."""
    vertices = [torch.tensor(p, dtype=torch.float32) for p in polygons]
    lengths = torch.tensor([0] + [len(v) for v in vertices])
    masks = PolygonMasks(torch.cat(vertices), lengths.cumsum(0), torch.arange(len(polygons) + 1))
    boxes = torch.stack([torch.cat((v.amin(0), v.amax(0))) for v in vertices])
    return Targets(boxes, torch.ones(len(polygons), dtype=torch.int64), masks)


TRIANGLE = [(10, 10), (50, 10), (10, 50)]
SQUARE = [(20, 20), (40, 20), (40, 40), (20, 40)]
BATCH = [polygon_targets([TRIANGLE, SQUARE]), polygon_targets([SQUARE])]
ROIS = positive_rois([0, 0, 1], [[10, 10, 50, 50], [30, 30, 50, 50], [0, 20, 40, 40]], [0, 1, 2])


def with_bitmaps(target, size):
    rows, columns = torch.arange(size.height) + 0.5, torch.arange(size.width) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    bitmaps = []
    for box in target.boxes:
        inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
        triangle = len(target.masks.vertices) > 4 and not bitmaps
        bitmaps.append(inside & (x + y < 60) if triangle else inside)
    return Targets(target.boxes, target.labels, BitmapMasks(torch.stack(bitmaps).byte()))


def with_runs(target, size):
    runs = encode_bitmaps(with_bitmaps(target, size).masks)
    return replace(target, masks=runs)


def make_targets(targets, rois, convention, sizes):
    joined = join_targets(targets, torch.device("cpu"), with_masks=True)
    return mask_targets(joined.masks, joined.counts, rois, SIDE, convention, sizes)


def test_each_roi_contains_the_polygon_of_its_own_object():
    masks = make_targets(BATCH, ROIS, "polygon", SIZES)
    assert masks.shape == (3, SIDE, SIDE)
    # Half of the triangle's box, diagonal included; a quarter; the right half.
    assert masks[0].mean().item() == pytest.approx(0.5, abs=1 / SIDE)
    assert masks[1].mean().item() == 0.25
    assert masks[1, :14, :14].all()
    assert masks[2, :, 14:].all()
    assert not masks[2, :, :14].any()


def test_runs_bitmaps_and_polygons_of_one_shape_agree_up_to_its_outline():
    expected = make_targets(BATCH, ROIS, "polygon", SIZES)
    for as_runs in ((True, True), (False, True), (True, False)):
        mixed = [
            with_runs(target, size) if use_runs else target
            for target, size, use_runs in zip(BATCH, SIZES, as_runs, strict=True)
        ]
        masks = make_targets(mixed, ROIS, "polygon", SIZES)
        assert set(masks.unique().tolist()) == {0.0, 1.0}
        assert (masks[1:] == expected[1:]).all()  # squares on whole pixels
        assert (masks[0] != expected[0]).float().mean() < 1.5 / SIDE  # along the diagonal
    bitmaps = [with_bitmaps(target, size) for target, size in zip(BATCH, SIZES, strict=True)]
    runs = [with_runs(target, size) for target, size in zip(BATCH, SIZES, strict=True)]
    masks = make_targets(bitmaps, ROIS, "polygon", SIZES)
    assert masks.equal(make_targets(runs, ROIS, "polygon", SIZES))


def test_polygons_and_runs_can_be_mixed_within_an_image():
    runs = encode_bitmaps(with_bitmaps(BATCH[0], SIZES[0]).masks)
    polygons = BATCH[0].masks
    # The first object only as a polygon, the second only as runs.
    second = RunLengthMasks(
        runs.run_ends[runs.run_offsets[1] :],
        torch.tensor([0, 0, len(runs.run_ends) - int(runs.run_offsets[1])]),
        runs.heights,
        runs.to_canvas,
    )
    first = PolygonMasks(polygons.vertices[:3], torch.tensor([0, 3]), torch.tensor([0, 1, 1]))
    mixed = [replace(BATCH[0], masks=MixedMasks(first, second)), BATCH[1]]
    expected = make_targets(BATCH, ROIS, "polygon", SIZES)
    assert make_targets(mixed, ROIS, "polygon", SIZES).equal(expected)
    with pytest.raises(ValueError, match="both must list every object"):
        MixedMasks(
            polygons, RunLengthMasks(*(t[:0] for t in (runs.run_ends,) * 3), torch.ones(0, 4))
        )


@pytest.mark.parametrize("convention", ["polygon", "roi_align"])
def test_padding_rois_are_allowed_even_in_an_image_without_objects(convention):
    empty = Targets(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        PolygonMasks(torch.zeros(0, 2), torch.tensor([0]), torch.tensor([0])),
    )
    # The matched row of padding is the first of its image, or of the next one with objects.
    rois = positive_rois([0, 0, 1, 2], [[10, 10, 50, 50], [0] * 4, [0] * 4, [0] * 4], [0, 0, 2, 3])
    sizes = (*SIZES, ImageSize(32, 32))
    masks = make_targets([*BATCH, empty], rois, convention, sizes)
    assert masks.shape == (4, SIDE, SIDE)
    first = positive_rois([0], [[10, 10, 50, 50]], [0])
    assert masks[:1].equal(make_targets(BATCH, first, convention, SIZES))
    padding = positive_rois([0], [[0] * 4], [0])
    assert make_targets([empty], padding, convention, sizes[2:]).sum() == 0
    before_others = positive_rois([0, 1], [[0] * 4, [10, 10, 50, 50]], [0, 0])
    sizes = (ImageSize(32, 32), *SIZES)
    masks = make_targets([empty, *BATCH], before_others, convention, sizes)
    assert masks[1:].equal(make_targets(BATCH, first, convention, SIZES))


def test_no_rois_have_no_targets():
    none = replace(ROIS, valid=torch.zeros(len(ROIS.rois), dtype=torch.bool)).without_padding()
    for convention in ("polygon", "roi_align"):
        assert make_targets(BATCH, none, convention, SIZES).shape == (0, SIDE, SIDE)


def test_the_roi_align_convention_matches_torchvision():
    bitmaps = [with_bitmaps(target, size) for target, size in zip(BATCH, SIZES, strict=True)]
    masks = make_targets(bitmaps, ROIS, "roi_align", SIZES)
    for image, rows, objects in ((0, [0, 1], [0, 1]), (1, [2], [0])):
        expected = project_masks_on_boxes(
            bitmaps[image].masks.bitmaps, ROIS.rois[rows, 1:], torch.tensor(objects), SIDE
        )
        torch.testing.assert_close(masks[rows], expected)
    torch.testing.assert_close(make_targets(BATCH, ROIS, "roi_align", SIZES), masks)


@pytest.mark.parametrize("convention", ["polygon", "roi_align"])
def test_every_nonzero_value_of_a_bitmap_belongs_to_the_object(convention):
    bitmaps = [with_bitmaps(target, size) for target, size in zip(BATCH, SIZES, strict=True)]
    bright = [replace(t, masks=BitmapMasks(t.masks.bitmaps * 255)) for t in bitmaps]
    masks = make_targets(bright, ROIS, convention, SIZES)
    assert masks.equal(make_targets(bitmaps, ROIS, convention, SIZES))


def test_the_mask_of_each_roi_is_the_channel_of_its_class():
    torch.manual_seed(0)
    head = MaskHead(8, 16, 2, num_classes=5)
    nn.init.normal_(head.logits.bias)
    pooled, labels = torch.randn(6, 8, 14, 14), torch.tensor([1, 5, 3, 3, 2, 4])
    x = pooled
    for conv in head.convs:
        x = conv(x).relu()
    all_classes = head.logits(head.upsample(x).relu())
    expected = all_classes[torch.arange(6), labels]
    torch.testing.assert_close(head(pooled, labels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "norm"), TORCHVISION_NORMS.items())
@pytest.mark.parametrize("training", [True, False])
def test_masks_match_torchvision_with_its_weights_and_norms(kind, norm, training):
    torch.manual_seed(0)
    reference = MaskRCNNHeads(8, [12, 12], 1, norm).train(training)
    head = MaskHead(8, 12, 2, 3, kind).train(training)
    with torch.no_grad():
        for tensor in (*reference.parameters(), *reference.buffers()):
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
    state = {n: t for n, t in head.state_dict().items() if n.startswith(("upsample", "logits"))}
    for name, tensor in reference.state_dict().items():
        index, part, tensor_kind = name.split(".")
        state[f"{'norms' if part == '1' else 'convs'}.{index}.{tensor_kind}"] = tensor
    head.load_state_dict(state)
    pooled = torch.randn(5, 8, 14, 14).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([1, 3, 2, 2, 1])
    with torch.no_grad():
        all_classes = head.logits(head.upsample(reference(pooled)).relu())
        masks = head(pooled, labels)
    torch.testing.assert_close(masks, all_classes[torch.arange(5), labels], rtol=1e-4, atol=1e-4)


def test_without_positives_the_loss_and_all_gradients_are_zero():
    head = MaskHead(8, 16, 2, num_classes=5)
    term = mask_loss(
        head(torch.zeros(0, 8, 14, 14), torch.zeros(0, dtype=torch.int64)),
        torch.zeros(0, 28, 28),
        torch.zeros(0, dtype=torch.bool),
    )
    assert term.total.item() == 0
    assert term.count.item() == 0
    term.total.backward()
    assert all((p.grad == 0).all() for p in head.parameters())


@pytest.mark.parametrize("kind", ["polygons", "runs"])
def test_an_object_without_a_mask_does_not_count_in_the_mask_loss(full_detector, kind):
    both = BATCH[0] if kind == "polygons" else with_runs(BATCH[0], SIZES[0])
    masks, none_and_one = both.masks, torch.tensor([0, 0, 1])
    if kind == "polygons":
        square = masks.vertices[masks.polygon_offsets[1] :]
        alone = PolygonMasks(square, torch.tensor([0, len(square)]), none_and_one)
    else:
        ends = masks.run_ends[masks.run_offsets[1] :]
        alone = replace(masks, run_ends=ends, run_offsets=none_and_one * len(ends))
    targets = [replace(both, masks=alone), BATCH[1]]
    joined = join_targets(targets, torch.device("cpu"), with_masks=True)
    assert joined.masks.has_mask().tolist() == [False, True, True, False]
    images = ImageBatch(torch.zeros(2, 3, 64, 64), SIZES, SIZES)
    logits = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    loss = full_detector.roi_heads._mask_loss(logits, ROIS, images, joined)
    expected = mask_loss(
        logits[1:], make_targets(BATCH, ROIS, "polygon", SIZES)[1:], torch.ones(2, dtype=torch.bool)
    )
    assert loss.count == expected.count == 2
    torch.testing.assert_close(loss.total, expected.total)
