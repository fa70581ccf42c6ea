"""Which stages of a chain take part: --from, --until and --only."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.config.settings import ConfigError
from pipeline.chain.stage import Stage


@dataclass(frozen=True)
class Selection:
    """The first and the last stage that take part; None for no limit.

    Earlier stages are not run or checked: their results are used as they are. Later ones are left
    alone.
    """

    first: str | None = None
    last: str | None = None

    def names(self, stages: Sequence[Stage]) -> tuple[str, ...]:
        """Return the names of the selected stages, in order.

        Raises:
            ConfigError: a name is no stage of this chain, or the last stage is before the first.
        """
        names = [stage.name for stage in stages]
        for flag, name in (("--from", self.first), ("--until", self.last)):
            if name is not None and name not in names:
                raise ConfigError(
                    [f"{flag} {name}: no stage of this chain; its stages are {', '.join(names)}"]
                )
        begin = 0 if self.first is None else names.index(self.first)
        end = len(names) if self.last is None else names.index(self.last) + 1
        if begin >= end:
            raise ConfigError([f"--until {self.last} is before --from {self.first}"])
        return tuple(names[begin:end])

    def __str__(self) -> str:
        first = f" from {self.first}" if self.first else ""
        last = f" until {self.last}" if self.last else ""
        return f"{first}{last}".strip() or "all stages"
