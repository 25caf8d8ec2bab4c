"""What a series of training steps says: whether the loss falls, and how fast and how steadily the steps went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, median

from conformance.judging.statistics import percentile

# The first steps trace and compile; they are of no speed.
WARMUP_STEPS = 10
LEVEL = 0.01  # of the first losses: what differs by less is no trend
MOST_POINTS = 1000
# Of two ranks, and of more: the sum of two gradients has one order only.
MATCHED_STEPS, MATCHED_STEPS_OF_MORE = 20, 3


def loss_metrics(losses: Sequence[float]) -> dict[str, float]:
    """Return the last loss, the drop and the trend of a series of finite losses; nothing for an empty series.

    The drop is 1 less the ratio of the medians of the last and the first tenth. The trend is Kendall's tau of loss
    against step with its two-sided p; it is for steps that are independent of one another, and a slow wave passes it
    too, so that the drop is asked for beside it. Of fewer than 3 losses, or where they are all the same, nothing is
    known: tau 0 and p 1.
    """
    if not losses:
        return {}
    tenth = max(1, len(losses) // 10)
    first, last = median(losses[:tenth]), median(losses[-tenth:])
    tau, p = _trend(losses, LEVEL * abs(first))
    drop = {"loss_drop": 1 - last / first} if first > 0 else {}
    return {"final_loss": losses[-1], **drop, "loss_trend_tau": tau, "loss_trend_p": p}


def _trend(losses: Sequence[float], level: float) -> tuple[float, float]:
    """Return tau and p of the test of Mann (1945), in which losses that differ by no more than ``level`` are equal.

    A batch that is soon learnt by heart leaves a plateau, on which the norm of the weights moves the last digits for
    most of the steps. p is by the normal approximation with the variance of a series without equal losses, which is
    the greatest: it errs to the side of no trend. A long series is taken as medians of blocks.
    """
    import numpy as np

    block = math.ceil(len(losses) / MOST_POINTS)
    points = np.array([median(losses[at : at + block]) for at in range(0, len(losses), block)])
    n = len(points)
    if n < 3:
        return 0.0, 1.0
    changes = points[None, :] - points[:, None]  # [earlier, later]
    s = int(np.triu(np.sign(changes) * (abs(changes) > level), 1).sum())
    deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    z = max(0, abs(s) - 1) / deviation  # less 1 for continuity
    return 2 * s / (n * (n - 1)), min(1.0, 2 * NormalDist().cdf(-z))


def off_one_rank(losses: Sequence[float], alone: Sequence[float], ranks: int) -> float:
    """Return how far the first losses of several ranks are from those of one rank with all images, at most, relatively.

    Both see the same images in the same order; only the order of sums differs, and training amplifies any rounding to
    the size of the loss itself. Of more than two ranks the first three losses count: a warm-up begins at a rate of 0,
    so that the third is the first of weights that moved. Four ranks that train ResNet50 on the digits were 2e-6 off
    there and 1e-3 to 8e-3 a step later; gradients that are summed and not averaged were 3e-2 off.
    """
    matched = MATCHED_STEPS if ranks == 2 else MATCHED_STEPS_OF_MORE
    pairs = zip(losses[:matched], alone[:matched], strict=True)
    return max(abs(loss - other) / abs(other) for loss, other in pairs)


def step_metrics(step_s: Sequence[float], wait_s: Sequence[float], batch_size: int) -> dict[str, float]:
    """Return images/s by the median step, the 99th percentile over it, and the share of time spent waiting for images.

    A step waits first, for ``wait_s``, and then computes, for ``step_s``; it takes the sum of both. The first ten steps
    are left out, and of no more steps than these there is no speed.
    """
    waited = wait_s[WARMUP_STEPS:]
    taken = [wait + step for wait, step in zip(waited, step_s[WARMUP_STEPS:], strict=True)]
    if not taken:
        return {}
    middle = percentile(taken, 0.5)
    return {
        "training_images_per_s": batch_size / middle,
        "step_p99_over_p50": percentile(taken, 0.99) / middle,
        "wait_share": sum(waited) / sum(taken),
    }
