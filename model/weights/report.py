"""What became of the tensors of a weights file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


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
        unneeded: names in the file of what no detector needs, with the reason.
        original_names: loaded name to the file's, where they differ.
        kept_classes: classes whose rows were found by name, where the file has other classes.
        fresh_classes: classes left at initialisation, because the file does not know them.
        notes: what was converted, guessed, or is not honoured yet.
        shapes: of all of them, by name.
        ecosystem: who wrote the file.
    """

    loaded: tuple[str, ...]
    initialised: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    unneeded: Mapping[str, str] = field(default_factory=dict)
    original_names: Mapping[str, str] = field(default_factory=dict)
    kept_classes: tuple[str, ...] = ()
    fresh_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ecosystem: str = ""

    def __str__(self) -> str:
        origin = f" of {self.ecosystem}" if self.ecosystem else ""
        parts = [f"loaded {len(self.loaded)} tensors{origin}"]
        if self.original_names:
            parts.append(f"renamed: {len(self.original_names)}")
        for what, names in (
            ("left at initialisation", self.initialised),
            ("other shape, left at initialisation", self.mismatched),
            ("classes found by name", self.kept_classes),
            ("classes left at initialisation", self.fresh_classes),
            ("not used", self.dropped),
            ("not needed", tuple(self.unneeded)),
        ):
            if names:
                shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
                parts.append(f"{what}: {len(names)} ({shown})")
        return "; ".join([*parts, *self.notes])

    def table(self) -> str:
        """Every tensor in a line: what became of it, its name, its shape, its former name."""
        lines = [
            self._line("loaded", name, self.original_names.get(name, "")) for name in self.loaded
        ]
        lines += [self._line("left at initialisation", name) for name in self.initialised]
        lines += [f"other shape             {described}" for described in self.mismatched]
        lines += [self._line("not used", name) for name in self.dropped]
        lines += [self._line("not needed", name, why) for name, why in self.unneeded.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def unexplained(self, allow_missing: Sequence[str], allow_unused: Sequence[str]) -> list[str]:
        """What a complete conversion must not leave open.

        Args:
            allow_missing: patterns (``fpn.*``) of names that may stay at initialisation.
            allow_unused: patterns of names in the file that may stay unused.
        """
        missing = [*self.initialised, *self.mismatched]
        return [
            *(f"{name} is not filled" for name in missing if not _allowed(name, allow_missing)),
            *(f"{name} is not used" for name in self.dropped if not _allowed(name, allow_unused)),
        ]

    def _line(self, fate: str, name: str, remark: str = "") -> str:
        shape = str(self.shapes.get(name, ""))
        return f"{fate:<23} {name:<45} {shape:<20} {remark}".rstrip()


def _allowed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name.split(" ")[0], pattern) for pattern in patterns)
