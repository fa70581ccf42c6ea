from dataclasses import replace

import pytest
import torch
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from model.heads.mask import MaskHead, mask_loss, mask_targets
from model.heads.training_rois import TrainingRois
from model.structures import (
    BitmapMasks,
    ImageSize,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
)
from model.structures.batch_masks import encode_bitmaps

SIDE = 28
SIZES = (ImageSize(64, 64), ImageSize(64, 40))


def polygon_targets(polygons):
    """Targets with one polygon per object."""
    vertices = [torch.tensor(p, dtype=torch.float32) for p in polygons]
    lengths = torch.tensor([0] + [len(v) for v in vertices])
    masks = PolygonMasks(torch.cat(vertices), lengths.cumsum(0), torch.arange(len(polygons) + 1))
    boxes = torch.stack([torch.cat((v.amin(0), v.amax(0))) for v in vertices])
    return Targets(boxes, torch.ones(len(polygons), dtype=torch.int64), masks)


def rois_of(images, boxes, truths):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    return TrainingRois(
        torch.cat((torch.tensor(images)[:, None].float(), boxes), 1),
        torch.ones(len(boxes), dtype=torch.int64),
        boxes,
        torch.tensor(truths),
        is_meant=torch.ones(len(boxes), dtype=torch.bool),
        positive_slots=torch.arange(len(boxes)),
    )


TRIANGLE = [(10, 10), (50, 10), (10, 50)]
SQUARE = [(20, 20), (40, 20), (40, 40), (20, 40)]
BATCH = [polygon_targets([TRIANGLE, SQUARE]), polygon_targets([SQUARE])]
ROIS = rois_of([0, 0, 1], [[10, 10, 50, 50], [30, 30, 50, 50], [0, 20, 40, 40]], [0, 1, 0])


def bitmap_of(target, size):
    rows, columns = torch.arange(size.height) + 0.5, torch.arange(size.width) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    drawn = []
    for box in target.boxes:
        inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
        triangle = len(target.masks.vertices) > 4 and not drawn
        drawn.append(inside & (x + y < 60) if triangle else inside)
    return Targets(target.boxes, target.labels, BitmapMasks(torch.stack(drawn).byte()))


def runs_of(target, size):
    runs = encode_bitmaps(bitmap_of(target, size).masks)
    return replace(target, masks=runs)


def test_polygons_are_drawn_inside_each_roi_whatever_image_it_is_in():
    drawn = mask_targets(BATCH, ROIS, SIDE, "polygon", SIZES)
    assert drawn.shape == (3, SIDE, SIDE)
    # Half of the square around the triangle, the diagonal with it; a quarter; the right half.
    assert drawn[0].mean().item() == pytest.approx(0.5, abs=1 / SIDE)
    assert drawn[1].mean().item() == 0.25
    assert drawn[1, :14, :14].all()
    assert drawn[2, :, 14:].all()
    assert not drawn[2, :, :14].any()


def test_runs_bitmaps_and_polygons_of_one_shape_agree_up_to_the_outline():
    expected = mask_targets(BATCH, ROIS, SIDE, "polygon", SIZES)
    for as_runs in ((True, True), (False, True), (True, False)):
        mixed = [
            runs_of(target, size) if chosen else target
            for target, size, chosen in zip(BATCH, SIZES, as_runs, strict=True)
        ]
        got = mask_targets(mixed, ROIS, SIDE, "polygon", SIZES)
        assert set(got.unique().tolist()) == {0.0, 1.0}
        assert (got[1:] == expected[1:]).all()  # box_targets on whole pixels
        assert (got[0] != expected[0]).float().mean() < 1.5 / SIDE  # along the diagonal
    bitmaps = [bitmap_of(target, size) for target, size in zip(BATCH, SIZES, strict=True)]
    runs = [runs_of(target, size) for target, size in zip(BATCH, SIZES, strict=True)]
    got = mask_targets(bitmaps, ROIS, SIDE, "polygon", SIZES)
    assert got.equal(mask_targets(runs, ROIS, SIDE, "polygon", SIZES))


