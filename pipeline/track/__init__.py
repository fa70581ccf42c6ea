"""MLflow: runs, metrics, the model registry; and weights from any source."""
