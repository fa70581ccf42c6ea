"""What a trial's values come to: batch, learning rate, steps and images after scaling."""

from dataclasses import dataclass

from pipeline.config import RunConfig
from pipeline.sweep.search_space import Values
from pipeline.sweep.trial import trial_config
from pipeline.train.schedule import scale_recipe
from pipeline.train.training_length import planned_steps


@dataclass(frozen=True)
class TrialFacts:
    """The size of a trial.

    Args:
        batch: images per step.
        lr: learning rate after the warm-up, scaled to the batch if ``train.recipe_batch`` is set.
        steps: of the whole training.
    """

    batch: int
    lr: float
    steps: int

    @property
    def images(self) -> int:
        """Images of the whole training."""
        return self.batch * self.steps


def trial_facts(config: RunConfig, values: Values) -> TrialFacts:
    """Return the size of a trial.

    Args:
        config: the sweep's settings.
        values: the trial's.

    Raises:
        FileNotFoundError: the schedule is in epochs, and there are no training shards.
    """
    own = trial_config(config, values, "0000")
    train = scale_recipe(own.train)
    return TrialFacts(train.global_batch, train.optimizer.lr, planned_steps(own))
