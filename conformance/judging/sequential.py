"""Pairs that are looked at as they come, without more false alarms than one look has."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from conformance.cases.metrics import METRICS
from conformance.judging.change import ALPHA, MAX_SLOWDOWN, decided, judge_change, sides_of
from conformance.judging.exact_tests import attainable, doubled_ranks, signed_rank_p
from conformance.judging.statistics import BOOTSTRAP_PAIRS
from conformance.records import Change


class Sequential:
    """Compares pairs as they come, and may be looked at after each of them: ``add`` returns what is known so far.

    The error of looking often is spent as the square of the share of pairs (Lan and DeMets 1983; Kim and DeMets 1987),
    so that all looks together have a false alarm as rarely as one look at ``alpha``: less of it early, when a large
    change is seen anyway, and more at the end. How much a look spends is not approximated: given the sizes of the
    differences, each pattern of their signs is as likely as any other where the sides are equal, for the order of a
    pair is drawn, and the share of patterns that would be called at this look and not before is counted over all of
    them, or over ``PATTERNS`` where there are more (conditional randomisation: Plamadeala and Rosenberger 2012).

    Of so few pairs that no pattern of signs is rare enough, none is called before the last look, which then has all of
    the error: it is that of ``judge_change``, by the sum of ranks.

    Where 3 % is allowed, a slow-down of 5 % is found within 20 pairs in 96 of 100 trials with noise of 5 % (the
    standard deviation of a ratio's logarithm) that has the tails of Student's t with 3 degrees of freedom, in 88 with
    normal noise of 5 %, and in all with noise of 2 %: 400 simulated trials each.
    """

    PATTERNS = 20_000

    def __init__(
        self, metric_name: str, max_pairs: int = 20, first_look: int = 1, max_slowdown: float = MAX_SLOWDOWN,
        alpha: float = ALPHA, seed: int = 0,
    ) -> None:  # fmt: skip
        import numpy as np

        self.metric_name, self.max_pairs, self.first_look = metric_name, max_pairs, first_look
        self.max_slowdown, self.alpha = max_slowdown, alpha
        self._signs_can_tell = attainable(max_pairs) <= alpha
        if 2**max_pairs <= self.PATTERNS:
            bits = np.arange(2**max_pairs)[:, None] >> np.arange(max_pairs)
            self._signs = (2 * (bits & 1) - 1).astype(np.float32)
        else:
            draw = np.random.default_rng(seed)
            self._signs = draw.choice(np.array([-1, 1], np.float32), (self.PATTERNS, max_pairs))
        self._uncalled = np.ones(len(self._signs), bool)
        self._base: list[float] = []
        self._new: list[float] = []

    def add(self, base: float, new: float) -> Change:
        """Take one more pair; ``inconclusive`` means that more are needed. Raises ValueError beyond ``max_pairs``."""
        self._base.append(base)
        self._new.append(new)
        if len(self._base) > self.max_pairs:
            raise ValueError(f"{len(self._base)} pairs, and at most {self.max_pairs} were announced")
        sides, change = sides_of(self.metric_name, self._base, self._new, True, self.max_slowdown)
        if sides is None:
            return change
        final = len(self._base) == self.max_pairs
        if final and not self._signs_can_tell:
            limits = {"max_slowdown": self.max_slowdown, "alpha": self.alpha}
            return judge_change(self.metric_name, self._base, self._new, paired=True, **limits)
        p = signed_rank_p(sides.worse)
        if len(self._base) < max(self.first_look, BOOTSTRAP_PAIRS) and not final:
            text = f"{METRICS[self.metric_name].label} is not looked at before there are more pairs."
            return msgspec.structs.replace(change, verdict="inconclusive", text=text, p=p)
        significant = self._signs_can_tell and self._called(sides.worse)
        return decided(sides, change, p, significant=significant, alpha=self.alpha, looking=True, final=final)

    def _called(self, worse: Sequence[float]) -> bool:
        """Tell whether so extreme a sum of signed ranks is among those for which error is left to spend."""
        import numpy as np

        n = len(worse)
        ranks = np.array(doubled_ranks([abs(difference) for difference in worse])) * (np.array(worse) != 0)
        sums = np.abs(self._signs[:, :n] @ ranks.astype(np.float32))  # whole numbers, which float32 holds
        observed = abs(float(np.sign(worse) @ ranks))
        budget = int(self.alpha * (n / self.max_pairs) ** 2 * len(self._signs)) - int((~self._uncalled).sum())
        still = sums[self._uncalled]
        # Called are the sums above the first one that is beyond the budget, so that its equals are not.
        limit = -float(np.partition(-still, budget)[budget])
        self._uncalled &= sums <= limit
        return observed > limit
