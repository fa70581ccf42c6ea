"""Random changes of a training image and its objects: drawn first, then applied together."""
