"""What happened to each tensor when weights were loaded."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

Shape = tuple[int, ...]

# Parts that a file has completely or not at all; the first match counts. Deformable offsets are a
# part because they start at zero on a plain backbone, and res5 belongs to the backbone even where
# it is a box head.
_PARTS = (
    ("deformable offsets", r"(backbone|roi_heads\.box\.res5)\..*\.conv2_offset\..*"),
    ("backbone", r"(backbone|roi_heads\.box\.res5)\..*"),
    ("pyramid", r"fpn\..*"),
    ("proposal network", r"rpn\..*"),
    ("box head", r"roi_heads\.box\..*"),
    ("mask head", r"roi_heads\.mask\..*"),
    ("keypoint head", r"roi_heads\.keypoint\..*"),
    ("RetinaNet head", r"retinanet\..*"),
)


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the message says which file, and why."""


@dataclass(frozen=True)
class LoadReport:
    """Which tensors were loaded, and which were not. Names are ours unless stated otherwise.

    Args:
        loaded: tensors of the detector that got the file's values.
        missing_keys: tensors of the detector that the file does not have; left at initialization.
        mismatched_keys: tensors of the detector that have another shape in the file, with that
            shape; left at initialization.
        unexpected_keys: tensors of the file that the detector does not have.
        ignored: tensors of the file, under its names, that no detector needs, with the reason.
        original_names: our name to the file's, where they differ.
        kept_classes: classes whose rows were matched by name, where the file has other classes.
        new_classes: classes that the file does not have; left at initialization.
        notes: what was converted, assumed or is approximated.
        shapes: shape of every tensor that is not ignored; the detector's if both have the tensor.
        ecosystem: the library that wrote the file.
    """

    loaded: tuple[str, ...]
    missing_keys: tuple[str, ...] = ()
    mismatched_keys: Mapping[str, Shape] = field(default_factory=dict)
    unexpected_keys: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    original_names: Mapping[str, str] = field(default_factory=dict)
    kept_classes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    ecosystem: str = ""

    def __str__(self) -> str:
        origin = f" ({self.ecosystem} format)" if self.ecosystem else ""
        parts = [f"loaded {len(self.loaded)} tensors{origin}"]
        if renamed := sum(name in self.original_names for name in self.loaded):
            parts.append(f"renamed: {renamed}")
        for what, names in (
            ("missing from the file, left at initialization", self.missing_keys),
            ("shape mismatch, left at initialization", tuple(self.mismatched_keys)),
            ("classes matched by name", self.kept_classes),
            ("new classes, left at initialization", self.new_classes),
            ("unused", tuple(map(self._original, self.unexpected_keys))),
            ("ignored", tuple(self.ignored)),
        ):
            if names:
                shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
                parts.append(f"{what}: {len(names)} ({shown})")
        return "; ".join([*parts, *self.notes])

    def table(self) -> str:
        """Format a table with one line per tensor, and the notes below it."""
        shapes = self.shapes
        rows = [("status", "tensor", "shape", "in the file")]
        for name in self.loaded:
            rows.append(("loaded", name, str(shapes[name]), self.original_names.get(name, "")))
        rows += [("missing", name, str(shapes[name]), "") for name in self.missing_keys]
        for name, shape in self.mismatched_keys.items():
            rows.append(("mismatched", name, str(shapes[name]), f"shape {shape}"))
        for name in self.unexpected_keys:
            rows.append(("unused", self._original(name), str(shapes[name]), ""))
        rows += [("ignored", name, "", reason) for name, reason in self.ignored.items()]
        lines = [f"{a:<10}  {b:<45} {c:<20} {d}".rstrip() for a, b, c, d in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def problems(
        self,
        allow_missing: Sequence[str] = (),
        allow_unused: Sequence[str] = (),
        parts_may_differ: bool = False,
    ) -> list[str]:
        """List the tensors that do not match and are not allowed to, one line each.

        Args:
            allow_missing: patterns (``fpn.*``) of the detector's tensors that may stay at
                initialization.
            allow_unused: patterns of the file's tensors that may stay unused.
            parts_may_differ: allow a whole part (backbone, pyramid, a head) that only the detector
                or only the file has, and class layers of another shape, as at the start of a
                training.
        """
        missing, unused = self.missing_keys, self.unexpected_keys
        mismatched: Iterable[str] = self.mismatched_keys
        if parts_may_differ:
            shared = {*self.loaded, *self.mismatched_keys}
            unused = _of_shared_parts(unused, shared.union(missing))
            missing, mismatched = _of_shared_parts(missing, shared), ()
        unused = tuple(map(self._original, unused))
        return [
            *(f"{n} is missing from the file" for n in missing if not _fits(n, allow_missing)),
            *(self._mismatch(name) for name in mismatched if not _fits(name, allow_missing)),
            *(f"{n} is not used by the detector" for n in unused if not _fits(n, allow_unused)),
        ]

    def _mismatch(self, name: str) -> str:
        return format_mismatch(name, self.shapes[name], self.mismatched_keys[name])

    def _original(self, name: str) -> str:
        return self.original_names.get(name, name)


def format_mismatch(name: str, in_detector: Shape, in_file: Shape) -> str:
    """Describe a tensor that has another shape in the file than in the detector."""
    return f"{name} is {in_detector} in the detector, {in_file} in the file"


def shorten(lines: Sequence[str]) -> str:
    """Join the first lines, and say how many more there are."""
    return "; ".join(lines[:8]) + (f" and {len(lines) - 8} more" if len(lines) > 8 else "")


def _fits(name: str, patterns: Sequence[str] | str) -> bool:
    # A string is one pattern. Its characters would be many, and "*" would allow everything.
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _part(name: str) -> str | None:
    return next((part for part, pattern in _PARTS if re.fullmatch(pattern, name)), None)


def _of_shared_parts(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return the names whose part also occurs among ``others``, and those of no known part."""
    shared = {None, *map(_part, others)}
    return tuple(name for name in names if _part(name) in shared)
