"""MLflow: runs, metrics that never stop training, and the model registry."""
