"""The classes of a dataset in Pascal VOC's layout, which does not list them."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from model.config.settings import ConfigError
from pipeline.ingest.class_selection import nearest_class, unknown_class
from pipeline.ingest.voc_xml import AnnotationFile
from pipeline.shards.class_match import list_names

logger = logging.getLogger(__name__)

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""In VOC's order: class masks number them from 1."""

_PROBABLY_MISSPELLED = 0.8  # similarity of a name without objects to one with objects


def name_classes(
    files: Iterable[AnnotationFile], url: str, selected: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """Return the names of all classes, and whether class masks are known to number them so.

    Args:
        files: all annotation files.
        url: the image list, for messages.
        selected: the classes to learn. They are among the names, and have the same numbers
            whatever other names the files have. Default: VOC's, or if most objects have other
            names, all names in the files.

    Raises:
        ConfigError: no object is of a selected class, but objects have a similar name.
    """
    objects = Counter(item["category_id"] for file in files for item in file.annotations)
    del objects[""]
    if not selected:
        names = _choose_classes(objects, url)
        return names, names == VOC_CLASSES
    others = sorted(objects.keys() - set(selected))
    if set(selected) <= set(VOC_CLASSES):
        foreign = [name for name in others if name not in VOC_CLASSES]
        # Masks of VOC number all its classes, masks of another dataset perhaps those selected.
        is_voc = tuple(selected) == VOC_CLASSES or len(others) > len(foreign)
        return (*VOC_CLASSES, *foreign), is_voc
    _check_spelling(selected, objects, others, url)
    return (*selected, *others), not others


def _check_spelling(
    selected: Sequence[str], objects: Mapping[str, int], others: Sequence[str], url: str
) -> None:
    """Raise if a class without objects is probably another one, misspelled; warn otherwise."""
    missing = [name for name in selected if name not in objects]
    similar = [name for name in missing if nearest_class(name, others, _PROBABLY_MISSPELLED)]
    if similar:
        raise ConfigError([unknown_class(name, others, url) for name in similar])
    if missing:
        logger.warning("%s: no object of the classes %s", url, list_names(missing))


def _choose_classes(objects: Counter[str], url: str) -> tuple[str, ...]:
    """Return VOC's classes, or all names in the files if most objects are of other classes."""
    foreign = sum(number for name, number in objects.items() if name not in VOC_CLASSES)
    if 2 * foreign <= objects.total():
        return VOC_CLASSES
    names = tuple(sorted(objects))
    logger.warning(
        "%s: most objects are not of VOC's classes; the %d names in its files are the classes: %s. "
        "Set data.classes to choose them and their order.",
        url,
        len(names),
        ", ".join(names),
    )
    return names
