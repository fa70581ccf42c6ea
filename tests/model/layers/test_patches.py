import pytest
import torch
import torch.nn.functional as F

from model.layers.patches import gather_from_levels, gather_patches, patches_save_work


def pyramid(layout=torch.channels_last):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 9, 7), (2, 5, 4, 3), (2, 5, 1, 1)]
    maps = [torch.rand(shape, generator=generator) for shape in shapes]
    return [each.contiguous(memory_format=layout).requires_grad_() for each in maps]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_patches_equal_unfold_on_every_level(layout):
    maps = pyramid(layout)
    cells = torch.arange(63 + 12 + 1).expand(2, -1)
    unfolded = [F.unfold(each, 3, padding=1).unflatten(1, (5, 9)) for each in maps]
    expected = torch.cat([each.permute(0, 3, 2, 1).flatten(2) for each in unfolded], 1)
    assert gather_patches(maps, cells).equal(expected)


def test_gathering_from_levels_equals_gathering_from_their_concatenation():
    generator = torch.Generator().manual_seed(0)
    levels = [torch.rand(2, size, 4, generator=generator) for size in (50, 7, 1)]
    indices = torch.randint(0, 58, (2, 30), generator=generator)
    expected = torch.cat(levels, 1).gather(1, indices[..., None].expand(-1, -1, 4))
    assert gather_from_levels(levels, indices).equal(expected)
    scalars = [level[..., 0] for level in levels]
    assert gather_from_levels(scalars, indices).equal(expected[..., 0])


def test_patches_save_work_if_they_have_fewer_cells_than_the_pyramid():
    maps = pyramid()  # 76 cells
    assert patches_save_work(maps, 8)
    assert not patches_save_work(maps, 9)
