"""How quiet the machine was while steps were timed, and which limits of the profile it passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from conformance.cases.metrics import percent, telling
from conformance.errors import SubjectFailed
from conformance.hardware.profile import Counts
from conformance.records import Noise


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a subject read before and after its timed steps; a None could not be read there.

    Seconds of steal and of busy time are sums over the ``cpus`` logical CPUs that it was bound to;
    ``own_s`` is the CPU time of the subject itself; the ceilings are a matrix product's rate.
    """

    steal_s: float | None = None
    busy_s: float | None = None
    own_s: float | None = None
    elapsed_s: float | None = None
    cpus: int | None = None
    throttle_events: int | None = None
    ceiling_before_flop_per_s: float | None = None
    ceiling_after_flop_per_s: float | None = None


def noise(reading: Mapping[str, float | None], spread: float | None, limits: Counts) -> Noise:
    """Hold a subject's readings against a profile's limits; ``spread`` is that of the steps.

    Raises SubjectFailed for a reading that does not fit. A throttled clock is noise however short.
    """
    read = _parse(reading)
    time_s = (read.elapsed_s or 0.0) * (read.cpus or 0)
    foreign_s = None if read.busy_s is None or read.own_s is None else read.busy_s - read.own_s
    shares = {
        "steal_share": _share(read.steal_s, time_s),
        "foreign_share": _share(foreign_s, time_s),
        "spread": spread,
        "ceiling_drift": _drift(read.ceiling_before_flop_per_s, read.ceiling_after_flop_per_s),
    }
    reasons = _reasons(shares, read.throttle_events or 0, limits)
    return Noise(throttle_events=read.throttle_events, reasons=reasons, **shares)


def _parse(reading: Mapping[str, float | None]) -> Reading:
    try:
        return msgspec.convert(dict(reading), Reading)
    except msgspec.ValidationError as error:
        hint = "The subject and the host side are of different versions; install one of them."
        raise SubjectFailed(f"The subject's noise reading does not fit: {error}.", hint) from None


def _share(seconds: float | None, of_s: float) -> float | None:
    """Return a share of time; counters that ran a tick backwards count as zero."""
    return None if seconds is None or of_s <= 0 else max(0.0, seconds) / of_s


def _drift(before: float | None, after: float | None) -> float | None:
    if before is None or after is None or max(before, after) <= 0:
        return None
    return abs(after - before) / max(before, after)


def _reasons(shares: Mapping[str, float | None], throttled: int, limits: Counts) -> tuple[str, ...]:
    said = (
        ("steal_share", limits.max_steal_share, "the hypervisor took {} of the cores' time"),
        ("foreign_share", limits.max_foreign_share, "other processes took {} of the cores' time"),
        ("spread", limits.max_spread, "the steps spread by {} (IQR / median)"),
        ("ceiling_drift", limits.max_ceiling_drift, "the ceiling moved by {} between start and end"),
    )
    reasons = [_passed(shares[name], limit, words) for name, limit, words in said]
    if throttled > 0:
        reasons.append(f"the CPU throttled {throttled} times")
    return tuple(reason for reason in reasons if reason)


def _passed(value: float | None, limit: float, words: str) -> str | None:
    if value is None or value <= limit:
        return None
    show: Callable[[float], str] = telling(percent, value, limit)
    return f"{words.format(show(value))}, at most {show(limit)} counts"
