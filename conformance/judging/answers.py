"""Is it less often right? The answers of two sides to the same images, which need no repeats, or their shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from conformance.errors import UsageError
from conformance.judging.change import ALPHA, MAX_LOSS
from conformance.judging.statistics import mcnemar, paired_difference, share_difference
from conformance.records import Change, ChangeVerdict, Record

BITS = "correct_bits"


def judge_top1(base: Record, base_run: Path, new: Record, new_run: Path) -> Change | None:
    """Compare the top-1 of two records of runs in these directories: by the same images, or else as two shares.

    None where a record does not tell its top-1 and of how many images.
    """
    sides = (_right(base), _right(new))
    if sides[0] is None or sides[1] is None:
        return None
    unpaired = _unpaired(base, new)
    if not unpaired:
        try:
            return judge_answers(read_answers(base, base_run), read_answers(new, new_run))
        except UsageError as error:
            unpaired = error.message.rstrip(".")
    return judge_shares(*sides[0], *sides[1], unpaired)


def judge_answers(base: Sequence[bool], new: Sequence[bool]) -> Change:
    """Compare top-1 by the same images in the same order: significant by the exact test of McNemar, larger than 1 %.

    The interval is that of the paired difference (Bonett and Price 2012), as ratio to the base.
    """
    if len(base) != len(new) or not any(base):
        return _invalid(sum(base), len(base), len(new))
    images, found = len(base), mcnemar(base, new)
    told = (
        f"on the same {images:,} images, of which the base alone is right on {found.b} and the new side alone on "
        f"{found.c}"
    )
    difference = paired_difference(found.b, found.c, images)
    return _judged(sum(base) / images, sum(new) / images, difference, found.p, told)


def judge_shares(base_right: int, base_images: int, new_right: int, new_images: int, unpaired: str) -> Change:
    """Compare top-1 as two shares: significant by Fisher's exact test, larger than 1 %.

    The interval is that of the difference (Newcombe 1998), as ratio to the base. ``unpaired`` is why no image is
    compared with itself.
    """
    if not base_right:
        return _invalid(base_right, base_images, new_images)
    from scipy.stats import fisher_exact

    table = [[base_right, base_images - base_right], [new_right, new_images - new_right]]
    told = f"on {base_images:,} images against {new_images:,}, which are not paired ({unpaired})"
    difference = share_difference(base_right, base_images, new_right, new_images)
    return _judged(base_right / base_images, new_right / new_images, difference, float(fisher_exact(table)[1]), told)


def _judged(share: float, new: float, difference: tuple[float, float], p: float, told: str) -> Change:
    low, high = (max(0.0, 1 + end / share) for end in difference)
    ratio, limit = new / share, math.log1p(MAX_LOSS)
    verdict: ChangeVerdict = "inconclusive"
    if p <= ALPHA and (ratio == 0 or abs(math.log(ratio)) > limit):
        verdict = "regressed" if ratio < 1 else "improved"
    elif low > 0 and max(abs(math.log(low)), abs(math.log(high))) <= limit:
        verdict = "same"
    text = (
        f"top-1: {share:.4f} -> {new:.4f}, ratio {ratio:.4f} (95 % interval {low:.4f} to {high:.4f}) {told}: "
        f"{verdict}, {f'p = {p:.2g}' if p else 'p < 1e-300'}, allowed is {100 * MAX_LOSS:g} %."
    )
    return Change(
        metric="top1", verdict=verdict, text=text, base=share, new=new, ratio=ratio,
        interval=(low, high), p=p, base_values=(share,), new_values=(new,), allowed=MAX_LOSS,
    )  # fmt: skip


def _invalid(right: int, images: int, new_images: int) -> Change:
    told = f"top-1 cannot be compared: the base is right on {right} of {images} images, and the other side "
    return Change(metric="top1", verdict="invalid", text=f"{told}judged {new_images}.", allowed=MAX_LOSS)


def _right(record: Record) -> tuple[int, int] | None:
    """Return on how many images a record is right, and of how many; None where it does not tell."""
    top1, images = record.metrics.get("top1", math.nan), record.metrics.get("images", math.nan)
    return (round(top1 * images), round(images)) if 0 <= top1 <= 1 <= images < math.inf else None


def _unpaired(base: Record, new: Record) -> str:
    """Return why the images of two records cannot be paired; empty where they are the same and have answers."""
    digests = [record.inputs["data"].sha256 if "data" in record.inputs else None for record in (base, new)]
    if base.metrics["images"] != new.metrics["images"] or (None not in digests and digests[0] != digests[1]):
        return "the images are others"
    if None in digests:
        return "nothing tells that the images are the same"
    without = [name for name, record in (("base", base), ("new", new)) if BITS not in record.artefacts]
    return f"without the answers to each image of {' and '.join(without)}" if without else ""


def read_answers(record: Record, directory: Path) -> list[bool]:
    """Return whether each image was judged right, from the bits that a run left; raises UsageError where it has not."""
    import numpy as np

    hint = "Give a run whose directory artefacts/ is whole."
    try:
        packed = np.fromfile(directory / record.artefacts[BITS].path, np.uint8)
        images = round(record.metrics["images"])
    except (OSError, KeyError) as error:
        told = f"The answers of {record.case!r} in {str(directory)!r} cannot be read: {error}."
        raise UsageError(told, hint) from None
    right: list[bool] = np.unpackbits(packed)[:images].astype(bool).tolist()
    if len(right) < images:
        told = f"The answers of {record.case!r} in {str(directory)!r} are {len(right):,}, of {images:,} images."
        raise UsageError(told, hint)
    return right
