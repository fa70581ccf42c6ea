"""What a sweep would run, and what that would cost, without running anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pipeline import storage
from pipeline.config import RunConfig, SearchDimension
from pipeline.output_layout import split_shards_url
from pipeline.rates import format_duration
from pipeline.sweep.facts import TrialFacts, trial_facts
from pipeline.sweep.ledger import TrialLedger, TrialRecord, id_of
from pipeline.sweep.proposals import OptunaProposals, proposals, trial_count
from pipeline.sweep.search_space import Values, format_value, short_names
from pipeline.sweep.sweep_check import check_sweep
from pipeline.sweep.trial_table import as_text
from pipeline.train.run_record import model_settings, read_run_record


def describe_sweep(config: RunConfig) -> str:
    """Return the trials of a sweep with their batch, rate, steps, images and estimated time.

    Trials that are in the output folder already have their state. Those that Optuna will propose
    are not known yet; the space is shown instead.

    Raises:
        ConfigError: the sweep is wrong.
        MissingFileError: the schedule is in epochs, and there are no training shards.
    """
    check_sweep(config)
    ledger = TrialLedger(config)
    records = {record.number: record for record in ledger.records()}
    count = trial_count(config)
    values = {number: record.values for number, record in records.items()}
    if config.sweep.searcher != "optuna":
        proposed_by = proposals(config, ())
        for number in range(count):
            values.setdefault(number, proposed_by.propose(number))
    facts = {number: _facts(config, each) for number, each in values.items()}
    pace = _measured_pace(config, list(records.values()), facts)
    lines = [_table(config, values, facts, records, pace)] if values else []
    if config.sweep.searcher == "optuna":
        lines += [_describe_space(config, count - len(records))]
    return "\n".join([*lines, _cost(config, facts, records, count, pace)])


def _facts(config: RunConfig, values: Values) -> TrialFacts:
    try:
        return trial_facts(config, values)
    except FileNotFoundError:
        raise storage.MissingFileError(
            "the schedule is in epochs, so the number of steps depends on the training shards, and "
            f"there are none at {split_shards_url(config, 'train')}; run maskrcnn-ray "
            "prepare_shards first"
        ) from None


@dataclass(frozen=True)
class _Pace:
    """What an image takes.

    Args:
        seconds: per image.
        measured: where that was measured.
    """

    seconds: float
    measured: str


def _measured_pace(
    config: RunConfig, records: Sequence[TrialRecord], facts: dict[int, TrialFacts]
) -> _Pace | None:
    """Return what an image takes, from the best measurement in the output; None without any."""
    finished = [
        record.seconds / facts[record.number].images
        for record in records
        if record.status == "finished" and record.seconds > 0
    ]
    if finished:
        return _Pace(median(finished), "in the finished trials, with their starts and validations")
    begun = [
        record.seconds / (record.steps * facts[record.number].batch)
        for record in records
        if record.steps > 0 and record.seconds > 0
    ]
    if begun:
        return _Pace(median(begun), "in the trials so far, of which none has finished")
    training = read_run_record(config.output)
    if training is None or training.result is None or training.model != model_settings(config):
        return None
    images_per_s = float(training.result["metrics"].get("train/images_per_s", 0.0))
    if images_per_s <= 0:
        return None
    text = "in the training of this output, without starts and validations"
    return _Pace(1 / images_per_s, text)


def _table(
    config: RunConfig,
    values: dict[int, Values],
    facts: dict[int, TrialFacts],
    records: dict[int, TrialRecord],
    pace: _Pace | None,
) -> str:
    names = short_names(list(config.sweep.space))
    rows = [["trial", "state", "batch", "scaled lr", "steps", "images", "time", *names.values()]]
    for number, each in sorted(values.items()):
        record, size = records.get(number), facts[number]
        time = "-"
        if record is not None and record.is_settled:
            time = format_duration(record.seconds)
        elif pace is not None:
            time = f"~{format_duration(size.images * pace.seconds)}"
        rows.append(
            [
                id_of(number),
                "to run" if record is None else record.status,
                str(size.batch),
                f"{size.lr:.4g}",
                str(size.steps),
                str(size.images),
                time,
                *(format_value(each[key]) if key in each else "-" for key in names),
            ]
        )
    return as_text(rows)


def _describe_space(config: RunConfig, remaining: int) -> str:
    rows = [
        [f"  {key}", _describe(dimension), _condition(dimension)]
        for key, dimension in config.sweep.space.items()
    ]
    return (
        f"{max(remaining, 0)} trials to be proposed by Optuna, each when it starts "
        f"(the first {OptunaProposals.STARTUP_TRIALS} at random), from\n{as_text(rows)}"
    )


def _describe(dimension: SearchDimension) -> str:
    if dimension.is_list:
        return f"{dimension.kind} {', '.join(map(format_value, dimension.values))}"
    low, high = map(format_value, dimension.bounds)
    step = "" if dimension.q is None else f" in steps of {format_value(dimension.q)}"
    return f"{dimension.kind} {low} to {high}{step}"


def _condition(dimension: SearchDimension) -> str:
    conditions = (f"{key} is {format_value(value)}" for key, value in dimension.when.items())
    return f"if {' and '.join(conditions)}" if dimension.when else ""


def _cost(
    config: RunConfig,
    facts: dict[int, TrialFacts],
    records: dict[int, TrialRecord],
    count: int,
    pace: _Pace | None,
) -> str:
    settled = sum(record.is_settled for record in records.values())
    left = [n for n in range(count) if n not in records or not records[n].is_settled]
    head = f"{settled} trials are done, {len(left)} are left"
    if not left:
        return head
    # Those that Optuna will propose are taken to be as large as the configuration says.
    unknown = 0 if all(n in facts for n in left) else _facts(config, {}).images
    images = sum(facts[number].images if number in facts else unknown for number in left)
    head += f": at most {images} images, if none is stopped early"
    if pace is None:
        return (
            f"{head}. No trial has begun yet, so their time is not known; it is estimated after "
            "the first validation of the first trial, or from a training with the same output"
        )
    total = format_duration(images * pace.seconds)
    rate = f"{pace.seconds * 1000:.3g} ms per image"
    return f"{head}, about {total} one after the other ({rate} {pace.measured})"