def test_objects_of_one_image_may_be_outlines_and_runs():
    runs = encode_bitmaps(bitmap_of(BATCH[0], SIZES[0]).masks)
    outlines = BATCH[0].masks
    # the first object as an outline alone, the second as runs alone
    second = RunLengthMasks(
        runs.run_ends[runs.run_offsets[1] :],
        torch.tensor([0, 0, len(runs.run_ends) - int(runs.run_offsets[1])]),
        runs.heights,
        runs.to_canvas,
    )
    first = PolygonMasks(outlines.vertices[:3], torch.tensor([0, 3]), torch.tensor([0, 1, 1]))
    mixed = [replace(BATCH[0], masks=MixedMasks(first, second)), BATCH[1]]
    expected = mask_targets(BATCH, ROIS, SIDE, "polygon", SIZES)
    assert mask_targets(mixed, ROIS, SIDE, "polygon", SIZES).equal(expected)
    with pytest.raises(ValueError, match="a place for every object"):
        MixedMasks(
            outlines, RunLengthMasks(*(t[:0] for t in (runs.run_ends,) * 3), torch.ones(0, 4))
        )


@pytest.mark.parametrize("convention", ["polygon", "roi_align"])
def test_rois_that_mean_nothing_are_no_error(convention):
    empty = Targets(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        PolygonMasks(torch.zeros(0, 2), torch.tensor([0]), torch.tensor([0])),
    )
    rois = rois_of([0, 0, 1, 2], [[10, 10, 50, 50], [0] * 4, [0] * 4, [0] * 4], [0, 0, 0, 0])
    batch, sizes = [*BATCH, empty], (*SIZES, ImageSize(32, 32))
    got = mask_targets(batch, rois, SIDE, convention, sizes)
    assert got.shape == (4, SIDE, SIDE)
    assert got[:1].equal(
        mask_targets(BATCH, rois_of([0], [[10, 10, 50, 50]], [0]), SIDE, convention, SIZES)
    )
    assert (
        mask_targets([empty], rois_of([0], [[0] * 4], [0]), SIDE, convention, sizes[2:]).sum() == 0
    )


def test_no_rois_give_no_targets():
    none = replace(ROIS, is_meant=torch.zeros(len(ROIS.rois), dtype=torch.bool)).compact()
    for convention in ("polygon", "roi_align"):
        assert mask_targets(BATCH, none, SIDE, convention, SIZES).shape == (0, SIDE, SIDE)


def test_the_roi_align_convention_is_torchvision_s_projection():
    bitmaps = [bitmap_of(target, size) for target, size in zip(BATCH, SIZES, strict=True)]
    got = mask_targets(bitmaps, ROIS, SIDE, "roi_align", SIZES)
    for image, rows in ((0, [0, 1]), (1, [2])):
        expected = project_masks_on_boxes(
            bitmaps[image].masks.bitmaps, ROIS.rois[rows, 1:], ROIS.truths[rows], SIDE
        )
        torch.testing.assert_close(got[rows], expected)
    torch.testing.assert_close(mask_targets(BATCH, ROIS, SIDE, "roi_align", SIZES), got)


def test_targets_without_masks_are_refused_with_the_remedy():
    bare = [Targets(target.boxes, target.labels) for target in BATCH]
    with pytest.raises(ValueError, match=r"set model\.mask to null"):
        mask_targets(bare, ROIS, SIDE, "polygon", SIZES)


def test_the_mask_of_one_class_is_that_channel_of_all_masks():
    torch.manual_seed(0)
    head = MaskHead(8, 16, 2, num_classes=5)
    torch.nn.init.normal_(head.logits.bias)
    pooled, labels = torch.randn(6, 8, 14, 14), torch.tensor([1, 5, 3, 3, 2, 4])
    x = pooled
    for conv in head.convs:
        x = conv(x).relu()
    every_class = head.logits(head.upsample(x).relu())
    expected = every_class[torch.arange(6), labels]
    torch.testing.assert_close(head(pooled, labels), expected, rtol=1e-4, atol=1e-5)


def test_no_positives_still_train_the_head_with_zero():
    head = MaskHead(8, 16, 2, num_classes=5)
    nothing = torch.zeros(0, 8, 14, 14)
    term = mask_loss(
        head(nothing, torch.zeros(0, dtype=torch.int64)),
        torch.zeros(0, 28, 28),
        torch.zeros(0, dtype=torch.bool),
    )
    assert term.total.item() == 0
    assert term.count.item() == 0
    term.total.backward()
    assert all((p.grad == 0).all() for p in head.parameters())
