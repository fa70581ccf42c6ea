import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from model.rle import encode_bitmap


def reference(bitmap):
    return coco_mask.encode(np.asfortranarray(bitmap))["counts"].decode()


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
        lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))
    )
)
def test_any_bitmap_is_encoded_as_pycocotools_does(bitmap):
    assert encode_bitmap(bitmap) == reference(bitmap)


@pytest.mark.parametrize("side", [40, 700, 3000])
def test_long_runs_and_large_differences_are_encoded_as_pycocotools_does(side):
    bitmap = np.zeros((side, side), np.uint8)
    bitmap[side // 3 :, side // 2 :] = 1
    bitmap[1, 2] = bitmap[-1, -1] = bitmap[0, 0] = 1
    assert encode_bitmap(bitmap) == reference(bitmap)
    full = np.ones_like(bitmap)
    assert encode_bitmap(full) == reference(full)
    assert encode_bitmap(full * 0) == reference(full * 0)


@given(arrays(np.uint8, (9, 7), elements=st.integers(0, 1)), st.integers(0, 7), st.integers(0, 7))
def test_leaving_out_empty_columns_changes_nothing(bitmap, first, last):
    bitmap[:, :first] = 0
    bitmap[:, last:] = 0
    assert encode_bitmap(bitmap, first, last) == reference(bitmap)
