"""MLflow: runs, metrics that never stop a training, and the registry of models."""
