"""Shards in the stores of Google and Azure give the batches of local ones."""

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.stream.training_stream import open_local_stream
from tests.pipeline.stream.reading import read


@pytest.mark.s3
@pytest.mark.parametrize("store", ["gcs", "azure"])
def test_shards_in_the_stores_of_other_clouds_are_read(request, store, config, shards):
    url = request.getfixturevalue(store)("shards")
    storage.upload_folder(Path(shards), url)
    batches = read(open_local_stream, config, url, 0, 1, 0, 7)
    assert batches == read(open_local_stream, config, shards, 0, 1, 0, 7)
