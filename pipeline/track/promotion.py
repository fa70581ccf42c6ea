"""Promote a version to champion if the rules allow it and it has the best metric.

Several jobs may promote at the same moment, on one registry that has no transactions. Each first
compares its version with the champion, then marks it as pending, and after each change of the alias
reads again, until the alias is at the best version that it sees. Whoever changes it last therefore
sees every version that was marked before, and a version that is marked later is compared by its own
job. A job that dies leaves its version pending: the next job compares it as well.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipeline.track.mlflow_store import TrackingError
from pipeline.track.promotion_record import (
    CANDIDATE,
    CHAMPION,
    METRIC_TAG,
    PENDING,
    PREVIOUS,
    PROMOTED,
    PROMOTION_TAG,
    ROLLED_BACK,
    RegisteredVersion,
    move_alias,
    record_decision,
    withdraw_candidate,
)
from pipeline.track.promotion_rules import Finding, is_measured, judge_metric, judge_minimum

# Each round is caused by another job's promotion in the same moment.
_MAX_ROUNDS = 100


@dataclass(frozen=True)
class Rule:
    """What decides a promotion.

    Args:
        metric: name of the metric that decides; higher is better.
        minimum: its lowest value of a champion; None for any.
        margin: how much more than the champion's it must be.
    """

    metric: str
    minimum: float | None = None
    margin: float = 0.0


Compare = Callable[[ModelVersion], Sequence[Finding]]
"""Compares the version with a champion by further rules. Before that it measures the champion on
the version's data, if it was not measured there, and records that with `tag_measurement`."""


def promote(
    client: MlflowClient,
    name: str,
    version: ModelVersion,
    rule: Rule,
    compare: Compare | None = None,
) -> RegisteredVersion:
    """Move the champion alias to ``version`` if it beats the champion on the same dataset.

    Args:
        client: client of the registry.
        name: name of the registered model.
        version: has ``dataset_digest`` and its metrics as tags.
        rule: what decides.
        compare: further rules; None for none.

    Raises:
        TrackingError: other jobs kept moving the alias.
    """
    number = str(version.version)
    before = _champion(client, name)
    if version.tags.get(PROMOTION_TAG) == ROLLED_BACK:
        # A chain that registers the same version again must not undo what someone decided.
        reason = "it was rolled back; maskrcnn-ray register --promote makes it the champion again"
        return RegisteredVersion(name, number, False, None, reason, _number(before), (), (reason,))
    promotion = _Promotion(client, name, version, rule, compare)
    findings = promotion.judge_alone()
    if objection := _objection(findings):
        return promotion.conclude(before, before, False, objection, findings)
    before, compared = promotion.judge_against(before)
    findings += compared
    if objection := _objection(findings):
        move_alias(client, name, CANDIDATE, number)
        return promotion.conclude(before, before, False, objection, findings)
    client.set_model_version_tag(name, number, PROMOTION_TAG, PENDING)
    best = promotion.settle(before)
    is_best = str(best.version) == number
    if not is_best:
        move_alias(client, name, CANDIDATE, number)
    elif before is not None and str(before.version) != number:
        move_alias(client, name, PREVIOUS, str(before.version))
    opponent = before if is_best else best
    final = findings if is_best else [*findings, promotion.judge_metric(best)]
    return promotion.conclude(best, opponent, is_best, promotion.reason(opponent), final)


def tag_measurement(
    client: MlflowClient, name: str, version: str, dataset: str, metric: str, value: float
) -> None:
    """Record a metric of a version on another dataset than the one it was registered with.

    Args:
        client: client of the registry.
        name: name of the registered model.
        version: number of the version.
        dataset: digest of the dataset.
        metric: name of the metric.
        value: its value.
    """
    client.set_model_version_tag(name, version, _measurement_tag(dataset, metric), repr(value))


def measured_value(version: ModelVersion, dataset: str, metric: str) -> float:
    """Return a metric of a version on a dataset; -1 if it was not measured there."""
    if version.tags.get("dataset_digest") == dataset:
        return float(version.tags.get(METRIC_TAG + metric, -1))
    return float(version.tags.get(_measurement_tag(dataset, metric), -1))


def _measurement_tag(dataset: str, metric: str) -> str:
    return f"measured/{dataset[:16]}/{metric}"


