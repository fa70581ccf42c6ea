"""Which image goes into which step, as pure functions of (manifest, seed, global batch, step).

A global batch is the same images in the same order for any number of workers: worker r of W takes
the r-th of W equal parts of it. The step is the whole cursor, so a run may go on from any step with
another number of workers.

An epoch: row groups are shuffled, and rows inside them; images of one orientation stay together,
so that a batch wastes little padding. The sequence of either orientation is cut into G equal
*lanes*, and a batch takes one row from each. So a batch mixes G row groups, while a lane reads its
row groups one after the other, each once. What is left of both orientations makes mixed batches,
and the last few images (fewer than G) wait for another epoch, where the shuffle leaves out others.

Shapes: N images of the shards, Q row groups, T steps of an epoch, G images of a global batch.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # it knows torch, and the processes that only read do without
    from pipeline.shards.manifest import Manifest, ShardFile

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ShardPlan:
    """The data set's layout and how to walk through it.

    Args:
        files: names of the shards.
        group_file: (Q,) index into files.
        group_number: (Q,) number of the row group inside its file.
        group_start: (Q + 1,) number of each group's first image; images count through all files.
        sizes: (N, 2) original height and width.
        wanted: (N,) bool, the images to train on.
        global_batch: images per step, G.
        seed: of the shuffles.
    """

    files: tuple[str, ...]
    group_file: Integers
    group_number: Integers
    group_start: Integers
    sizes: Integers
    wanted: NDArray[np.bool_]
    global_batch: int
    seed: int

    @property
    def images(self) -> int:
        """How many images are trained on; N, or fewer where some are left out."""
        return int(self.wanted.sum())

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """T, the same for every epoch; a data set smaller than a batch has one step."""
        heights, widths = self.sizes[self.wanted].T
        upright = int((heights > widths).sum())
        whole_u, rest_u = divmod(upright, self.global_batch)
        whole_o, rest_o = divmod(self.images - upright, self.global_batch)
        return max(1, whole_u + whole_o + (rest_u + rest_o) // self.global_batch)


class Read(NamedTuple):
    """Rows of one row group, in the order they are needed.

    Args:
        file: name of the shard.
        group: number of the row group in it.
        rows: numbers of the rows in the group.
        slots: for each row the (step, place in the global batch) that it is for.
    """

    file: str
    group: int
    rows: tuple[int, ...]
    slots: tuple[tuple[int, int], ...]


def plan_shards(
    manifest: "Manifest", global_batch: int, seed: int, min_keypoints: int = 0
) -> ShardPlan:
    """The plan of a data set.

    Args:
        manifest: of the shards.
        global_batch: images per step.
        seed: of the shuffles.
        min_keypoints: images with fewer labelled keypoints are left out.

    Raises:
        ValueError: there is no image, or none with so many keypoints.
    """
    groups = [
        (index, number, rows)
        for index, file in enumerate(manifest.files)
        for number, rows in enumerate(file.row_groups)
    ]
    if not groups:
        raise ValueError("the shards hold no image; nothing can be trained on")
    file_of, number_of, rows_of = np.array(groups, dtype=np.int64).T
    sizes = [size for file in manifest.files for size in file.sizes]
    wanted = np.ones(len(sizes), dtype=bool)
    if min_keypoints:
        labelled = [points for file in manifest.files for points in _labelled_points(file)]
        wanted = np.array(labelled) >= min_keypoints
    if not wanted.any():
        raise ValueError(f"no image has {min_keypoints} labelled keypoints; nothing to train on")
    return ShardPlan(
        files=tuple(file.name for file in manifest.files),
        group_file=file_of,
        group_number=number_of,
        group_start=np.concatenate([[0], np.cumsum(rows_of)]),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        wanted=wanted,
        global_batch=global_batch,
        seed=seed,
    )


def _labelled_points(file: "ShardFile") -> tuple[int, ...]:
    return file.labelled_points or (0,) * file.rows


def images_of_step(plan: ShardPlan, step: int) -> tuple[int, Integers]:
    """The epoch of a step and the (G,) numbers of its images, in order of their places."""
    epoch, within = divmod(step, plan.steps_per_epoch)
    return epoch, images_of_epoch(plan, epoch)[within]


def images_of_epoch(plan: ShardPlan, epoch: int) -> Integers:
    """(T, G) numbers of the images of an epoch's batches; none twice.

    Only a data set smaller than a batch repeats images, to fill its one batch.
    """
    return _epoch(plan, epoch)[0]


@functools.lru_cache(maxsize=4)
def _epoch(plan: ShardPlan, epoch: int) -> tuple[Integers, Integers]:
    """(T, G) images and (T,) kinds of the batches: one orientation, the other, or mixed."""
    rng = np.random.default_rng([plan.seed, epoch])
    order = np.concatenate(
        [
            rng.permutation(np.arange(plan.group_start[group], plan.group_start[group + 1]))
            for group in rng.permutation(len(plan.group_file))
        ]
    )
    order = order[plan.wanted[order]]
    size = plan.global_batch
    if plan.images < size:
        return np.resize(order, (1, size)), np.array([2])
    upright = plan.sizes[order, 0] > plan.sizes[order, 1]
    batches, leftover = [], []
    for sequence in (order[~upright], order[upright]):
        steps = len(sequence) // size
        # Lane by lane in rows, so that a column runs through row groups in order.
        batches.append(sequence[: steps * size].reshape(size, steps).T)
        leftover.append(sequence[steps * size :])
    mixed = np.concatenate(leftover)
    batches.append(mixed[: len(mixed) // size * size].reshape(-1, size))
    # The kinds take turns at random; each kind goes on where it was.
    kinds = rng.permutation(np.repeat(np.arange(3), [len(part) for part in batches]))
    images = np.empty((len(kinds), size), dtype=np.int64)
    for kind, part in enumerate(batches):
        images[kinds == kind] = part
    return images, kinds


def places_of_rank(plan: ShardPlan, rank: int, world_size: int) -> range:
    """The places of the global batch that belong to a worker.

    Raises:
        ValueError: the batch does not divide by the workers.
    """
    if plan.global_batch % world_size:
        raise ValueError(
            f"global batch {plan.global_batch} does not divide by {world_size} workers"
        )
    share = plan.global_batch // world_size
    return range(rank * share, (rank + 1) * share)


def plan_reads(plan: ShardPlan, places: range, run: range, opened_in: range) -> list[Read]:
    """The reads that serve some places of the global batch, in the order they are needed.

    A read is opened at the step that needs its first row and also brings the rows that its lanes
    need later, until they move to the next row group. A row group that several lanes open in the
    same call is read once.

    Args:
        plan: the data set.
        places: lanes to serve.
        run: all steps that will be taken; rows for other steps are not read.
        opened_in: only reads that are opened in these steps, a part of ``run``.
    """
    return [
        read
        for first, length in _epoch_parts(plan, opened_in)
        for read in _reads_of_epoch(plan, places, run, range(first, first + length))
    ]


def _epoch_parts(plan: ShardPlan, steps: range) -> Iterator[tuple[int, int]]:
    first = steps.start
    while first < steps.stop:
        end = min(steps.stop, (first // plan.steps_per_epoch + 1) * plan.steps_per_epoch)
        yield first, end - first
        first = end


def _reads_of_epoch(plan: ShardPlan, places: range, run: range, opened_in: range) -> list[Read]:
    epoch = opened_in.start // plan.steps_per_epoch
    base = epoch * plan.steps_per_epoch
    images, kinds = _epoch(plan, epoch)
    slots: dict[int, list[tuple[int, int, int]]] = {}
    for kind in np.unique(kinds).tolist():
        steps = base + np.flatnonzero(kinds == kind)
        steps = steps[(steps >= run.start) & (steps < run.stop)]
        for place in places:
            lane = images[steps - base, place]
            groups = np.searchsorted(plan.group_start, lane, side="right") - 1
            bounds = np.flatnonzero(np.diff(groups, prepend=-1, append=-1))
            for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                if int(steps[begin]) in opened_in:  # numpy integers search a range one by one
                    group = int(groups[begin])
                    rows = (lane[begin:end] - plan.group_start[group]).tolist()
                    slots.setdefault(group, []).extend(
                        (step, place, row)
                        for step, row in zip(steps[begin:end].tolist(), rows, strict=True)
                    )
    needed = sorted((sorted(entries), group) for group, entries in slots.items())
    return [
        Read(
            plan.files[plan.group_file[group]],
            int(plan.group_number[group]),
            tuple(row for _, _, row in entries),
            tuple((step, place) for step, place, _ in entries),
        )
        for entries, group in needed
    ]


def locate_image(plan: ShardPlan, image: int) -> tuple[str, int]:
    """The shard of an image and its row in it."""
    group = int(np.searchsorted(plan.group_start, image, side="right")) - 1
    file = int(plan.group_file[group])
    first_group = int(np.flatnonzero(plan.group_file == file)[0])
    return plan.files[file], image - int(plan.group_start[first_group])
