"""Open a page in headless Chromium, and return what it printed to the console."""

import re
import shutil
import subprocess

import pytest

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=2000"),
)


def open_page(path, folder, width, height=900, dark=False):
    """Open a local HTML file.

    Args:
        path: the file.
        folder: where Chromium may write its profile.
        width: of the window, pixels.
        height: likewise.
        dark: whether the device prefers dark colors.

    Returns:
        The page's content after its scripts have run, and its lines on the console.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: install the package chromium for this test")
    theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    process = subprocess.run(
        [
            *(chromium, *_OPTIONS, *theme, f"--user-data-dir={folder / 'profile'}"),
            *(f"--window-size={width},{height}", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    # As in: [123:456:...:INFO:CONSOLE:12] "text", source: file:///...
    console = re.findall(r'CONSOLE[:(]\d+\)?\] "(.*)", source', process.stderr)
    return process.stdout, console
