"""The report of a chain is one file that any browser shows, also on a phone and in the dark."""

import re

import pytest

from pipeline.chain.report.page import render_page
from pipeline.chain.report.plots import line_plot, number, ticks
from tests.chromium import open_page
from tests.pipeline.chain.report_example import example_content

# Reports what is wider than the window, and the color of the page.
_PROBE = """<script>
const wide = [...document.querySelectorAll("section, header, svg, img")].filter(
  (e) => e.getBoundingClientRect().right > window.innerWidth + 1);
document.title = [document.documentElement.scrollWidth <= window.innerWidth, wide.length,
  [...document.images].every((i) => i.complete && i.naturalWidth > 0),
  getComputedStyle(document.body).backgroundColor].join("|");
</script>"""


@pytest.mark.parametrize(
    ("width", "dark", "color"),
    [(1280, False, "rgb(246, 247, 249)"), (500, True, "rgb(18, 22, 28)")],
)
def test_a_browser_shows_the_page_without_errors(tmp_path, width, dark, color):
    page = render_page(example_content()).replace('loading="lazy" ', "")
    (tmp_path / "report.html").write_text(page.replace("</body>", f"{_PROBE}</body>"))
    shown, console = open_page(tmp_path / "report.html", tmp_path, width, dark=dark)
    assert console == []
    [title] = re.findall(r"<title>(.*)</title>", shown)
    assert title == f"true|0|true|{color}"


def test_errors_of_a_page_are_seen(tmp_path):
    (tmp_path / "page.html").write_text("<script>nothing.here()</script>")
    _, console = open_page(tmp_path / "page.html", tmp_path, 500)
    assert console == ["Uncaught ReferenceError: nothing is not defined"]


def test_the_page_loads_nothing_and_escapes_what_it_shows():
    page = render_page(example_content())
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert not re.findall(r"url\(|@import|<script|<link", page)
    assert "the disk is &lt;full&gt;" in page
    assert "00_street&lt;1&gt;.png" in page
    assert "disc &amp; ring" in page
    assert "<full>" not in page


def test_the_page_has_the_results_and_the_reasons():
    page = render_page(example_content())
    for text in ("61.6", "66.9", "is not promoted", "star is worse", "segm/AP 0.6157 beats"):
        assert text in page
    assert '<a href="evaluation/report.md">' in page
    assert '<a href="stages/infer/log.txt">' in page
    assert page.count("<polyline") == 3  # a curve without a finite value has no line
    assert "nan" not in page


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.02, 0.02), (-3, 7.2), (1e-6, 3e-5), (100, 90_000), (0, 0)]
)
def test_ticks_are_round_and_enclose_the_range(low, high):
    values = ticks(low, high)
    rounding = 1e-9 * abs(high)
    assert values[0] <= low + rounding and values[-1] >= high - rounding
    assert 2 <= len(values) <= 8
    assert len({number(value) for value in values}) == len(values)


def test_a_plot_without_values_is_left_out():
    assert line_plot("Loss", {"loss": ((0.0, float("inf")),)}, "step") == ""
