import pytest

from model import ModelConfig
from model.weights import WeightsError
from model.weights.architecture.detector import infer_architecture


def test_the_architecture_is_inferred_from_names_and_shapes(build_retinanet):
    detector = build_retinanet("cat", "dog")
    inferred = infer_architecture(detector.state_dict(), ModelConfig(), detector.config.conventions)
    expected = detector.config.retinanet
    assert inferred.num_classes == 2
    sizes = {"anchor_sizes": expected.anchor_sizes}
    assert inferred.retinanet.model_copy(update=sizes) == expected
    assert (inferred.box, inferred.mask) == (None, None)


def test_anchors_that_are_not_a_multiple_of_the_ratios_are_refused(build_retinanet):
    config = ModelConfig(box=None, mask=None, retinanet={"anchor_ratios": (0.5, 2.0)})
    detector = build_retinanet("cat")
    with pytest.raises(WeightsError, match=r"9 anchors per cell .* set model\.retinanet\.anchor"):
        infer_architecture(detector.state_dict(), config, detector.config.conventions)
