"""What a sweep would run, and what that would cost, without running anything."""

from collections.abc import Sequence
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
    seconds_per_image = _seconds_per_image(list(records.values()), facts)
    lines = [_table(config, values, facts, records, seconds_per_image)] if values else []
    if config.sweep.searcher == "optuna":
        lines += [_describe_space(config, count - len(records))]
    return "\n".join([*lines, _cost(config, facts, records, count, seconds_per_image)])


def _facts(config: RunConfig, values: Values) -> TrialFacts:
    try:
        return trial_facts(config, values)
    except FileNotFoundError:
        raise storage.MissingFileError(
            "the schedule is in epochs, so the number of steps depends on the training shards, and "
            f"there are none at {split_shards_url(config, 'train')}; run maskrcnn-ray "
            "prepare_shards first"
        ) from None


def _seconds_per_image(
    records: Sequence[TrialRecord], facts: dict[int, TrialFacts]
) -> float | None:
    """Return what the finished trials took per image, starts and validations included."""
    measured = [
        record.seconds / facts[record.number].images
        for record in records
        if record.status == "finished" and record.seconds > 0
    ]
    return median(measured) if measured else None


def _table(
    config: RunConfig,
    values: dict[int, Values],
    facts: dict[int, TrialFacts],
    records: dict[int, TrialRecord],
    seconds_per_image: float | None,
) -> str:
    names = short_names(list(config.sweep.space))
    rows = [["trial", "state", "batch", "scaled lr", "steps", "images", "time", *names.values()]]
    for number, each in sorted(values.items()):
        record, size = records.get(number), facts[number]
        time = "-"
        if record is not None and record.is_settled:
            time = format_duration(record.seconds)
        elif seconds_per_image is not None:
            time = f"~{format_duration(size.images * seconds_per_image)}"
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
    seconds_per_image: float | None,
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
    if seconds_per_image is None:
        return f"{head}. No trial has finished yet, so their time is not known"
    total = format_duration(images * seconds_per_image)
    rate = f"{seconds_per_image * 1000:.3g} ms per image"
    return (
        f"{head}, about {total} one after the other ({rate} in the finished trials, with their "
        "starts and validations)"
    )
