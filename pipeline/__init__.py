"""Everything that touches datasets, clusters, object stores and MLflow."""
