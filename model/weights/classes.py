"""COCO's classes as other ecosystems number them."""

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from model.structures import Category


def sparse_coco_categories() -> list[Category]:
    """The 90 COCO ids that torchvision's detectors were trained on, unused ones ("N/A") too."""
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [Category(number, name) for number, name in enumerate(names) if number > 0]


def coco_categories() -> list[Category]:
    """The 80 COCO classes in the order of their ids, as all others number them."""
    return [category for category in sparse_coco_categories() if category.name != "N/A"]
