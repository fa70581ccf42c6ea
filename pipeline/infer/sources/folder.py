"""The images of a folder or bucket, or a single image."""

from collections.abc import Sequence

from model.images.decode import IMAGE_SUFFIXES
from model.structures import Category
from pipeline.infer.image_listing import ImageListing
from pipeline.infer.inputs import ImageReader, read_files
from pipeline.shards.manifest import MANIFEST_NAME
from pipeline.storage.versions import file_url


class FolderImages(ImageListing):
    """An `ImageSource`; see `ImageListing` for the arguments."""

    categories: Sequence[Category] = ()
    reader: ImageReader = staticmethod(read_files)

    def describe_empty(self) -> str:
        """Return the error for a folder without images."""
        counts = ", ".join(f"{count} {suffix}" for suffix, count in self.skipped.most_common(5))
        return (
            f"{self.url} holds neither shards ({MANIFEST_NAME}) nor images "
            f"({', '.join(IMAGE_SUFFIXES)}); "
            + (f"it holds other files: {counts}" if counts else "there are no files at all")
        )

    def image_url(self, name: str) -> str:
        """Return the URL of an image."""
        # A single image has its URL as its name.
        return name if name == self.url else file_url(self.url, name)
