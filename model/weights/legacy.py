"""Facts that Detectron's and maskrcnn-benchmark's weights share."""

from collections.abc import Mapping

from torch import Tensor

from model.weights.report import WeightsError


def one_box_for_all(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of class-agnostic boxes, where there are such: none for the background.

    Args:
        tensors: under our names; a box of the background and one of all classes.
    """
    names = [f"roi_heads.box.box_deltas.{kind}" for kind in ("weight", "bias")]
    classes = len(tensors.get("roi_heads.box.class_logits.bias", ()))
    # With one class nothing tells: it is a box per class, whose numbers are the same.
    return {
        name: tensors[name][4:]
        for name in names
        if name in tensors and len(tensors[name]) == 8 and classes > 2
    }


def refuse_unbuilt(tensors: Mapping[str, Tensor], unbuilt: Mapping[str, str]) -> None:
    """Refuse weights of a model that we do not build.

    Args:
        tensors: under their own names.
        unbuilt: a part of a name, and the model that it gives away.

    Raises:
        WeightsError: one of them occurs.
    """
    for part, what in unbuilt.items():
        found = next((name for name in tensors if part in name), None)
        if found is not None:
            raise WeightsError(f"{what} is not built yet ({found})")
