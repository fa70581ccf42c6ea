"""What became of the tensors of a weights file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

# Parts that come or stay away as a whole, first match first: deforming convolutions begin as plain
# ones, and res5 belongs to the backbone wherever it stands.
_PARTS = (
    ("deformable offsets", r"backbone\..*\.conv2_offset\..*"),
    ("backbone", r"(backbone|roi_heads\.box\.res5)\..*"),
    ("pyramid", r"fpn\..*"),
    ("proposal network", r"rpn\..*"),
    ("box head", r"roi_heads\.box\..*"),
    ("mask head", r"roi_heads\.mask\..*"),
    ("keypoint head", r"roi_heads\.keypoint\..*"),
    ("RetinaNet head", r"retinanet\..*"),
)


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
        dropped: tensors of the file, under our names, that the detector has no place for.
        unneeded: names in the file of what no detector needs, with the reason.
        original_names: our name to the file's, where they differ.
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
        if renamed := sum(name in self.original_names for name in self.loaded):
            parts.append(f"renamed: {renamed}")
        for what, names in (
            ("left at initialisation", self.initialised),
            ("other shape, left at initialisation", self.mismatched),
            ("classes found by name", self.kept_classes),
            ("classes left at initialisation", self.fresh_classes),
            ("not used", tuple(map(self._original, self.dropped))),
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
        lines += [self._line("not used", self._original(name)) for name in self.dropped]
        lines += [self._line("not needed", name, why) for name, why in self.unneeded.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def unexplained(
        self,
        allow_missing: Sequence[str] = (),
        allow_unused: Sequence[str] = (),
        parts_may_differ: bool = False,
    ) -> list[str]:
        """What nothing explains, a line for each tensor.

        Args:
            allow_missing: patterns (``fpn.*``) of names that may stay at initialisation.
            allow_unused: patterns of names in the file that may stay unused.
            parts_may_differ: a whole part (backbone, pyramid, a head) may be in the detector alone
                or in the file alone, and layers of other classes may stay at initialisation: the
                start of a training.
        """
        missing, unused = [*self.initialised, *self.mismatched], list(self.dropped)
        if parts_may_differ:
            shared = {*self.loaded, *map(_name, self.mismatched)}
            missing = _of_shared_parts(self.initialised, shared)
            unused = _of_shared_parts(self.dropped, shared.union(self.initialised))
        unused = [self._original(name) for name in unused]
        return [
            *(f"{name} is not filled" for name in missing if not _allowed(name, allow_missing)),
            *(f"{name} is not used" for name in unused if not _allowed(name, allow_unused)),
        ]

    def _original(self, name: str) -> str:
        return self.original_names.get(name, name)

    def _line(self, fate: str, name: str, remark: str = "") -> str:
        shape = str(self.shapes.get(name, ""))
        return f"{fate:<23} {name:<45} {shape:<20} {remark}".rstrip()


def _allowed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(_name(name), pattern) for pattern in patterns)


def _name(described: str) -> str:
    """The name in "name (ours) <- (file's)"."""
    return described.split(" ")[0]


def _part(name: str) -> str | None:
    return next((part for part, pattern in _PARTS if re.fullmatch(pattern, name)), None)


def _of_shared_parts(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The names of parts of which ``others`` have something too, and those of no known part."""
    known = {None, *map(_part, others)}
    return [name for name in names if _part(name) in known]
