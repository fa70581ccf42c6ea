"""Match records of imagined detectors, drawn from a known distribution."""

import numpy as np

from pipeline.evaluate.image_matches import IOU_THRESHOLDS, ImageMatches


def draw_objects(rng, images, classes=2, mean=3.0):
    """Return the image and the class of each object; every class has at least one."""
    counts = rng.poisson(mean, images)
    object_images = np.arange(images).repeat(counts)
    object_classes = rng.integers(classes, size=len(object_images))
    object_images[:classes], object_classes[:classes] = np.arange(classes), np.arange(classes)
    order = np.lexsort((object_classes, object_images))
    return object_images[order], object_classes[order]


def draw_detector(rng, objects, images, classes, recall, quality, false=2.0):
    """Return the matches of a detector that finds each object with chance ``recall``.

    ``quality`` in [0, 1] raises its IoUs; ``false`` is the mean number of false positives of an
    image.
    """
    object_images, object_classes = objects
    found = rng.random(len(object_images)) < recall
    count = rng.poisson(false * images)
    ious = rng.uniform(0.5, 1.0, found.sum()) * (1 - quality) + quality
    detection_images = np.concatenate([object_images[found], rng.integers(images, size=count)])
    detection_classes = np.concatenate([object_classes[found], rng.integers(classes, size=count)])
    scores = np.concatenate([rng.beta(4, 2, found.sum()), rng.beta(2, 4, count)])
    matched = np.zeros((len(scores), len(IOU_THRESHOLDS)), dtype=bool)
    matched[: len(ious)] = ious[:, None] >= IOU_THRESHOLDS
    order = np.lexsort((-scores, detection_classes, detection_images))
    return ImageMatches(
        image_ids=np.arange(images),
        class_ids=np.arange(classes),
        images=detection_images[order],
        classes=detection_classes[order],
        scores=scores[order],
        matched=matched[order],
        ignored=np.zeros_like(matched),
        object_images=object_images,
        object_classes=object_classes,
    )


def repeat_images(matches, counts):
    """Return the matches of a dataset that has image n ``counts[n]`` times."""
    counts = np.asarray(counts)
    first = np.cumsum(counts) - counts  # index of the first copy of each image

    def copies(images):
        index = np.arange(len(images)).repeat(counts[images])
        number = np.concatenate([np.arange(counts[n]) for n in images] or [np.zeros(0, int)])
        return index, first[images[index]] + number

    detections, images = copies(matches.images)
    objects, object_images = copies(matches.object_images)
    order = np.lexsort((-matches.scores[detections], matches.classes[detections], images))
    object_order = np.lexsort((matches.object_classes[objects], object_images))
    detections, objects = detections[order], objects[object_order]
    return ImageMatches(
        image_ids=np.arange(counts.sum()),
        class_ids=matches.class_ids,
        images=images[order],
        classes=matches.classes[detections],
        scores=matches.scores[detections],
        matched=matches.matched[detections],
        ignored=matches.ignored[detections],
        object_images=object_images[object_order],
        object_classes=matches.object_classes[objects],
    )
