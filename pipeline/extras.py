"""The extras of the installation: what each part of the pipeline needs beyond inference.

A command checks its extras before it imports anything of them. ``pyproject.toml`` has the versions;
a test compares it with this table.
"""

from model.optional_packages import require_packages

_TRAIN = (
    *("ray", "mlflow", "pyarrow", "boto3", "pycocotools", "faster_coco_eval"),
    *("torchvision", "matplotlib", "pandas", "psutil"),
)

EXTRAS: dict[str, tuple[str, ...]] = {
    "s3": ("pyarrow", "boto3"),
    "gcs": ("pyarrow", "google.cloud.storage"),
    "azure": ("pyarrow", "azure.identity", "azure.storage.blob"),
    "train": _TRAIN,
    "sweep": (*_TRAIN, "optuna"),
    "postgres": ("psycopg2",),
    "labeling": ("contourpy", "shapely"),
    "timm": ("timm",),
    "video": ("av",),
    "serve": (*_TRAIN, "grpc_reflection", "prometheus_client", "starlette", "uvicorn"),
}
"""Extra -> the modules that its packages provide."""


def require_extra(extra: str, purpose: str) -> None:
    """Check that an extra is installed.

    Args:
        extra: a key of `EXTRAS`.
        purpose: what needs it, the subject of the error's sentence.

    Raises:
        MissingPackagesError: a package of it is missing; the message names the extra.
    """
    require_packages(purpose, extra, EXTRAS[extra])
