"""Every kind of detector is exported, and finds what it finds."""

import json

import onnxruntime
import pytest
import torch

from model.export import export_onnx, export_program
from model.export.comparison import compare, compare_on
from model.export.graph import InferenceGraph
from model.export.onnx_file import description
from model.preprocess import pad_batch
from model.structures import ImageSize

BOX = {"hidden": 64, "detections_per_image": 40}
MASK = {"channels": 16, "layers": 1}
KEYPOINT = {"channels": 16, "layers": 1, "names": ("a", "b", "c")}
RETINANET = {
    "layers": 1,
    "norm": "group_norm",
    "anchor_sizes": (8, 16, 32, 48, 64),
    "pre_nms": 200,
    "score_threshold": 0.005,
    "detections_per_image": 40,
}
RPN = {"anchor_sizes": (8, 16, 32, 48, 64), "pre_nms_test": 100, "post_nms_test": 60}
KINDS = {
    "retinanet": {"box": None, "mask": None, "retinanet": RETINANET},
    "proposals": {"box": None, "mask": None, "rpn": RPN | {"layers": 2}},
    "c4": {
        "backbone": {"depth": 18, "width": 16, "features": "c4"},
        "box": BOX | {"pool_side": 14, "class_agnostic": True},
    },
    "keypoints": {"mask": None, "keypoint": KEYPOINT},
    "dc5_resnext_deformable": {
        "backbone": {
            "depth": 50,
            "width": 16,
            "features": "dc5",
            "groups": 4,
            "group_width": 4,
            "deformable": "v2",
            "deformable_stages": (5,),
        },
        "mask": None,
    },
    "norms_and_convolutions": {
        "fpn": {"channels": 32, "norm": "batch_norm"},
        "box": BOX | {"conv_layers": 1, "conv_channels": 16, "fc_layers": 1, "norm": "group_norm"},
        "mask": MASK | {"norm": "group_norm", "class_agnostic": True},
    },
    "ends_on_last_pixel": {
        "backbone": {"depth": 50, "width": 16, "features": "dc5"},
        "conventions": {
            "legacy_geometry": True,
            "roi_aligned": False,
            "keypoint_coordinates": "pixel_numbers",
        },
        "mask": MASK,
        "keypoint": KEYPOINT,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_function_to_be_traced_is_the_detector_of_every_kind(build_spread, soft_blots, kind):
    detector, picture = build_spread(**KINDS[kind]), soft_blots(140, 170)
    batch = pad_batch([picture], [ImageSize(140, 170)])
    with torch.inference_mode():
        (wanted,) = detector(batch)
        graph = InferenceGraph(detector).eval()
        found = graph(picture)
    assert len(wanted) >= 5
    assert tuple(found) == graph.outputs
    for name in ("masks", "keypoints"):
        assert (name in found) == (getattr(wanted, name) is not None)
    for name, value in found.items():
        # boxes that end on their last pixel are moved there and back, which rounds
        torch.testing.assert_close(value, getattr(wanted, name), atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["retinanet", "dc5_resnext_deformable", "norms_and_convolutions"])
def test_a_program_for_any_size_finds_what_a_detector_of_its_kind_finds(
    build_spread, soft_blots, kind
):
    detector = build_spread(**KINDS[kind])
    program = export_program(detector).module()
    sizes = (140, 170), (200, 129)
    agreement = compare_on(detector, program, [soft_blots(*size) for size in sizes])
    assert agreement.agreeing == agreement.wanted == agreement.found >= 10, agreement


@pytest.mark.parametrize("kind", ["retinanet", "ends_on_last_pixel"])
def test_onnxruntime_finds_what_a_detector_of_its_kind_finds(
    build_spread, soft_blots, tmp_path, kind
):
    detector, size = build_spread(**KINDS[kind]), ImageSize(150, 170)
    path = tmp_path / "model.onnx"
    export_onnx(detector, path, size)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    picture = soft_blots(*size)
    with torch.inference_mode():
        (wanted,) = detector(pad_batch([picture], [size]))
    values = session.run(names, {"pixels": picture.numpy()})
    agreement = compare(wanted, dict(zip(names, map(torch.from_numpy, values), strict=True)))
    assert agreement.agreeing == agreement.wanted == agreement.found >= 10, agreement
    assert ("keypoints" in names) == (wanted.keypoints is not None)


def test_what_a_caller_needs_depends_on_the_kind(build_spread):
    proposals = description(build_spread(**KINDS["proposals"]))
    assert proposals["categories"] is None  # its label 1 is no class
    assert proposals["mask_paste"] is proposals["keypoints"] is None
    legacy = json.loads(json.dumps(description(build_spread(**KINDS["ends_on_last_pixel"]))))
    assert legacy["keypoints"] == ["a", "b", "c"]
    assert (legacy["box_end"], legacy["mask_paste"]) == (1.0, "inclusive")
    assert legacy["keypoint_origin"] == 0.5
