import torch
from torchvision.ops import clip_boxes_to_image

from model.boxes.operations import (
    clip_boxes,
    flip_boxes,
    image_limits,
    scale_boxes,
    sides_at_least,
)
from model.structures import ImageSize


def test_clipping_agrees_with_torchvision_for_each_image_of_a_batch():
    sizes = [ImageSize(30, 50), ImageSize(70, 20)]
    boxes = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(0)) * 60
    clipped = clip_boxes(boxes, image_limits(sizes, torch.device("cpu"))[:, None])
    for image, size in enumerate(sizes):
        assert torch.equal(clipped[image], clip_boxes_to_image(boxes[image], size))


def test_both_sides_of_a_box_must_be_long_enough():
    boxes = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 1.9], [0, 0, 1.9, 2], [5, 5, 4, 9.0]])
    assert sides_at_least(boxes, 2.0).tolist() == [True, False, False, False]


def test_scaling_maps_the_image_border_onto_the_new_border():
    box = torch.tensor([[0.0, 0.0, 50.0, 30.0]])
    scaled = scale_boxes(box, ImageSize(30, 50), ImageSize(90, 25))
    assert scaled.tolist() == [[0, 0, 25, 90]]


def test_a_flip_swaps_the_distances_to_the_left_and_right_border():
    box = torch.tensor([[10.0, 5.0, 20.0, 25.0]])
    flipped = flip_boxes(box, ImageSize(30, 50))
    assert flipped.tolist() == [[30, 5, 40, 25]]
    assert flip_boxes(flipped, ImageSize(30, 50)).equal(box)
