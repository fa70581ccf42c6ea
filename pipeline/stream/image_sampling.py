"""Which images of a dataset are trained on, and how often each is seen in an epoch.

Repeat-factor sampling (Gupta et al. 2019, "LVIS") shows images of rare classes more often. The
factor of a class is max(1, sqrt(t / f)), where f is the share of the training images that have it
and t a threshold. The factor of an image is the largest of its classes.

A factor is a mean over epochs: an image of factor 1.3 is seen once in some epochs and twice in
others. Systematic sampling draws these numbers so that their sum is the same in every epoch. For
that the sum of the factors must be an integer, so all factors are multiplied by ceil(sum) / sum,
which exceeds 1 by less than 1 / N. Weights are integers in units of 2^-32, so that sums are exact.

Shapes: N images of the shards, M classes of all images, K classes of the dataset.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # imports torch, which the reading tasks do not need
    from pipeline.shards.manifest import Manifest, ShardFile

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_UNIT_BITS = 32

UNIT = 1 << _UNIT_BITS
"""The weight of an image that is seen once per epoch."""


def select_images(
    manifest: "Manifest", min_keypoints: int, drop_images_without_objects: bool
) -> NDArray[np.bool_]:
    """Return which images to train on, (N,).

    Args:
        manifest: manifest of the shards, with contents if the last argument is true.
        min_keypoints: images with fewer labeled keypoints are left out.
        drop_images_without_objects: leave out images that have no object, or crowd regions alone.

    Raises:
        ValueError: no image is left.
    """
    selected = np.ones(manifest.rows, dtype=bool)
    if min_keypoints:
        counts = [count for file in manifest.files for count in _labeled_keypoints(file)]
        selected &= np.array(counts) >= min_keypoints
        if not selected.any():
            raise ValueError(f"no image has {min_keypoints} labeled keypoints; nothing to train on")
    if drop_images_without_objects:
        selected &= _concatenate(manifest, "objects") > 0
        if not selected.any():
            raise ValueError(
                "no image has objects; nothing to train on with data.images_without_objects=drop"
            )
    return selected


def repeat_factors(manifest: "Manifest", selected: NDArray[np.bool_], threshold: float) -> Floats:
    """Return how often each image is seen per epoch, on average, (N,); 0 for the others.

    Args:
        manifest: manifest of the shards, with contents.
        selected: (N,) the images to train on, at least one.
        threshold: t, in [0, 1]; classes in a smaller share of the images are repeated.
    """
    class_counts = _concatenate(manifest, "class_counts")
    classes = _concatenate(manifest, "classes")
    images = np.repeat(np.arange(len(class_counts)), class_counts)  # (M,)
    occurrences = np.bincount(classes[selected[images]], minlength=classes.max(initial=0) + 1)
    shares = occurrences / selected.sum()
    # A class of images that are all left out has no share; its factor does not matter.
    of_class = np.sqrt(np.maximum(1.0, threshold / np.maximum(shares, 1e-300)))
    factors = np.ones(len(class_counts))
    np.maximum.at(factors, images, of_class[classes])
    return np.where(selected, factors, 0.0)


def sampling_weights(factors: Floats) -> Integers | None:
    """Return the factors in units of 1 / `UNIT`, (N,), scaled to a whole sum.

    None stands for factors that are all 0 or 1, so that no image is repeated.
    """
    if factors.max(initial=0.0) <= 1.0:
        return None
    exact = math.fsum(factors.tolist())
    total = math.ceil(exact)
    weights = np.rint(factors * (total / exact) * UNIT).astype(np.int64)
    # Rounding errors, less than N / 2 units. The largest factor is above 1 and can bear them.
    weights[np.argmax(weights)] += total * UNIT - int(weights.sum())
    return weights


def systematic_counts(weights: Integers, offset: int) -> Integers:
    """Return how often each image is seen, (N,): its weight in `UNIT` rounded down or up.

    Over all offsets the mean is the weight itself. The sum is that of the weights, for any offset.

    Args:
        weights: (N,), their sum a multiple of `UNIT`.
        offset: drawn uniformly from ``range(UNIT)``.

    Source: Madow 1949, systematic sampling with unequal probabilities.
    """
    return np.diff((offset + np.cumsum(weights)) >> _UNIT_BITS, prepend=0)


def _labeled_keypoints(file: "ShardFile") -> tuple[int, ...]:
    return file.labelled_points or (0,) * file.rows


def _concatenate(manifest: "Manifest", field: str) -> Integers:
    if not all(file.has_contents for file in manifest.files):
        raise ValueError(
            "the manifest does not list the classes of its images; call complete_manifest first"
        )
    values = [value for file in manifest.files for value in getattr(file, field)]
    return np.array(values, dtype=np.int64)
