"""Records hold URLs below the output relative to it, so that they survive a move."""

import pytest

from pipeline.output_layout import from_portable, to_portable

DOCUMENT = {
    "checkpoint_url": "/runs/a/train/step_2",
    "output": "/runs/a",
    "pictures": ["/runs/a/p/1.png", "s3://other/p.png"],
    "nested": {"url": "/runs/a/x", "beside": "/runs/ab/x", "text": "see /runs/a/x"},
    "steps": 3,
    "nothing": None,
}


@pytest.mark.parametrize("new", ["/runs/b", "s3://bucket/b", "/with {output} in it/"])
def test_urls_below_the_output_follow_it(new):
    portable = to_portable(DOCUMENT, "/runs/a/")
    assert portable["checkpoint_url"] == "{output}/train/step_2"
    moved = from_portable(portable, new)
    folder = new.rstrip("/")
    assert moved == {
        **DOCUMENT,
        "checkpoint_url": f"{folder}/train/step_2",
        "output": folder,
        "pictures": [f"{folder}/p/1.png", "s3://other/p.png"],
        "nested": {**DOCUMENT["nested"], "url": f"{folder}/x"},
    }


def test_a_document_is_restored_unchanged():
    assert from_portable(to_portable(DOCUMENT, "/runs/a"), "/runs/a") == DOCUMENT
