"""Is it less often right? The answers of two stacks to the same images, which need no repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from conformance.errors import UsageError
from conformance.judging.change import ALPHA, MAX_LOSS
from conformance.judging.statistics import mcnemar, paired_difference
from conformance.records import Change, ChangeVerdict, Record


def judge_answers(base: Sequence[bool], new: Sequence[bool]) -> Change:
    """Compare top-1 by the same images in the same order: significant by the exact test of McNemar, larger than 1 %.

    The interval is that of the paired difference (Bonett and Price 2012), as ratio to the base.
    """
    if len(base) != len(new) or not any(base):
        told = f"top-1 cannot be compared: the base is right on {sum(base)} of {len(base)} images, and the other side "
        text = f"{told}judged {len(new)}."
        return Change(metric="top1", verdict="invalid", text=text, allowed=MAX_LOSS)
    images, found = len(base), mcnemar(base, new)
    share = sum(base) / images
    low, high = (max(0.0, 1 + end / share) for end in paired_difference(found.b, found.c, images))
    ratio, limit = sum(new) / sum(base), math.log1p(MAX_LOSS)
    verdict: ChangeVerdict = "inconclusive"
    if found.p <= ALPHA and (ratio == 0 or abs(math.log(ratio)) > limit):
        verdict = "regressed" if ratio < 1 else "improved"
    elif low > 0 and max(abs(math.log(low)), abs(math.log(high))) <= limit:
        verdict = "same"
    text = (
        f"top-1: {share:.4f} -> {sum(new) / images:.4f}, ratio {ratio:.4f} (95 % interval {low:.4f} to {high:.4f}) on "
        f"the same {images:,} images, of which the base alone is right on {found.b} and the new side alone on "
        f"{found.c}: {verdict}, p = {found.p:.2g}, allowed is {100 * MAX_LOSS:g} %."
    )
    return Change(
        metric="top1", verdict=verdict, text=text, base=share, new=sum(new) / images, ratio=ratio,
        interval=(low, high), p=found.p, base_values=(share,), new_values=(sum(new) / images,), allowed=MAX_LOSS,
    )  # fmt: skip


def read_answers(record: Record, directory: Path) -> list[bool]:
    """Return whether each image was judged right, from the bits that a run left; raises UsageError where it has not."""
    import numpy as np

    try:
        packed = np.fromfile(directory / record.artefacts["correct_bits"].path, np.uint8)
        right: list[bool] = np.unpackbits(packed)[: round(record.metrics["images"])].astype(bool).tolist()
    except (OSError, KeyError) as error:
        raise UsageError(
            f"The answers of {record.case!r} in {str(directory)!r} cannot be read: {error}.",
            "Give a run whose directory artefacts/ is whole.",
        ) from None
    return right
