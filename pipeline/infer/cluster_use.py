"""Whether batch inference needs a Ray cluster."""

import os


def needs_cluster(workers: int) -> bool:
    """Return whether a job runs on Ray: with several workers, or where RAY_ADDRESS names a cluster.

    A single worker on this machine predicts in the process of the job: starting Ray, and a process
    that loads PyTorch again, take longer than many a job.
    """
    return workers > 1 or os.environ.get("RAY_ADDRESS", "") not in ("", "local")
