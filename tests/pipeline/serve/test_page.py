"""The page of a server, in a browser: it shows what the server answers, and filters it."""

import numpy as np
import pytest

from model.images.decode import decode_image
from tests.pipeline.serve.browser import opened_browser

pytestmark = pytest.mark.ray

OBJECTS = "[...document.querySelectorAll('#objects li')].map((row) => row.textContent)"
CLASSES = "[...document.querySelectorAll('#classes input')].map((box) => box.name)"
COUNT = "document.getElementById('count').textContent"
# Number of values of the canvas that differ from those of the image alone.
DRAWN_VALUES = """(() => {
  const canvas = document.getElementById('canvas');
  const values = () => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const shown = values();
  draw([]);
  const plain = values();
  show();
  return shown.reduce((sum, value, index) => sum + (value != plain[index]), 0);
})()"""
# Of each mask: its corner in the image, its size, and where it is opaque, row by row.
MASKS = """result.masks.map(({canvas, left, top}) => {
  const {width, height} = canvas;
  const values = [...canvas.getContext('2d').getImageData(0, 0, width, height).data];
  return {left, top, width, height, bitmap: values.filter((_, n) => n % 4 == 3).map((a) => a > 0)};
})"""


@pytest.fixture(scope="module")
def page(url, tmp_path_factory):
    with opened_browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.open(f"{url}/")
        yield opened


@pytest.fixture
def choose(page, tmp_path):
    """A function: name and content of a file -> chooses it, and waits for the answer."""

    def choose_file(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        page.evaluate("[result, element('error').textContent] = [null, '']")
        page.choose_file("#file", path)
        page.wait_for(
            "document.body.style.cursor == '' && (result || element('error').textContent)"
        )

    return choose_file


def set_score(page, score):
    page.evaluate(
        f"element('score').value = {score}; element('score').dispatchEvent(new Event('input'))"
    )


def rows(answer, lowest=0.0, without=None):
    """Return the lines that the page shows of an answer."""
    return [
        f"{name} {score:.2f}"
        for name, score in zip(answer["names"], answer["scores"], strict=True)
        if score >= lowest and name != without
    ]


def test_the_slider_and_the_toggles_filter_what_is_shown(page, url, send, encoded, choose):
    data = encoded()
    answer = send(f"{url}/predict?min_score=0.05", data).content
    choose("photo.png", data)
    set_score(page, 0.05)
    assert page.evaluate(OBJECTS) == rows(answer) != []
    assert page.evaluate(COUNT) == f"{len(rows(answer))} objects"
    assert page.evaluate("element('model').textContent") == answer["model"]
    assert page.evaluate("element('canvas').width") == 6 * 80  # enlarged to at least 480
    everything = page.evaluate(DRAWN_VALUES)
    assert everything > 0

    middle = round(sorted(answer["scores"])[-2] - 0.005, 2)
    set_score(page, middle)
    assert page.evaluate(OBJECTS) == rows(answer, middle)
    assert 0 < len(rows(answer, middle)) < len(rows(answer))
    assert 0 < page.evaluate(DRAWN_VALUES) < everything
    set_score(page, 1)
    assert (page.evaluate(OBJECTS), page.evaluate(DRAWN_VALUES)) == ([], 0)

    set_score(page, 0.05)
    names = sorted(set(answer["names"]))
    assert page.evaluate(CLASSES) == names
    page.evaluate("document.querySelector('#classes input').click()")
    assert page.evaluate(OBJECTS) == rows(answer, without=names[0])
    page.evaluate("document.querySelector('#classes input').click()")
    assert page.evaluate(OBJECTS) == rows(answer)


def test_masks_are_drawn_where_the_detector_says(page, encoded, choose, predictor):
    data = encoded(seed=3, width=97, height=131)
    choose("photo.png", data)
    expected = predictor.predict(decode_image(data)).above(0.05).bitmaps().numpy().astype(bool)
    masks = page.evaluate(MASKS)
    assert len(masks) == len(expected) > 0
    for mask, bitmap in zip(masks, expected, strict=True):
        drawn = np.zeros_like(bitmap)
        left, top, width, height = (mask[key] for key in ("left", "top", "width", "height"))
        drawn[top : top + height, left : left + width] = np.reshape(mask["bitmap"], (height, width))
        np.testing.assert_array_equal(drawn, bitmap)


def test_an_image_that_only_the_server_can_read_is_shown_too(page, encoded, choose):
    choose("scan.tif", encoded(image_format="TIFF"))
    assert page.evaluate("element('error').textContent") == ""
    set_score(page, 0.05)
    assert page.evaluate(DRAWN_VALUES) > 0


def test_the_page_says_why_an_image_is_refused(page, choose):
    choose("notes.txt", b"no image")
    assert page.evaluate("element('error').textContent").startswith(
        "not an image of a known format: JPEG, PNG"
    )


def test_the_drawn_image_is_saved(page, url, send, encoded, choose, tmp_path):
    data = encoded(seed=5)
    choose("photo.png", data)
    set_score(page, 0.05)
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.evaluate("element('save').click()")
    saved = tmp_path / "photo-detections.png"
    page.wait_for_file(saved)
    names = ",".join(sorted(set(send(f"{url}/predict", data).content["names"])))
    assert saved.read_bytes() == send(f"{url}/draw?min_score=0.05&classes={names}", data).body


def test_the_page_asks_no_other_server_and_reports_no_error(page, url):
    assert [
        each for each in page.requested_urls() if not each.startswith((url, "data:", "blob:"))
    ] == []
    expected = ("415 (Unsupported Media Type)",)  # of the test above
    others = [
        problem
        for problem in page.problems()
        if not any(text in problem.get("entry", {}).get("text", "") for text in expected)
    ]
    assert others == []
