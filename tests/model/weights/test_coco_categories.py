from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from model.weights.coco_categories import coco_categories, sparse_coco_categories


def test_the_sparse_categories_match_torchvision():
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert [tuple(category) for category in sparse_coco_categories()] == list(enumerate(names))[1:]
    assert len(coco_categories()) == 80
