"""Plan which images each step trains on: pure functions of manifest, seed, global batch and step.

A global batch has B slots of one image each and is the same for any number of workers: worker r of
W owns the r-th of W equal ranges of slots. The plan has no state but the step, so a run can resume
from any step, and with another number of workers.

In each epoch the row groups are shuffled, and so are the rows inside each row group. Images of
similar aspect ratio stay together, so that a batch wastes little padding. The sequence of images of
each bin (``pipeline.shards.aspect_bins``) is cut into B equal *lanes*. A lane is the sequence of
images that one slot of the batch takes, one per batch. A batch therefore mixes B row groups, while
a lane reads its row groups one after another, each once. Leftovers of all bins, ordered by aspect
ratio, form mixed batches. A few images (fewer than B) are left out of the epoch; the shuffle of
another epoch leaves out others.

Shapes: N images of the shards, Q row groups, T steps of an epoch, B images of a global batch.
"""

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.aspect_bins import BIN_COUNT, aspect_bins
from pipeline.stream.image_sampling import (
    UNIT,
    repeat_factors,
    sampling_weights,
    select_images,
    systematic_counts,
)

if TYPE_CHECKING:  # imports torch, which the reading tasks do not need
    from pipeline.shards.manifest import Manifest

Integers = NDArray[np.int64]

_MIXED = BIN_COUNT
"""Kind of a batch of several bins; the kind of any other batch is its bin."""


