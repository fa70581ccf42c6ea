"""The ledger of a sweep: one small file per trial, written before the trial starts.

It is the only memory of a sweep. Whatever is killed, a trial keeps its number, its values and its
folder, and the searcher and the scheduler are rebuilt from what the ledger says.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import SWEEP_FOLDER, from_portable, to_portable
from pipeline.storage.records import parse_record

Status = Literal["running", "finished", "stopped", "failed"]

LEDGER_FOLDER = "ledger"


@dataclass(frozen=True)
class Copy:
    """A moment at which pbt replaced a trial by a changed copy of another.

    Args:
        step: the step of the copied checkpoint.
        source: the trial that was copied.
        values: the changed values.
    """

    step: int
    source: str
    values: dict[str, Any]


@dataclass(frozen=True)
class TrialRecord:
    """One trial: the field names are the keys in its file.

    Args:
        trial_id: also the name of its folder in ``{output}/sweep/trials``.
        values: the sampled values by dotted key.
        status: running, also if the sweep was killed meanwhile; finished; stopped early by the
            scheduler; failed.
        steps: optimizer steps taken.
        metrics: its last losses and validation metrics.
        history: images seen and value of the sweep's metric, at each validation.
        seconds: time it ran, over all submissions, including its start.
        error: why it failed.
        weights: the checkpoint it began with instead of ``train.weights`` (warm start).
        copies: of other trials that it became (pbt).
    """

    trial_id: str
    values: dict[str, Any]
    status: Status = "running"
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    history: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    error: str | None = None
    weights: str | None = None
    copies: tuple[Copy, ...] = ()

    @property
    def number(self) -> int:
        """The number of the trial, from 0."""
        return int(self.trial_id)

    @property
    def stopped_early(self) -> bool:
        """Whether the scheduler stopped it before its last step."""
        return self.status == "stopped"

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to run."""
        return self.status != "running"

    @property
    def images_seen(self) -> int:
        """Images seen at the last validation."""
        return self.history[-1][0] if self.history else 0

    def with_validation(self, images: int, value: float) -> "TrialRecord":
        """Return the record with one more validation; later ones are dropped (pbt goes back)."""
        kept = tuple(each for each in self.history if each[0] < images)
        return replace(self, history=(*kept, (images, value)))


def id_of(number: int) -> str:
    """Return the id of a trial."""
    return f"{number:04d}"


class TrialLedger:
    """The trials of the sweep in an output folder.

    Args:
        config: the sweep's settings.

    Raises:
        DamagedRecordError: a file is damaged.
    """

    def __init__(self, config: RunConfig) -> None:
        self._output = config.output
        self._folder = storage.join(config.output, SWEEP_FOLDER, LEDGER_FOLDER)
        self._records = {record.trial_id: record for record in self._read()}

    def _read(self) -> Iterable[TrialRecord]:
        for url in storage.list_files(self._folder, (".json",)):
            remedy = (
                "delete the file, and the trial continues with new values from its checkpoints; "
                "delete its folder in trials too, and it starts again"
            )
            document = from_portable(storage.read_json(url), self._output)
            yield parse_record(document, TrialRecord, url, remedy)

    def records(self) -> tuple[TrialRecord, ...]:
        """Return all trials, by number."""
        return tuple(self._records[key] for key in sorted(self._records))

    def settled(self) -> tuple[TrialRecord, ...]:
        """Return the trials with nothing left to run, by number."""
        return tuple(record for record in self.records() if record.is_settled)

    def get(self, trial_id: str) -> TrialRecord:
        """Return one trial."""
        return self._records[trial_id]

    def write(self, record: TrialRecord) -> TrialRecord:
        """Write a trial, replacing what the ledger says about it."""
        self._records[record.trial_id] = record
        url = storage.join(self._folder, f"{record.trial_id}.json")
        storage.write_json(url, to_portable(asdict(record), self._output))
        return record

    def unfinished(self, count: int) -> tuple[list[TrialRecord], list[int]]:
        """Return the started trials that are not settled, and the numbers of those to start.

        Args:
            count: number of trials of the sweep.
        """
        started = [record for record in self.records() if not record.is_settled]
        new = [number for number in range(count) if id_of(number) not in self._records]
        return started, new
