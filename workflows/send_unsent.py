"""Send to MLflow what earlier jobs could not."""

import sys

from pipeline.config import RunConfig
from workflows.command_line import main


def plan(config: RunConfig) -> str:
    """Say what is sent."""
    return f"sending what MLflow does not have yet of the runs in {config.output}"


def job(config: RunConfig) -> str:
    """Send it, and return how much it was."""
    from pipeline.track.send_unsent import send_unsent

    sent = send_unsent(config)
    return f"sent        {sent}" if sent.runs else "nothing to send"


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Sends to MLflow the metrics and artifacts of ended jobs that are kept in
            {output}/unsent, and in those of a sweep's trials, because the tracking server or its
            artifact store was away.""",
            example="python workflows/send_unsent.py configs/coco_tiny.yaml",
            job=job,
            plan=plan,
            sections=("track",),
            needs_cluster=lambda _: False,
        )
    )
