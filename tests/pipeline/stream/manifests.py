"""Manifests of shards that do not exist, for tests of plans, and strategies that draw them."""

from hypothesis import strategies as st

from model.structures import ImageSize
from pipeline.shards.image_contents import ContentsBuilder
from pipeline.shards.manifest import Manifest, ShardFile

LANDSCAPE, PORTRAIT = ImageSize(10, 20), ImageSize(20, 10)
SIZES = (LANDSCAPE, PORTRAIT, ImageSize(12, 16), ImageSize(16, 12), ImageSize(10, 15))
"""One size for each aspect bin."""


def manifest_of(shards):
    """Build a manifest from shards: lists of row groups, each a list of indices into ``SIZES``."""
    files = []
    for number, groups in enumerate(shards):
        sizes = tuple(SIZES[each] for group in groups for each in group)
        lengths = tuple(map(len, groups))
        files.append(ShardFile(f"s{number}", len(sizes), "", lengths, sizes))
    return Manifest(1, (), tuple(files), "", {}, {})


def manifest_with_keypoints(*shards):
    """Build a manifest from shards: the labeled keypoints of each image; one row group each."""
    files = []
    for number, counts in enumerate(shards):
        sizes = tuple(PORTRAIT if index % 2 else LANDSCAPE for index in range(len(counts)))
        files.append(ShardFile(f"s{number}", len(counts), "", (len(counts),), sizes, counts))
    return Manifest(2, (), tuple(files), "", {}, {})


def manifest_with_classes(*shards, rows_per_group=4):
    """Build a manifest from shards: the labels of each image's objects."""
    files = []
    for number, images in enumerate(shards):
        sizes = tuple(SIZES[index % len(SIZES)] for index in range(len(images)))
        firsts = range(0, len(images), rows_per_group)
        groups = tuple(min(rows_per_group, len(images) - first) for first in firsts)
        contents = ContentsBuilder()
        for labels in images:
            contents.add(labels, [False] * len(labels))
        files.append(contents.add_to(ShardFile(f"s{number}", len(images), "", groups, sizes)))
    return Manifest(3, (), tuple(files), "", {}, {})


row_groups = st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=6)
datasets = st.lists(st.lists(row_groups, min_size=1, max_size=4), min_size=1, max_size=5).map(
    manifest_of
)
batches = st.integers(1, 8)
seeds = st.integers(0, 2**32)
