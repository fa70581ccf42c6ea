"""One key of a search space: its distribution, and when it applies."""

import json
import math
from typing import Any, Literal

from pydantic import Field, model_validator

from model.config.settings import PositiveFloat, Settings

_INTEGERS = ("int", "log_int")
_LOGARITHMIC = ("log_uniform", "log_int")
# More values than this are no grid that anybody wants to train.
_MAX_OPTIONS = 10_000


class SearchDimension(Settings):
    """One key of the search space."""

    kind: Literal["choice", "grid", "uniform", "log_uniform", "int", "log_int"] = Field(
        description="Distribution of the values. choice: one of values; grid: likewise, but all "
        "equally often; uniform, int: between low and high; log_uniform, log_int: likewise, each "
        "order of magnitude equally often."
    )
    values: tuple[Any, ...] = Field(
        (),
        description="The values of a choice or grid. A mapping sets the keys it names below this "
        "one, and leaves the others.",
    )
    low: float | None = Field(None, description="Lower bound, inclusive.")
    high: float | None = Field(None, description="Upper bound, inclusive.")
    q: PositiveFloat | None = Field(
        None, description="Step of the values, which are multiples of q from low to high."
    )
    when: dict[str, Any] = Field(
        default_factory=dict,
        description="Condition: other keys of the space with the value, or the list of values, "
        "for which this key is searched; for others the configuration's own value is kept.",
    )

    @property
    def is_list(self) -> bool:
        """Whether the values are listed one by one."""
        return self.kind in ("choice", "grid")

    @property
    def is_integer(self) -> bool:
        """Whether all values are integers."""
        return self.kind in _INTEGERS

    @property
    def is_logarithmic(self) -> bool:
        """Whether values are sampled by order of magnitude."""
        return self.kind in _LOGARITHMIC

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper bound of a dimension without listed values."""
        if self.low is None or self.high is None:
            raise ValueError(f"{self.kind} has no bounds")
        return self.low, self.high

    @property
    def step(self) -> float | None:
        """The distance of neighboring values; None if any value between the bounds is possible."""
        if self.kind == "int":
            return self.q or 1.0
        return self.q

    def options(self) -> tuple[Any, ...] | None:
        """Return all values in order; None if there are infinitely or very many."""
        if self.is_list:
            return self.values
        if self.step is None:
            return None
        low, high = self.bounds
        count = math.floor((high - low) / self.step + 1e-9) + 1
        if count > _MAX_OPTIONS:
            return None
        return tuple(self.number(low + index * self.step) for index in range(count))

    def number(self, value: float) -> float | int:
        """Return the nearest value of this dimension, an ``int`` if it is one of integers."""
        low, high = self.bounds
        if self.step is not None:
            # Ten digits: 0.1 + 2 * 0.1 is 0.30000000000000004.
            steps = math.floor((high - low) / self.step + 1e-9)
            value = low + min(max(round((value - low) / self.step), 0), steps) * self.step
            value = float(f"{value:.10g}")
        value = min(max(value, low), high)
        return round(value) if self.is_integer else value

    def position(self, value: Any) -> int:
        """Return the index of a listed value.

        Raises:
            ValueError: it is not listed.
        """
        # As JSON: in Python 1 == True == 1.0.
        texts = [json.dumps(option, sort_keys=True) for option in self.values]
        return texts.index(json.dumps(value, sort_keys=True))

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "SearchDimension":
        given = [name for name in ("low", "high", "q") if getattr(self, name) is not None]
        if self.is_list:
            if not self.values:
                raise ValueError(f"{self.kind} needs values")
            if given:
                raise ValueError(f"{self.kind} takes values, not {' and '.join(given)}")
            self._check_values()
            return self
        if self.values:
            raise ValueError(f"{self.kind} takes low and high, not values")
        if self.low is None or self.high is None:
            raise ValueError(f"{self.kind} needs low and high")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("low and high must be finite numbers")
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.is_logarithmic and self.low <= 0:
            raise ValueError(f"{self.kind} needs low > 0; got {self.low:g}")
        self._check_step()
        return self

    def _check_values(self) -> None:
        texts = [json.dumps(value, sort_keys=True, default=str) for value in self.values]
        if repeated := [text for text in texts if texts.count(text) > 1]:
            raise ValueError(f"the value {repeated[0]} is listed twice")

    def _check_step(self) -> None:
        low, high = self.bounds
        if self.is_integer and any(value % 1 for value in (low, high, self.q or 0)):
            raise ValueError(f"{self.kind} needs integers for low, high and q")
        if self.is_logarithmic and self.q is not None:
            raise ValueError(f"{self.kind} has no q; use uniform or int, or list the values")
        if self.q is not None and self.q > high - low:
            raise ValueError(f"q {self.q:g} is larger than high - low = {high - low:g}")