@dataclass(frozen=True)
class _Promotion:
    """One job's attempt to promote a version."""

    client: MlflowClient
    name: str
    version: ModelVersion
    rule: Rule
    compare: Compare | None

    def judge_alone(self) -> list[Finding]:
        """Judge the version without looking at the champion."""
        metric, minimum = self.rule.metric, self.rule.minimum
        value = self._value(self.version)
        if not is_measured(value):
            return [Finding(False, f"{metric} could not be measured")]
        return [] if minimum is None else [judge_minimum(metric, value, minimum)]

    def judge_against(
        self, champion: ModelVersion | None
    ) -> tuple[ModelVersion | None, list[Finding]]:
        """Compare the version with a champion; return it as it is now, and the findings."""
        if champion is None:
            return None, [Finding(True, "there was no champion")]
        if self._is_own(champion):
            return champion, [Finding(True, "it is already the champion")]
        further = [] if self.compare is None else list(self.compare(champion))
        # Measuring the champion on this data adds a tag to it.
        champion = self.client.get_model_version(self.name, str(champion.version))
        return champion, [self.judge_metric(champion), *further]

    def judge_metric(self, champion: ModelVersion) -> Finding:
        """Compare the metric that decides."""
        value, other = self._value(self.version), self._value(champion)
        rule = self.rule
        if not is_measured(other):
            text = (
                f"champion {champion.version} was not measured on this dataset; evaluate it on "
                "this one, or move the alias manually"
            )
            return Finding(False, text)
        return judge_metric(rule.metric, value, str(champion.version), other, rule.margin)

    def settle(self, before: ModelVersion | None) -> ModelVersion:
        """Move the alias to the best version until it stays there; return that version."""
        earlier = {str(each.version) for each in self._marked(PROMOTED)}
        present, known = before, [before] if before else []
        for _ in range(_MAX_ROUNDS):
            if present is not None and not is_measured(self._value(present)):
                # Another job has just promoted a version that was measured on other data.
                present, findings = self.judge_against(present)
                if present is not None and not all(each.speaks_for for each in findings):
                    return present
            # In this order: a version that is promoted between the two requests is in the second.
            pending, promoted = self._marked(PENDING), self._marked(PROMOTED)
            new = [each for each in promoted if str(each.version) not in earlier]
            rivals = [self._measured_here(each) for each in (*pending, *new)]
            best = self._best([*known, self.version, *rivals])
            if present is not None and best.version == present.version:
                return best
            move_alias(self.client, self.name, CHAMPION, str(best.version))
            present = _champion(self.client, self.name)
        raise TrackingError(
            f"{self.name}: other jobs moved the alias {CHAMPION} {_MAX_ROUNDS} times; register "
            "again"
        )

    def reason(self, opponent: ModelVersion | None) -> str:
        """Return in one sentence how the version compares with the champion before, or now."""
        if opponent is None:
            return "there was no champion"
        if self._is_own(opponent):
            return "it is already the champion"
        return self.judge_metric(opponent).text

    def conclude(
        self,
        champion: ModelVersion | None,
        opponent: ModelVersion | None,
        promoted: bool,
        reason: str,
        findings: Sequence[Finding],
    ) -> RegisteredVersion:
        """Record the decision.

        Args:
            champion: the champion now.
            opponent: the version it was compared with.
            promoted: whether it is the champion.
            reason: in one sentence.
            findings: everything for and against it.
        """
        number = str(self.version.version)
        if promoted:
            withdraw_candidate(self.client, self.name, number)
        other = -1.0 if opponent is None or self._is_own(opponent) else self._value(opponent)
        decision = RegisteredVersion(
            self.name,
            number,
            promoted,
            other if is_measured(other) else None,
            reason,
            _number(champion),
        )
        return record_decision(self.client, decision, findings)

    def _value(self, version: ModelVersion) -> float:
        return measured_value(version, self.version.tags["dataset_digest"], self.rule.metric)

    def _measured_here(self, rival: ModelVersion) -> ModelVersion:
        """Measure the version of another job on this job's data, if it was not measured there."""
        if self.compare is None or is_measured(self._value(rival)):
            return rival
        self.compare(rival)
        return self.client.get_model_version(self.name, str(rival.version))

    def _is_own(self, version: ModelVersion) -> bool:
        return str(version.version) == str(self.version.version)

    def _best(self, versions: Iterable[ModelVersion]) -> ModelVersion:
        """Return the best version measured on this dataset, the oldest of equal ones."""
        measured = [each for each in versions if is_measured(self._value(each))]
        return max(sorted(measured, key=lambda each: int(each.version)), key=self._value)

    def _marked(self, state: str) -> list[ModelVersion]:
        """Return the versions in a state of promotion."""
        query = f"name='{self.name}' and tags.`{PROMOTION_TAG}`='{state}'"
        return list(self.client.search_model_versions(query))


def _objection(findings: Iterable[Finding]) -> str | None:
    return next((each.text for each in findings if not each.speaks_for), None)


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    # Looked up in the model itself, so that nothing but a missing alias means "no champion".
    alias = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if alias is None else client.get_model_version(name, alias)


def _number(version: ModelVersion | None) -> str | None:
    return None if version is None else str(version.version)
