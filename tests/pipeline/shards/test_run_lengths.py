"""Run-length strings decode to the runs that pycocotools encoded."""

import numpy as np
import pycocotools.mask as coco_masks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.images.decode import DecodeError
from model.structures import ImageSize
from pipeline.shards.run_lengths import run_ends


def test_the_example_in_the_documentation_of_pycocotools():
    ends = run_ends("61X13mN000`0", ImageSize(9, 10))
    assert np.diff(ends, prepend=0).tolist() == [6, 1, 40, 4, 5, 4, 5, 4, 21]


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=30))
def test_runs_of_any_length_round_trip(counts):
    total = sum(counts)
    encoded = coco_masks.frPyObjects({"size": [1, total], "counts": counts}, 1, total)
    ends = run_ends(encoded["counts"].decode(), ImageSize(1, total))
    assert np.array_equal(ends, np.cumsum(counts))


@given(st.text(max_size=20))
def test_any_other_text_raises_decode_error(text):
    with pytest.raises(DecodeError, match="run-length mask"):
        run_ends(text, ImageSize(1_000_003, 999_983))


def encode_numbers(numbers):
    """Encode numbers as COCO's run-length strings do."""
    text = ""
    for number in numbers:
        more = True
        while more:
            group = number & 31
            number >>= 5
            more = number != (-1 if group & 16 else 0)
            text += chr((group | 32 if more else group) + 48)
    return text


def test_runs_whose_sum_overflows_to_the_size_of_the_image_are_refused():
    long = 2**58
    runs = [long] * 64 + [24]  # 64 of them are 2 ** 64
    numbers = runs[:3] + [run - before for run, before in zip(runs[3:], runs[1:], strict=False)]
    assert (
        encode_numbers([24])
        == coco_masks.frPyObjects({"size": [4, 6], "counts": [24]}, 4, 6)["counts"].decode()
    )
    with pytest.raises(DecodeError, match="does not cover"):
        run_ends(encode_numbers(numbers), ImageSize(4, 6))
