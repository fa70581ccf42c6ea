"""The keypoint head that weights under our names fill."""

from collections.abc import Mapping

from torch import Tensor

from model.config import KeypointHeadConfig


def infer_keypoint_head(
    tensors: Mapping[str, Tensor], keypoint: KeypointHeadConfig | None
) -> KeypointHeadConfig | None:
    """Settings of the keypoint head of these weights; None where they have none.

    Args:
        tensors: a whole detector's, under our names.
        keypoint: what the weights cannot tell. Its names stay where they are as many as the
            weights' keypoints; else 17 are those of COCO's persons, and others are numbered.
    """
    upsample = tensors.get("roi_heads.keypoint.upsample.weight")
    if upsample is None:
        return None
    channels, count = upsample.shape[:2]
    settings, coco = keypoint or KeypointHeadConfig(), KeypointHeadConfig().names
    numbered = tuple(f"keypoint_{number}" for number in range(1, count + 1))
    names = next((known for known in (settings.names, coco) if len(known) == count), numbered)
    layers = sum(f"roi_heads.keypoint.convs.{layer}.weight" in tensors for layer in range(32))
    return settings.model_copy(update={"channels": channels, "layers": layers, "names": names})
