"""Backbone and heads of a maskrcnn-benchmark config."""

from tests.pipeline.config.maskrcnn_benchmark import original_files


def test_deformable_convolutions_are_converted(import_text):
    backbone = import_text(original_files.FASTER_R50_FPN_MDCONV).config.model.backbone
    assert (backbone.deformable, backbone.deformable_stages) == ("v2", (3, 4, 5))


def test_a_box_head_of_convolutions_is_converted(import_text):
    text = original_files.MASK_R50_FPN_GN.replace(
        '"FPN2MLPFeatureExtractor"', '"FPNXconv1fcFeatureExtractor"\n    CONV_HEAD_DIM: 128'
    )
    box = import_text(text).config.model.box
    assert (box.conv_layers, box.conv_channels, box.fc_layers) == (4, 128, 1)
    assert (box.norm, box.fc_norm) == ("group_norm", "none")
