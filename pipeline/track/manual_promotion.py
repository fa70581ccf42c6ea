"""Move the champion alias by hand: to a version, or back to the one before; both are recorded."""

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.config import RunConfig
from pipeline.track.mlflow_store import TrackingError, open_store
from pipeline.track.promotion_record import (
    CHAMPION,
    PREVIOUS,
    PROMOTED,
    PROMOTION_TAG,
    ROLLED_BACK,
    RegisteredVersion,
    decision_report,
    move_alias,
    signature,
    withdraw_candidate,
)


def promote_version(config: RunConfig, version: str) -> RegisteredVersion:
    """Make a version the champion, whatever its metrics; the champion so far becomes ``previous``.

    Args:
        config: the job's settings; ``track.because`` is the reason, which is required.
        version: number of the version.

    Raises:
        TrackingError: there is no reason, no such model, or no such version.
    """
    reason = config.track.because
    if not reason:
        raise TrackingError(
            "a promotion by hand needs a reason; add track.because='why it is better'"
        )
    return _move(
        open_store(config), config.track.model_name, version, f"promoted by hand: {reason}"
    )


def roll_back(config: RunConfig) -> RegisteredVersion:
    """Make the champion before the present one the champion again; a second call undoes it.

    The version that is left is not promoted again when it is registered again.

    Args:
        config: the job's settings; ``track.because`` is the reason, if any.

    Raises:
        TrackingError: there is no such model, or it had no champion before.
    """
    client, name = open_store(config), config.track.model_name
    aliases = _aliases(client, name)
    if PREVIOUS not in aliases:
        raise TrackingError(
            f"{name} has no alias {PREVIOUS}: there was no champion before the present one"
        )
    left = aliases.get(CHAMPION)
    reason = f"rolled back from version {left or '(none)'}"
    if config.track.because:
        reason += f": {config.track.because}"
    moved = _move(client, name, str(aliases[PREVIOUS]), reason)
    if left is not None and str(left) != moved.version:
        client.set_model_version_tag(name, str(left), PROMOTION_TAG, ROLLED_BACK)
    return moved


def _move(client: MlflowClient, name: str, version: str, reason: str) -> RegisteredVersion:
    """Move the alias, and keep who did it, when and why as tags of the version."""
    aliases = _aliases(client, name)
    champion = aliases.get(CHAMPION)
    try:
        client.get_model_version(name, version)
    except MlflowException as error:
        raise TrackingError(f"{name} has no version {version} ({error.message})") from error
    decided = signature()
    by = f"{decided['decided_by']}, {decided['decided_at']}"
    tags = {
        "promotion_reason": f"{reason} ({by})",
        "promotion_for": reason,
        "promotion_against": "",
    }
    client.update_model_version(name, version, decision_report(True, f"{reason} ({by})", (), ()))
    for key, value in {**tags, **decided, PROMOTION_TAG: PROMOTED}.items():
        client.set_model_version_tag(name, version, key, value)
    move_alias(client, name, CHAMPION, version)
    if champion is not None and str(champion) != version:
        move_alias(client, name, PREVIOUS, str(champion))
    withdraw_candidate(client, name, version)
    return RegisteredVersion(name, version, True, None, reason, version, (reason,))


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    try:
        return dict(client.get_registered_model(name).aliases)
    except MlflowException as error:
        raise TrackingError(
            f"there is no registered model {name} ({error.message}); check track.model_name and "
            "track.uri"
        ) from error
