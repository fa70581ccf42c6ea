import torch

from model.structures import BitmapMasks, PolygonMasks, RunLengthMasks
from model.structures.batch_masks import encode_bitmaps, join_masks, rasterize_masks

CPU = torch.device("cpu")


def random_bitmaps(count, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, height, width, generator=generator) > 0.5).byte()


def rasterize_whole_images(masks, objects, side):
    whole = torch.tensor([[0.0, 0.0, side, side]]).expand(len(objects), 4)
    return rasterize_masks(masks, torch.tensor(objects), whole, side)


def test_rasterizing_encoded_bitmaps_restores_them():
    # Random pixels, and objects that fill all or nothing of the image or start with a one.
    bitmaps = random_bitmaps(5, 24, 24)
    bitmaps[1], bitmaps[2], bitmaps[3, 0, 0] = 0, 1, 1
    masks = join_masks([BitmapMasks(bitmaps)], CPU)
    assert rasterize_whole_images(masks, range(5), 24).equal(bitmaps.float())


def test_runs_are_column_major_and_start_with_zeros():
    bitmaps = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [0, 0]]], dtype=torch.uint8)
    runs = encode_bitmaps(BitmapMasks(bitmaps))
    # Zeros to 0, ones to 2, zeros to 3, ones to 4; zeros to 4.
    assert runs.run_ends.tolist() == [0, 2, 3, 4, 4]
    assert runs.run_offsets.tolist() == [0, 4, 5]
    assert runs.heights.tolist() == [2, 2]


def test_objects_of_all_images_are_joined_in_order_with_an_empty_one_at_the_end():
    first, last = random_bitmaps(2, 16, 16), random_bitmaps(1, 16, 16, seed=1)
    square = torch.tensor([[4.0, 4], [12, 4], [12, 12], [4, 12]])
    polygons = PolygonMasks(square, torch.tensor([0, 4]), torch.tensor([0, 1]))
    nothing = PolygonMasks(torch.zeros(0, 2), torch.tensor([0]), torch.tensor([0]))
    masks = join_masks([BitmapMasks(first), polygons, nothing, BitmapMasks(last)], CPU)
    assert len(masks) == 5
    images = rasterize_whole_images(masks, range(5), 16)
    assert images[:2].equal(first.float())
    assert images[2, 4:12, 4:12].all()
    assert images[2].sum() == 64
    assert images[3].equal(last[0].float())
    assert not images[4].any()


def test_to_canvas_maps_a_flipped_and_resized_image_to_its_runs():
    bitmaps = random_bitmaps(1, 16, 16)
    runs = encode_bitmaps(BitmapMasks(bitmaps))
    # The image is twice as large as its canvas, and flipped: x is 16 - x / 2 there, y is y / 2.
    to_canvas = torch.tensor([[-0.5, 0.5, 16.0, 0.0]])
    moved = RunLengthMasks(runs.run_ends, runs.run_offsets, runs.heights, to_canvas)
    image = rasterize_whole_images(join_masks([moved], CPU), [0], 32)[0]
    expected = bitmaps[0].flip(1).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert image.equal(expected.float())
