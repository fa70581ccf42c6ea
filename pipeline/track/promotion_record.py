"""What a decision about a version leaves in the registry: tags, a short report, aliases."""

import getpass
import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.config import RunConfig
from pipeline.track.promotion_rules import Finding

logger = logging.getLogger(__name__)

CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"
METRIC_TAG = "metric/"
PROMOTION_TAG = "promotion"
PENDING, PROMOTED, REFUSED = "pending", "promoted", "refused"
ROLLED_BACK = "rolled back"

_MAX_TAG = 4000  # characters, below MLflow's limit


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry.

    Args:
        name: name of the registered model.
        version: MLflow's number of the version.
        promoted: whether it is the champion now.
        champion_metric_value: metric of the champion that it was compared with; None if it was not
            compared.
        reason: why it was or was not promoted, in one sentence.
        champion: number of the version that is the champion now; None if there is none.
        reasons_for: what speaks for the version.
        reasons_against: what speaks against it.
    """

    name: str
    version: str
    promoted: bool
    champion_metric_value: float | None
    reason: str
    champion: str | None = None
    reasons_for: tuple[str, ...] = ()
    reasons_against: tuple[str, ...] = ()


class NotPromotedError(RuntimeError):
    """The registered version is not the champion, and ``track.promotion.must_promote`` is set."""


def check_promoted(config: RunConfig, decision: RegisteredVersion) -> None:
    """Raise if a version is not the champion although the settings demand it.

    Raises:
        NotPromotedError: with the reason.
    """
    if config.track.promotion.must_promote and not decision.promoted:
        raise NotPromotedError(
            f"models:/{decision.name}/{decision.version} is not promoted: {decision.reason}"
        )


def record_decision(
    client: MlflowClient, decision: RegisteredVersion, findings: Sequence[Finding]
) -> RegisteredVersion:
    """Write a decision and its reasons as tags and description of the version.

    Returns:
        The decision, with its reasons.
    """
    name, number = decision.name, decision.version
    reasons_for = tuple(each.text for each in findings if each.speaks_for)
    against = tuple(each.text for each in findings if not each.speaks_for)
    tags = {
        "promotion_reason": decision.reason,
        "promotion_for": "; ".join(reasons_for),
        "promotion_against": "; ".join(against),
        **signature(),
        # Last: it says that the decision has been made.
        PROMOTION_TAG: PROMOTED if decision.promoted else REFUSED,
    }
    report = decision_report(decision.promoted, decision.reason, reasons_for, against)
    client.update_model_version(name, number, report)
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value[:_MAX_TAG])
    outcome = "is the champion" if decision.promoted else "is registered but not promoted"
    logger.info("%s version %s %s: %s", name, number, outcome, decision.reason)
    return RegisteredVersion(
        name,
        number,
        decision.promoted,
        decision.champion_metric_value,
        decision.reason,
        decision.champion,
        reasons_for,
        against,
    )


def signature() -> dict[str, str]:
    """Return the tags that say who decided and when."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        user = f"user {os.getuid()}"
    return {
        "decided_by": f"{user} on {socket.gethostname()}",
        "decided_at": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def decision_report(
    promoted: bool, reason: str, reasons_for: Sequence[str], against: Sequence[str]
) -> str:
    """Return a decision as Markdown, which MLflow's page of the version shows."""
    lines = [f"**{'Promoted' if promoted else 'Not promoted'}**: {reason}"]
    for title, reasons in (("For", reasons_for), ("Against", against)):
        if reasons:
            lines += ["", f"{title}:", "", *(f"- {each}" for each in reasons)]
    return "\n".join(lines)


def move_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Point an alias at a version, also if another job creates the alias at the same moment.

    MLflow inserts a new alias without a lock, so the second of two jobs gets an error of the
    database; the alias exists then, and another try moves it.
    """
    for is_last in (False, False, True):
        try:
            client.set_registered_model_alias(name, alias, version)
            return
        except MlflowException:
            if is_last:
                raise
            time.sleep(0.1)


def withdraw_candidate(client: MlflowClient, name: str, champion: str) -> None:
    """Remove the candidate alias, unless the candidate is newer than a version just promoted.

    A member of a team may move aliases, but not remove them: then it stays until the next refusal.
    """
    candidate = client.get_registered_model(name).aliases.get(CANDIDATE)
    if candidate is None or int(candidate) > int(champion):
        return
    try:
        client.delete_registered_model_alias(name, CANDIDATE)
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
