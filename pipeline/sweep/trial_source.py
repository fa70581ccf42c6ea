"""Feed trials to Ray Tune: first those that were interrupted, then new ones."""

import logging
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search import SearchAlgorithm, Searcher
from ray.tune.search.search_generator import SearchGenerator

from pipeline.config import RunConfig
from pipeline.sweep.ledger import TrialLedger, TrialRecord, id_of
from pipeline.sweep.proposals import Proposals
from pipeline.sweep.results import best_trial
from pipeline.sweep.trial import trial_checkpoint

logger = logging.getLogger(__name__)


class TrialSource(Searcher):  # type: ignore[misc]
    """The order in which trials start, and how many at once.

    Args:
        config: the sweep's settings.
        ledger: its trials.
        proposed_by: gives new trials their values.
        count: number of trials of the sweep.
        concurrent: number of trials at once.
    """

    def __init__(
        self,
        config: RunConfig,
        ledger: TrialLedger,
        proposed_by: Proposals,
        count: int,
        concurrent: int,
    ) -> None:
        super().__init__()
        self._config, self._ledger, self._proposed_by = config, ledger, proposed_by
        self._concurrent = concurrent
        self._waiting, self._new = ledger.unfinished(count)
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return what the next trial is called with; None while enough trials run.

        Args:
            trial_id: Ray Tune's own name of the trial, not that of the ledger.
        """
        if len(self._live) >= self._concurrent:
            return None
        if self._waiting:
            record = self._waiting.pop(0)
        elif self._new:
            record = self._start(self._new.pop(0))
        else:
            # A running trial that is lost may have to start again.
            return None if self._live else str(Searcher.FINISHED)
        self._live.add(trial_id)
        return {"trial": record.trial_id, "values": record.values, "weights": record.weights}

    def _start(self, number: int) -> TrialRecord:
        values = self._proposed_by.propose(number)
        return self._ledger.write(TrialRecord(id_of(number), values, weights=self._best_weights()))

    def _best_weights(self) -> str | None:
        """Return the checkpoint of the best finished trial, if trials start warm."""
        sweep = self._config.sweep
        if sweep.warm_start == "none":
            return None
        finished = [record for record in self._ledger.records() if record.status == "finished"]
        best = best_trial(finished, sweep)
        return None if best is None else trial_checkpoint(self._config, best.trial_id)

    def start_again(self, record: TrialRecord) -> None:
        """Let a trial whose process was lost continue when there is room."""
        self._waiting.append(record)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Make room for another trial."""
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the ledger is the state."""


class TrialStream(SearchAlgorithm):  # type: ignore[misc]
    """The trials of a source for Ray Tune, whose population based training takes no searcher."""

    def __init__(self, source: TrialSource) -> None:
        self._generator = SearchGenerator(source)

    def add_configurations(self, experiments: Any) -> None:
        """Take over what is to be run."""
        self._generator.add_configurations(experiments)

    @property
    def total_samples(self) -> int:
        """The largest number of trials."""
        return int(self._generator.total_samples)

    def next_trial(self) -> Trial | None:
        """Return the next trial; None while there is none to start."""
        return self._generator.next_trial()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take no note: the ledger is told by a callback."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Make room for another trial."""
        self._generator.on_trial_complete(trial_id, result, error)

    def is_finished(self) -> bool:
        """Return whether no trial is left to start."""
        return self._finished or bool(self._generator.is_finished())
