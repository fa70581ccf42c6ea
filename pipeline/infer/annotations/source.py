"""What makes annotations, and the files that they are in; needs no extra."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.config import ModelConfig
from model.structures import Category
from pipeline import storage
from pipeline.output_layout import ANNOTATION_FILES


@dataclass(frozen=True)
class AnnotationSource:
    """What makes the annotations, the same for all images.

    Args:
        model: its name, for people.
        categories: its classes; empty for a proposal network.
        keypoint_names: None without keypoints.
        has_masks: whether its objects have masks.
    """

    model: str
    categories: tuple[Category, ...]
    keypoint_names: tuple[str, ...] | None
    has_masks: bool

    @classmethod
    def of(
        cls, model: str, config: ModelConfig, categories: Sequence[Category]
    ) -> "AnnotationSource":
        """Describe a detector by its name, settings and classes."""
        return cls(
            model,
            () if config.is_proposal_network else tuple(categories),
            None if config.keypoint is None else tuple(config.keypoint.names),
            config.mask is not None,
        )

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; ``object`` for a proposal network."""
        return [each.name for each in self.categories] or ["object"]


def delete_annotation_files(folder_url: str) -> None:
    """Delete the files of an earlier job: they do not agree with what this one writes."""
    for name in (name for names in ANNOTATION_FILES.values() for name in names):
        storage.delete(storage.join(folder_url, name))
