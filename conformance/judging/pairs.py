"""Pairs of repeats as they come in, and whether more of them are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from conformance.cases.metrics import METRICS
from conformance.judging.change import gate_metrics, judge_change, share_of_alpha
from conformance.judging.sequential import Sequential
from conformance.records import Change


class Pairs:
    """The pairs of one case on two stacks.

    With ``max_repeats`` the metrics that decide are looked at from the pair ``repeats`` on, each time a pair comes, and
    what is decided stays so. Without it, all are looked at once, at the end; so are those that are only watched.
    """

    def __init__(self, max_slowdown: float, repeats: int, max_repeats: int | None) -> None:
        self.max_slowdown, self.repeats, self.max_repeats = max_slowdown, repeats, max_repeats
        self.count = 0
        self._base: dict[str, list[float]] = {}
        self._new: dict[str, list[float]] = {}
        self._looking: dict[str, Sequential] = {}
        self._found: dict[str, Change] = {}

    def add(self, base: Mapping[str, float], new: Mapping[str, float]) -> None:
        """Take the metrics of one more pair; a metric that one of them has not is NaN there, and invalid."""
        self.count += 1
        names = gate_metrics({**base, **new})
        for name in dict.fromkeys([*self._base, *names]):
            for values, metrics in ((self._base, base), (self._new, new)):
                values.setdefault(name, [math.nan] * (self.count - 1)).append(metrics.get(name, math.nan))
        if self.max_repeats is None:
            return
        for name in self._deciding():
            if name not in self._looking:
                alpha = share_of_alpha(name, tuple(self._base))
                self._looking[name] = Sequential(name, self.max_repeats, self.repeats, self.max_slowdown, alpha)
            if name not in self._found or self._found[name].verdict == "inconclusive":
                self._found[name] = self._looking[name].add(self._base[name][-1], self._new[name][-1])

    def _deciding(self) -> list[str]:
        return [name for name in self._base if METRICS[name].gate == "decides"]

    @property
    def decided(self) -> bool:
        return all(change.verdict != "inconclusive" for change in self._found.values())

    def changes(self) -> tuple[Change, ...]:
        """Return what is known of each metric that is a gate's business, the deciding ones first."""
        names = gate_metrics(self._base)
        return tuple(self._found[name] if name in self._found else self._judged(name, names) for name in names)

    def _judged(self, name: str, names: tuple[str, ...]) -> Change:
        return judge_change(
            name, self._base[name], self._new[name],
            paired=True, max_slowdown=self.max_slowdown, alpha=share_of_alpha(name, names),
        )  # fmt: skip
