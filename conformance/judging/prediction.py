"""What a model expects of more ranks than were measured.

The model: a step takes the expected time of the slowest rank and, after it, that of an allreduce. An allreduce is a
ring, 2 (N-1) messages of 1/N of the bytes one after the other: 2 (N-1) latency + 2 (N-1)/N bytes / bandwidth
(Patarasuk and Yuan 2009; Thakur, Rabenseifner and Gropp 2005). Over several hosts it is a ring in each of them and one
between them. A prediction is never a measurement: it has a place, a look and a sentence of its own wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import msgspec

from conformance.errors import SubjectFailed, UsageError
from conformance.judging.statistics import all_positive
from conformance.records import Scaling, ScalingPoint

PREDICTED_RANKS = (8, 32, 64)
FUSION_BUFFER_BYTES = 128 * 1024**2  # operations.cc of Horovod 0.28.1; its documentation still says 64 MB
MODEL = "ring allreduce after the slowest rank (Patarasuk and Yuan 2009; Thakur et al. 2005)"
ROUNDS = 20  # of the fit, which settles in a few
MOST_MISFIT = 0.5  # of a measured time; a model that is further off predicts nothing
NEVER_MEASURED = "predicted, never measured here"


class Measured(NamedTuple):
    """The time of one allreduce of so many bytes, as measured."""

    ranks: int
    size_bytes: int
    seconds: float


class Link(NamedTuple):
    """What a rank sends over, as told from allreduces of so many ranks; ``misfit`` is the largest relative miss."""

    bandwidth_bytes_per_s: float
    latency_s: float
    ranks: tuple[int, ...]
    misfit: float


class Links(NamedTuple):
    """The link of a rank to the next one in its host, and that of a host to the next one, None where nobody knows."""

    within: Link
    between: Link | None = None


class Basis(NamedTuple):
    """What a prediction starts from, all of it measured: single steps and the memory of one rank alone, and the links.

    ``step_s`` is waiting and computing, as of ``scaling.steps_taken``; ``gradient_bytes`` are reduced in every step.
    """

    step_s: Sequence[float]
    batch_size: int
    gradient_bytes: int
    resident_bytes: int
    links: Links


def ring_s(size_bytes: float, ranks: int, link: Link) -> float:
    """Return the seconds of a ring allreduce; those of one rank alone are none.

    >>> ring_s(2e9, 4, Link(1e9, 0.25, ranks=(2,), misfit=0.0))
    4.5
    """
    return 2 * (ranks - 1) * (link.latency_s + size_bytes / ranks / link.bandwidth_bytes_per_s)


def allreduce_s(size_bytes: float, ranks: int, ranks_per_host: int, links: Links) -> float:
    """Return the seconds of an allreduce over as few hosts as hold the ranks: a ring in each and one between them.

    In a host each rank sums its share first and gets the others' shares last, which are the halves of a ring; between
    hosts the shares together are all bytes. Raises UsageError where the link between hosts is needed and unknown.
    """
    local = min(ranks, ranks_per_host)
    hosts = math.ceil(ranks / local)
    if hosts == 1:
        return ring_s(size_bytes, local, links.within)
    if links.between is None:
        raise UsageError(
            f"{ranks} ranks, {ranks_per_host} a host, need {hosts} hosts, and the link between hosts is not known.",
            "Measure an allreduce between two hosts, or ask for no more ranks than one host holds.",
        )
    return ring_s(size_bytes, local, links.within) + ring_s(size_bytes, hosts, links.between)


def fit(measured: Sequence[Measured]) -> Link:
    """Return the link that explains the measured allreduces best, by least squares.

    A miss counts by its share of the time expected, so that short and long ones count alike (iteratively reweighted;
    by its share of the time measured, slow ones would hardly count). Neither latency nor time a byte can be negative.

    Raises SubjectFailed for times that are impossible, for fewer than two different sizes of a message, and where more
    bytes take no more time.
    """
    import numpy as np
    from scipy.optimize import nnls

    all_positive("Allreduce", [one.seconds for one in measured])
    hint = "Measure at least two sizes that differ by much, such as 1 MB and 100 MB, when nothing else runs."
    if len({one.size_bytes / one.ranks for one in measured}) < 2 or min(one.ranks for one in measured) < 2:
        told = ", ".join(f"{one.size_bytes:,} bytes over {one.ranks} ranks" for one in measured) or "nothing"
        raise SubjectFailed(f"A link cannot be told from an allreduce of {told}: two sizes are needed.", hint)
    messages = np.array([2.0 * (one.ranks - 1) for one in measured])
    sent = messages * [one.size_bytes / one.ranks for one in measured]
    explained, seconds = np.stack([messages, sent], axis=1), np.array([one.seconds for one in measured])
    expected = seconds
    for _ in range(ROUNDS):
        relative = explained / expected[:, None]
        scale = relative.max(axis=0)  # bytes are many and messages few, which costs digits
        latency_s, s_per_byte = nnls(relative / scale, seconds / expected)[0] / scale
        if s_per_byte <= 0:
            raise SubjectFailed("The measured allreduces take no more time for more bytes; no link is like that.", hint)
        expected = explained @ [latency_s, s_per_byte]
    misfit = float(np.abs(expected / seconds - 1).max())
    return Link(float(1 / s_per_byte), float(latency_s), tuple(sorted({one.ranks for one in measured})), misfit)


def slowest_s(step_s: Sequence[float], ranks: int) -> float:
    """Return the expected time of the slowest of so many ranks, each of which draws one of the measured steps.

    Of n steps in order, the i-th is the largest of N draws with probability (i/n)^N - ((i-1)/n)^N.

    >>> slowest_s([1.0, 2.0], 1), slowest_s([1.0, 2.0], 3)
    (1.5, 1.875)
    """
    n = len(step_s)
    return sum(step * ((i / n) ** ranks - ((i - 1) / n) ** ranks) for i, step in enumerate(sorted(step_s), start=1))


def predict(basis: Basis, ranks: int, ranks_per_host: int, host_memory_bytes: int | None = None) -> ScalingPoint:
    """Return the weak scaling to so many ranks that the model expects; ``host_memory_bytes`` is None where unknown.

    Raises UsageError where the link between hosts is needed and unknown, SubjectFailed for steps that cannot be.
    """
    all_positive("Step", basis.step_s)
    if not basis.step_s:
        raise SubjectFailed("One rank alone timed 0 steps; a prediction needs some.", "Train more than ten steps.")
    step_s = slowest_s(basis.step_s, ranks)
    if ranks > 1:
        step_s += allreduce_s(basis.gradient_bytes, ranks, ranks_per_host, basis.links)
    bytes_per_host = _memory(basis, min(ranks, ranks_per_host))
    return ScalingPoint(
        ranks=ranks,
        step_s=step_s,
        images_per_s=ranks * basis.batch_size / step_s,
        efficiency=fmean(basis.step_s) / step_s,
        bytes_per_host=bytes_per_host,
        fits=bytes_per_host <= host_memory_bytes if host_memory_bytes else None,
    )


def _memory(basis: Basis, ranks: int) -> int:
    return ranks * (basis.resident_bytes + FUSION_BUFFER_BYTES)


def with_prediction(
    scaling: Scaling,
    basis: Basis,
    ranks_per_host: int,
    host_memory_bytes: int | None = None,
    ranks: Sequence[int] = PREDICTED_RANKS,
) -> Scaling:
    """Add what the model expects of these numbers of ranks, and of those that were measured, to hold it against them.

    Numbers that need a link between hosts that nobody knows are left out, and all where the links do not fit what was
    measured; that is said. The model is one of weak scaling: strong scaling is given back as it is.
    """
    if scaling.kind == "strong":
        return scaling
    wanted = sorted({*ranks, *(point.ranks for point in scaling.measured if point.ranks > 1)})
    misfit = max(link.misfit for link in basis.links if link)
    if misfit <= MOST_MISFIT:
        reached = [n for n in wanted if n <= ranks_per_host or basis.links.between]
        because = "the link between hosts is not known"
    else:
        reached, because = [], f"the model is up to {100 * misfit:.0f} % off what was measured"
    left_out = _listed([str(n) for n in wanted if n not in reached])
    unsaid = [f"Nothing is predicted for {left_out} ranks: {because}."] if left_out else []
    return msgspec.structs.replace(
        scaling,
        predicted=tuple(predict(basis, n, ranks_per_host, host_memory_bytes) for n in reached),
        model=MODEL,
        assumptions=(*_assumptions(basis, ranks_per_host), *unsaid),
    )


def _assumptions(basis: Basis, ranks_per_host: int) -> tuple[str, ...]:
    between = basis.links.between
    return (
        f"The steps of each rank are like the {len(basis.step_s):,} measured of one alone, on as many cores.",
        f"{basis.gradient_bytes / 1e6:,.1f} MB are reduced after computing and not meanwhile (pessimistic); ranks do "
        "not slow one another by sharing memory or a network (optimistic).",
        f"A host has {ranks_per_host} ranks. Their link: {_link(basis.links.within)}."
        + (f" Between hosts: {_link(between)}." if between else ""),
        f"A rank takes {_gib(basis.resident_bytes)} of memory, measured alone, and {_gib(FUSION_BUFFER_BYTES)} for "
        f"Horovod to fuse tensors in: {_gib(_memory(basis, ranks_per_host))} for {ranks_per_host} ranks. Shared pages "
        "count for each.",
    )


def _link(link: Link) -> str:
    speed = f"{link.bandwidth_bytes_per_s / 1e9:,.2f} GB/s and {link.latency_s * 1e6:,.0f} µs a message"
    ranks = _listed([str(n) for n in link.ranks])
    return f"{speed}, at most {100 * link.misfit:.0f} % off what was measured at {ranks} ranks"


def prediction_lines(scaling: Scaling) -> list[str]:
    """Return what a plan says about the ranks that nobody measured: efficiency, memory, model and assumptions."""
    measured = {point.ranks for point in scaling.measured}
    points = [point for point in scaling.predicted if point.ranks not in measured]
    assumed = [f"assumed: {' '.join(scaling.assumptions)}"] if scaling.assumptions else []
    if not points:
        return ["no scaling efficiency is predicted", *assumed]
    efficiencies = _listed([f"{100 * point.efficiency:.1f} % at {point.ranks}" for point in points])
    memory = _listed([f"{_gib(point.bytes_per_host or 0)} at {point.ranks}{_fits(point)}" for point in points])
    return [
        f"{NEVER_MEASURED}: scaling efficiency {efficiencies} ranks",
        f"{NEVER_MEASURED}: memory a host {memory} ranks",
        f"model: {scaling.model}",
        *assumed,
    ]


def _fits(point: ScalingPoint) -> str:
    return {True: " (fits)", False: " (more than the host has)", None: " (the host's own is unknown)"}[point.fits]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / 1024**3:,.1f} GiB"
