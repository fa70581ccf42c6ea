"""What the web server asks a replica, and what the replica answers."""

from dataclasses import dataclass
from typing import Protocol

JSON, PNG = "application/json", "image/png"


@dataclass(frozen=True)
class DetectionRequest:
    """One image to detect objects in.

    Args:
        image: the encoded image, whose format and size have been checked.
        min_score: detections with a lower score are left out.
        classes: names of the classes to keep; empty for all.
        is_drawn: whether the answer is the image with the objects drawn on it.
    """

    image: bytes
    min_score: float
    classes: tuple[str, ...] = ()
    is_drawn: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer to one request.

    Args:
        status: of HTTP.
        body: JSON or a PNG file.
        media_type: `JSON` or `PNG`.
        batch_images: images of the forward pass, stated by one image of each batch and 0 in the
            others; also 0 without a forward pass.
    """

    status: int
    body: bytes
    media_type: str = JSON
    batch_images: int = 0


class DetectionService(Protocol):
    """The replicas, as the web server sees them."""

    async def detect(self, request: DetectionRequest) -> Answer:
        """Answer a request.

        Raises:
            RefusedError: it is not answered; the reason is meant for the client.
        """

    async def describe(self) -> dict[str, object]:
        """Return the version of the model that answers, and its classes.

        Raises:
            RefusedError: no replica answers.
        """