@dataclass(frozen=True, eq=False)
class ShardPlan:
    """The layout of a dataset and how its epochs are shuffled.

    Images are numbered through all shards, in order.

    Args:
        files: names of the shards.
        group_file: (Q,) index into files of each row group.
        group_number: (Q,) number of the row group inside its file.
        group_start: (Q + 1,) number of each group's first image.
        sizes: (N, 2) original height and width.
        selected: (N,) bool, the images to train on.
        global_batch: B, images per step.
        seed: seed of the shuffles.
        weights: (N,) how often each image is seen per epoch, in units of 1 / `UNIT`; None if no
            image is repeated.
    """

    files: tuple[str, ...]
    group_file: Integers
    group_number: Integers
    group_start: Integers
    sizes: Integers
    selected: NDArray[np.bool_]
    global_batch: int
    seed: int
    weights: Integers | None = None

    @functools.cached_property
    def image_count(self) -> int:
        """Number of distinct images to train on; N unless some are left out."""
        return int(self.selected.sum())

    @functools.cached_property
    def epoch_length(self) -> int:
        """Number of images of an epoch with their repeats, before a rest is left out."""
        return self.image_count if self.weights is None else int(self.weights.sum()) // UNIT

    @property
    def steps_per_epoch(self) -> int:
        """T, the same for every epoch; a dataset smaller than a batch has one step."""
        # Whole batches of the bins and of their leftovers are as many as of all images together.
        return max(1, self.epoch_length // self.global_batch)

    @functools.cached_property
    def bins(self) -> Integers:
        """(N,) bin of each image by its aspect ratio."""
        return aspect_bins(self.sizes)


def plan_shards(
    manifest: "Manifest",
    global_batch: int,
    seed: int,
    min_keypoints: int = 0,
    drop_images_without_objects: bool = False,
    repeat_threshold: float = 0.0,
) -> ShardPlan:
    """Plan the epochs of a dataset.

    Args:
        manifest: manifest of the shards, with contents if the last two arguments need them.
        global_batch: images per step.
        seed: seed of the shuffles.
        min_keypoints: images with fewer labeled keypoints are left out.
        drop_images_without_objects: leave out images that have no object, or crowd regions alone.
        repeat_threshold: classes in a smaller share of the images are repeated; 0 repeats none.

    Raises:
        ValueError: there is no image, or none is left.
    """
    groups = [
        (index, number, rows)
        for index, file in enumerate(manifest.files)
        for number, rows in enumerate(file.row_groups)
    ]
    if not groups:
        raise ValueError("the shards hold no image; nothing to train on")
    file_of, number_of, rows_of = np.array(groups, dtype=np.int64).T
    sizes = [size for file in manifest.files for size in file.sizes]
    selected = select_images(manifest, min_keypoints, drop_images_without_objects)
    weights = None
    if repeat_threshold:
        weights = sampling_weights(repeat_factors(manifest, selected, repeat_threshold))
    return ShardPlan(
        files=tuple(file.name for file in manifest.files),
        group_file=file_of,
        group_number=number_of,
        group_start=np.concatenate([[0], np.cumsum(rows_of)]),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        selected=selected,
        global_batch=global_batch,
        seed=seed,
        weights=weights,
    )


def images_of_step(plan: ShardPlan, step: int) -> tuple[int, Integers]:
    """Return the epoch of a step and the (B,) numbers of its images, by slot."""
    epoch, step_of_epoch = divmod(step, plan.steps_per_epoch)
    return epoch, images_of_epoch(plan, epoch)[step_of_epoch]


def images_of_epoch(plan: ShardPlan, epoch: int) -> Integers:
    """Return the (T, B) numbers of the images of an epoch's batches; none occurs twice.

    The exceptions are repeats of rare classes, and a dataset smaller than a batch, which repeats
    images to fill its one batch.
    """
    return batches_of_epoch(plan, epoch)[0]


@functools.lru_cache(maxsize=4)
def batches_of_epoch(plan: ShardPlan, epoch: int) -> tuple[Integers, Integers]:
    """Return the (T, B) image numbers and (T,) kinds of an epoch's batches.

    Batches of one kind follow the lanes of that kind, in order.
    """
    rng = np.random.default_rng([plan.seed, epoch])
    order = _shuffle(plan, rng)
    size = plan.global_batch
    if len(order) < size:
        return np.resize(order, (1, size)), np.array([_MIXED])
    bins = plan.bins[order]
    batches, leftovers = [], []
    for number in range(BIN_COUNT):
        sequence = order[bins == number]
        steps = len(sequence) // size
        # One lane per row, then transposed: each column runs through its row groups in order.
        batches.append(sequence[: steps * size].reshape(size, steps).T)
        leftovers.append(sequence[steps * size :])
    batches.append(_mixed_batches(plan, np.concatenate(leftovers), rng))
    # Kinds alternate at random; the batches of each kind keep their order.
    kinds = rng.permutation(np.repeat(np.arange(len(batches)), [len(each) for each in batches]))
    images = np.empty((len(kinds), size), dtype=np.int64)
    for kind, of_kind in enumerate(batches):
        images[kinds == kind] = of_kind
    return images, kinds


def _shuffle(plan: ShardPlan, rng: np.random.Generator) -> Integers:
    """Return the images of an epoch with their repeats, row group by row group."""
    order: Integers = np.concatenate(
        [
            rng.permutation(np.arange(plan.group_start[group], plan.group_start[group + 1]))
            for group in rng.permutation(len(plan.group_file))
        ]
    )
    order = order[plan.selected[order]]
    if plan.weights is None:
        return order
    # In shuffled order, so that the images that are rounded up together differ between epochs.
    copies = systematic_counts(plan.weights[order], int(rng.integers(UNIT)))
    firsts = np.cumsum(copies) - copies
    images = np.repeat(order, copies)
    copy_number = np.arange(len(images)) - np.repeat(firsts, copies)
    group = np.searchsorted(plan.group_start, images, side="right") - 1
    # The n-th copies of a row group stay together, so that one read brings them.
    groups = len(plan.group_file)
    position = rng.permutation(groups * int(copies.max()))
    shuffled: Integers = images[np.argsort(position[copy_number * groups + group], kind="stable")]
    return shuffled


def _mixed_batches(plan: ShardPlan, images: Integers, rng: np.random.Generator) -> Integers:
    """Return batches (_, B) of images of neighboring bins; fewer than B images are left out."""
    count = len(images) // plan.global_batch * plan.global_batch
    kept = rng.permutation(images)[:count]
    height, width = plan.sizes[kept].T
    by_aspect = np.argsort(width / height, kind="stable")
    return kept[by_aspect].reshape(-1, plan.global_batch)


def slots_of_rank(plan: ShardPlan, rank: int, world_size: int) -> range:
    """Return the slots of the global batch that belong to a worker.

    The shares of two workers differ by at most one slot.

    Raises:
        ValueError: there are more workers than slots.
    """
    if plan.global_batch < world_size:
        raise ValueError(f"{world_size} workers cannot share {plan.global_batch} images per step")
    return split_evenly(range(plan.global_batch), world_size)[rank]


def split_evenly(slots: range, parts: int) -> list[range]:
    """Return contiguous parts of some slots, whose lengths differ by at most one."""
    bounds = [len(slots) * part // parts for part in range(parts + 1)]
    return [slots[first:last] for first, last in itertools.pairwise(bounds)]


def locate_image(plan: ShardPlan, image: int) -> tuple[str, int]:
    """Return the shard that holds an image, and the index of the image's row in it."""
    group = int(np.searchsorted(plan.group_start, image, side="right")) - 1
    file = int(plan.group_file[group])
    first_group = int(np.flatnonzero(plan.group_file == file)[0])
    return plan.files[file], image - int(plan.group_start[first_group])
