"""Import the text of a maskrcnn-benchmark config."""

import pytest

from pipeline.config.maskrcnn_benchmark.convert import import_config


@pytest.fixture
def import_text(tmp_path):
    def run(text, name="old"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return import_config(path)

    return run
