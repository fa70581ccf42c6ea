"""What became of the tensors of a weights file."""

from dataclasses import dataclass


class WeightsError(ValueError):
    """A weights file that cannot be read or does not fit; the message says which and why."""


@dataclass(frozen=True)
class LoadReport:
    """Which tensors were loaded, and which were not.

    Args:
        loaded: names in the detector that took the file's value.
        initialised: names in the detector that the file does not fill.
        mismatched: names in the detector whose shape differs, as "name (ours) <- (file's)"; they
            are left at initialisation too.
        dropped: names in the file that the detector has no place for.
    """

    loaded: tuple[str, ...]
    initialised: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"loaded {len(self.loaded)} tensors"]
        for what, names in (
            ("left at initialisation", self.initialised),
            ("other shape, left at initialisation", self.mismatched),
            ("not used", self.dropped),
        ):
            if names:
                shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
                parts.append(f"{what}: {len(names)} ({shown})")
        return "; ".join(parts)
