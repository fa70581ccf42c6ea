"""Answer requests over HTTP: image in, detections out."""

import sys

from pipeline.config import RunConfig
from workflows.command_line import main


def plan(config: RunConfig) -> str:
    """Say what is served, and where."""
    model = config.serve.model or f"the champion of models:/{config.track.model_name}"
    return f"serving {model} at http://{config.serve.host}:{config.serve.port}"


def job(config: RunConfig) -> str:
    """Serve until the job is stopped."""
    from pipeline.serve.run import run_server

    return run_server(config)


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Serves serve.model (default: models:/{track.model_name}@champion) over HTTP, with Ray
            Serve: POST an image to /predict for JSON or to /draw for a PNG, or open the page. When
            the alias moves, the new version is loaded and answers. Ctrl-C or SIGTERM ends it.""",
            example="python workflows/serve.py configs/quickstart.yaml serve.port=8000",
            job=job,
            plan=plan,
            sections=("serve", "track"),
            # The job joins the cluster itself, once it knows that the port is free.
            needs_cluster=lambda _: False,
            extra=lambda _: "serve",
        )
    )
