"""What a series of training steps says: whether the loss falls, and how fast and how steadily the steps went."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from statistics import median

from conformance.judging.statistics import percentile

# The first steps trace and compile; they are of no speed.
WARMUP_STEPS = 10


def loss_metrics(losses: Sequence[float]) -> dict[str, float]:
    """Return the last loss, the drop and the trend of a series of finite losses; nothing for an empty series.

    The drop is 1 less the ratio of the medians of the last and the first tenth. The trend is Kendall's tau of loss
    against step with its two-sided p, the test of Mann (1945); it is for steps that are independent of one another, and
    a slow wave passes it too, so that the drop is asked for beside it. Of fewer than 3 losses, or where they are all
    the same, nothing is known: tau 0 and p 1.
    """
    if not losses:
        return {}
    tenth = max(1, len(losses) // 10)
    first, last = median(losses[:tenth]), median(losses[-tenth:])
    tau, p = _trend(losses)
    drop = {"loss_drop": 1 - last / first} if first > 0 else {}
    return {"final_loss": losses[-1], **drop, "loss_trend_tau": tau, "loss_trend_p": p}


def _trend(losses: Sequence[float]) -> tuple[float, float]:
    if len(losses) < 3 or min(losses) == max(losses):
        return 0.0, 1.0
    from scipy.stats import kendalltau

    with warnings.catch_warnings():  # of ties in a short series, where p is an approximation
        warnings.simplefilter("ignore")
        found = kendalltau(range(len(losses)), losses)
    return float(found.statistic), float(found.pvalue)


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
