"""How a worker resumes; needs no cluster."""

from contextlib import contextmanager
from types import SimpleNamespace

from pipeline.config import RunConfig
from pipeline.train import worker


def test_a_downloaded_checkpoint_is_read_when_every_worker_has_it(monkeypatch, tmp_path):
    """Ray lets a worker that comes later write into the folder that the others read."""
    events = []

    @contextmanager
    def as_directory():
        events.append("downloaded")
        yield str(tmp_path)
        events.append("released")

    checkpoint = SimpleNamespace(path="bucket/train/step_00000002", as_directory=as_directory)
    patches = {
        "list_checkpoints": lambda output: ["step_00000002"],
        "reported_checkpoint": lambda url: checkpoint,
        "gather_objects": lambda value: events.append("all workers") or [value],
        "verify_checkpoint": lambda folder, shown: events.append("read"),
        "resume_training_state": lambda *arguments: events.append("read"),
    }
    for name, replacement in patches.items():
        monkeypatch.setattr(worker, name, replacement)
    one = object.__new__(worker._Worker)
    one.task = SimpleNamespace(config=RunConfig(output=str(tmp_path)), categories=())
    one.place = SimpleNamespace(rank=0, device="cpu")
    one._build_state()
    assert events == ["all workers", "downloaded", "all workers", "read", "read", "released"]
