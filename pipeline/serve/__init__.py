"""Detectors behind HTTP: a web server in front of replicas that Ray Serve runs (docs/SERVE.md)."""
