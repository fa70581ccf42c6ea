"""Shapes of a narrow Mask R-CNN with ResNet-50-FPN, pickles of Python 2, and a small RetinaNet."""

import struct

import numpy as np
import pytest
import torch

from model import Category, build_detector


def _narrow_shapes():
    """Return shapes by layer key: an eighth of the width, 16 channels in the pyramid, 3 anchors."""
    shapes = {("stem",): (8, 3, 7, 7)}
    inside = 8
    for stage, (blocks, width) in enumerate(((3, 8), (4, 16), (6, 32), (3, 64)), start=2):
        for block in range(blocks):
            if block == 0:
                shapes["block", stage, block, 0] = (4 * width, inside, 1, 1)
            shapes["block", stage, block, 1] = (width, inside, 1, 1)
            shapes["block", stage, block, 2] = (width, width, 3, 3)
            shapes["block", stage, block, 3] = (4 * width, width, 1, 1)
            inside = 4 * width
        shapes["lateral", stage] = (16, inside, 1, 1)
        shapes["output", stage] = (16, 16, 3, 3)
    shapes |= {
        ("rpn",): (16, 16, 3, 3),
        ("objectness",): (3, 16, 1, 1),
        ("anchor deltas",): (12, 16, 1, 1),
        ("fc", 1): (24, 16 * 49),
        ("fc", 2): (24, 24),
        ("mask deconvolution",): (16, 16, 2, 2),
    }
    return shapes | {("mask", layer): (16, 16, 3, 3) for layer in range(1, 5)}


def _random_weights(shape, rng):
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else 4
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def _text(value):
    raw = value.encode("latin1") if isinstance(value, str) else value
    if len(raw) < 256:
        return b"U" + bytes([len(raw)]) + raw
    return b"T" + struct.pack("<i", len(raw)) + raw


def _array(value):
    sides = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in value.shape) + b"t"
    dtype = b"cnumpy\ndtype\n" + _text(value.dtype.str[1:]) + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + _text(value.dtype.str[0]) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    created = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return created + b"(K\x01" + sides + dtype + b"\x89" + _text(value.tobytes()) + b"tb"


def _python2_pickle(value):
    """Pickle with protocol 2, text and bytes both as the ``str`` of Python 2."""

    def item(content):
        if isinstance(content, dict):
            pairs = b"".join(_text(key) + item(inner) for key, inner in content.items())
            return b"}(" + pairs + b"u"
        return _array(content) if isinstance(content, np.ndarray) else _text(content)

    return b"\x80\x02" + item(value) + b"."


@pytest.fixture
def narrow_shapes():
    return _narrow_shapes()


@pytest.fixture
def random_weights():
    rng = np.random.default_rng(3)
    return lambda shape: _random_weights(shape, rng)


@pytest.fixture
def python2_pickle():
    return _python2_pickle


@pytest.fixture
def build_retinanet(tiny_config):
    """Function: class names -> a RetinaNet with random weights."""

    def build(*names):
        categories = [Category(i, name) for i, name in enumerate(names, start=1)]
        config = tiny_config(
            num_classes=len(names),
            backbone={"depth": 18, "norm": "frozen_bn", "width": 16, "frozen_stages": 0},
            box=None,
            mask=None,
            retinanet={"anchor_sizes": (8, 16, 32, 48, 64), "layers": 2, "norm": "group_norm"},
        )
        detector = build_detector(config, categories)
        for parameter in detector.parameters():
            torch.nn.init.normal_(parameter)
        return detector

    return build
