"""Register the best trial's model, as ``evaluate.py`` and ``register.py`` do for a training."""

from pipeline.config import RunConfig
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.registration import register_evaluated
from pipeline.sweep.ledger import TrialRecord
from pipeline.sweep.trial import trial_config


def register_trial(config: RunConfig, trial: TrialRecord) -> str:
    """Evaluate the checkpoint of a trial and register it.

    Returns:
        The version and why it became the champion, or not.
    """
    own = trial_config(config, trial.values, trial.trial_id, trial.weights)
    run_evaluation(own)
    version = register_evaluated(own)
    return f"models:/{version.name}/{version.version}: {version.reason}"
