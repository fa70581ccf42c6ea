"""What a registered model takes and gives, as MLflow checks it."""

from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(Array(Array(DataType.double)), "boxes"),
            ColSpec(Array(DataType.double), "scores"),
            ColSpec(Array(DataType.long), "labels"),
            ColSpec(Array(DataType.long), "category_ids"),
            ColSpec(Array(DataType.string), "category_names"),
            ColSpec(
                Array(
                    Object(
                        [
                            Property("size", Array(DataType.long)),
                            Property("counts", DataType.string),
                        ]
                    )
                ),
                "masks",
            ),
            ColSpec(Array(Array(Array(DataType.double))), "keypoints"),
            ColSpec(Array(DataType.string), "keypoint_names"),
        ]
    ),
    params=ParamSchema([ParamSpec("score_threshold", DataType.double, 0.0)]),
)
