"""Show images and frames in a window."""

import time
from typing import Any

from PIL import Image

from model.images.decode import Pixels
from pipeline.predict.errors import PredictError

_SCREEN_SHARE = 0.85
_POLL_S = 0.03


class WindowClosedError(Exception):
    """The user closed the window or pressed q."""


class ResultWindow:
    """A window of Tk, which comes with Python.

    Raises:
        PredictError: there is no display, or Python was installed without Tk.
    """

    def __init__(self) -> None:
        try:
            # Optional: machines without a display often have no Tk.
            import tkinter as tk  # noqa: PLC0415

            from PIL import ImageTk  # noqa: PLC0415
        except ImportError:
            raise PredictError(
                "this Python has no Tk, which --show needs (on Debian and Ubuntu: apt install "
                "python3-tk); use --output DIR to write files instead"
            ) from None
        try:
            self._root = tk.Tk()
        except tk.TclError as error:
            raise PredictError(
                f"there is no display to show images on ({error}); use --output DIR to write files "
                "instead"
            ) from None
        self._photo_image: Any = ImageTk.PhotoImage
        self._label = tk.Label(self._root)
        self._label.pack()
        self._photo: Any = None
        self._is_closed = False
        self._goes_on = False
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        self._root.bind("<Key>", self._on_key)
        self._root.bind("<Button>", self._on_click)

    def show(self, pixels: Pixels, title: str, wait: bool) -> None:
        """Show an image, scaled down to the screen.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            title: of the window.
            wait: whether to wait for a key or a click.

        Raises:
            WindowClosedError: the user wants to see no more.
        """
        image = Image.fromarray(pixels)
        screen = (self._root.winfo_screenwidth(), self._root.winfo_screenheight())
        image.thumbnail((int(screen[0] * _SCREEN_SHARE), int(screen[1] * _SCREEN_SHARE)))
        # Tk does not keep a reference to the image that it shows.
        self._photo = self._photo_image(image, master=self._root)
        self._label.configure(image=self._photo)
        self._root.title(f"{title} (any key: next, q: quit)" if wait else f"{title} (q: quit)")
        self._root.update()
        if wait:
            self._root.focus_force()
        self._goes_on = not wait
        while not self._goes_on and not self._is_closed:
            # Not Tk's own loop, which Ctrl-C does not interrupt.
            self._root.update()
            time.sleep(_POLL_S)
        if self._is_closed:
            raise WindowClosedError

    def close(self) -> None:
        """Remove the window."""
        self._root.destroy()

    def _on_key(self, event: Any) -> None:
        if event.keysym in ("q", "Q", "Escape"):
            self._close()
        elif not event.keysym.startswith(("Shift", "Control", "Alt", "Super")):
            self._goes_on = True

    def _on_click(self, _event: Any) -> None:
        self._goes_on = True

    def _close(self) -> None:
        self._is_closed = True
