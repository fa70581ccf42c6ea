"""One command for all jobs: ``maskrcnn-ray JOB CONFIG key=value ...``.

It is the same as ``python workflows/JOB.py CONFIG key=value ...``, from any folder.
"""

import runpy
import sys
from pathlib import Path

_NO_JOBS = ("__main__", "__init__", "arguments", "command_line")


def job_names() -> list[str]:
    """Return the names of all jobs: the files of this package that are commands."""
    return sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NO_JOBS
    )


def main() -> None:
    """Run the job that the command line names, in this process."""
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    if name not in job_names():
        text = f"usage: maskrcnn-ray JOB CONFIG [key=value ...]\n\njobs: {', '.join(job_names())}"
        if name in ("__help", "_h", "help"):
            print(f"{text}\n\nmaskrcnn-ray JOB --help describes a job and its settings.")
            sys.exit(0)
        print(f"{text}\n\nmaskrcnn-ray: there is no job {name!r}", file=sys.stderr)
        sys.exit(2)
    # The job's parser takes its name and its arguments from here.
    sys.argv[:2] = [f"maskrcnn-ray {name}"]
    runpy.run_module(f"workflows.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
