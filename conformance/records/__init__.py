"""Run files: a header line, a line for each judged case and for each comparison, a footer line.

A run is a directory; its run file ``run.jsonl`` is append-only, and each line is flushed
and fsynced, so that a SIGKILL loses nothing that was finished. A run file without its
footer is a run that did not end by itself, and is told so.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SCHEMA = 2
READABLE = (1, 2)  # the first had neither repeats nor comparisons
RUN_FILE = "run.jsonl"
# What a header tells of its machine and is installed on it: another version of these is no other machine.
SOFTWARE = ("accelerators_driver", "accelerators_firmware", "synapseai")

Verdict = Literal["inside", "outside", "unjudged", "unstable", "invalid", "not run"]
ChangeVerdict = Literal["regressed", "improved", "same", "inconclusive", "invalid", "no baseline"]

# From the word that decides a case most to the one that decides it least.
GRAVITY: tuple[Verdict, ...] = ("invalid", "outside", "unstable", "not run", "unjudged", "inside")
MEASURED: tuple[Verdict, ...] = ("inside", "outside", "unjudged", "unstable")
CHANGE_GRAVITY: tuple[ChangeVerdict, ...] = (
    "invalid", "regressed", "inconclusive", "no baseline", "improved", "same",
)  # fmt: skip


class Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One metric held against its band: ``text`` says it in a sentence."""

    metric: str
    verdict: Verdict
    text: str
    value: float | None = None
    band: str | None = None
    source: str | None = None


class Launched(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was started: copyable, with the environment that the launch set or unset (None).

    ``ranks`` holds the logical CPUs that each rank may use; it is empty for a process by itself. Threads are a rank's.
    ``hosts`` names the machine of each rank, where ranks were sent to machines by name.
    """

    argv: tuple[str, ...]
    env: dict[str, str | None]
    cpus: tuple[int, ...]
    memory_nodes: tuple[int, ...]
    inter_op_threads: int
    intra_op_threads: int
    ranks: tuple[tuple[int, ...], ...] = ()
    hosts: tuple[str, ...] = ()


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How quiet the machine was while the steps were timed; a None could not be read here.

    Shares are of the time of the cores that the subject was bound to. ``reasons`` says in
    words which limits of the profile were passed; empty means quiet.
    """

    steal_share: float | None = None
    foreign_share: float | None = None
    throttle_events: int | None = None
    spread: float | None = None
    ceiling_drift: float | None = None
    reasons: tuple[str, ...] = ()


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Convolution work of one oneDNN kernel: e.g. ``brgconv:avx512_core_vnni`` on ``u8:s8``."""

    name: str
    data_type: str
    calls: int
    flop_share: float


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The durations of the timed steps, in seconds, and how many warm-up steps came before."""

    warmup_steps: int
    step_s: tuple[float, ...]
    steady: bool


class ScalingPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How training goes on a number of ranks.

    ``efficiency`` is the throughput as share of that of as many single ranks, or of the fewest that were measured; it
    has an interval where it was measured more than once. Memory is what all ranks of one host take; ``fits`` says
    whether the host has it, None if unknown.
    """

    ranks: int
    step_s: float
    images_per_s: float
    efficiency: float
    interval: tuple[float, float] | None = None
    bytes_per_host: int | None = None
    fits: bool | None = None


class Scaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How training scales: what was measured, and apart from it what a model predicts, with all that it assumes."""

    kind: Literal["weak", "strong"]
    measured: tuple[ScalingPoint, ...] = ()
    predicted: tuple[ScalingPoint, ...] = ()
    model: str = ""
    assumptions: tuple[str, ...] = ()


class Artefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of the run, relative to the run's directory, or an input with its digest."""

    path: str
    sha256: str | None = None
    bytes: int | None = None


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="line", tag="record"):
    """One judged case, or one repeat of it: ``repeat`` counts from 1 for each stack.

    ``each`` holds the values of every seed where a training was repeated, and ``metrics`` what they come to.
    ``stack_digest`` is that of all that the stack holds; ``loaded`` is what only a subject can say of it, such as the
    versions of TensorFlow and oneDNN that it loaded.
    """

    case: str
    suite: str
    model: str
    mode: str
    precision: str
    dataset: str
    source: str
    stack: str
    profile: str
    verdict: Verdict
    reason: str
    started_at: str
    duration_s: float
    batch_size: int | None = None
    judgements: tuple[Judgement, ...] = ()
    metrics: dict[str, float] = {}
    each: dict[str, tuple[float, ...]] = {}
    intervals: dict[str, tuple[float, float]] = {}
    published: tuple[dict[str, Any], ...] = ()
    series: tuple[Series, ...] = ()
    launched: tuple[Launched, ...] = ()
    hardware_differences: tuple[str, ...] = ()
    noise: Noise | None = None
    kernels: tuple[Kernel, ...] = ()
    scaling: Scaling | None = None
    inputs: dict[str, Artefact] = {}
    artefacts: dict[str, Artefact] = {}
    notes: tuple[str, ...] = ()
    worker: str | None = None
    repeat: int = 1
    stack_digest: str = ""
    loaded: dict[str, str] = {}


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One metric of a case beside a base: ``text`` says it in a sentence.

    ``base`` and ``new`` are medians in the metric's own unit, and so are the values of the repeats, in the order of
    their pairs where there are pairs; values that no number can hold are left out. ``ratio`` is new / base: the median
    of the pairs' ratios, or the ratio of the medians; ``interval`` is its 95 % interval, and ``p`` the two-sided p
    value of the test. ``allowed`` is the greatest change that counts as none, a share such as 0.03; ``detectable`` the
    smallest that so many repeats of this noise would show.
    """

    metric: str
    verdict: ChangeVerdict
    text: str
    base: float | None = None
    new: float | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    base_values: tuple[float, ...] = ()
    new_values: tuple[float, ...] = ()
    allowed: float | None = None
    detectable: float | None = None


class KernelChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A layer whose kernel, data type or ISA is another; shares are of the time of a step, None if unknown."""

    layer: str
    base: str
    new: str
    base_share: float | None = None
    new_share: float | None = None


class Comparison(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="line", tag="comparison"
):
    """One case on one stack beside the same case on another, or in an earlier run.

    ``base`` and ``new`` name the stacks, ``base`` with its run where that is another one. ``paired`` says that repeats
    took turns, in an order drawn with ``order_seed``. ``differences`` says what else differs between the two.
    """

    case: str
    suite: str
    model: str
    mode: str
    precision: str
    dataset: str
    profile: str
    base: str
    new: str
    paired: bool
    verdict: ChangeVerdict
    reason: str
    started_at: str
    order_seed: int | None = None
    changes: tuple[Change, ...] = ()
    differences: tuple[str, ...] = ()
    kernels: tuple[KernelChange, ...] = ()


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="line", tag="header"):
    """Where and with what a run was made; ``order_seed`` drew the order of stacks that took turns."""

    run: str
    started_at: str
    harness: str
    command: tuple[str, ...]
    profile: str
    host: dict[str, Any]
    stacks: dict[str, dict[str, Any]]
    environment: dict[str, str]
    hardware_differences: tuple[str, ...] = ()
    order_seed: int | None = None
    schema: int = SCHEMA


class Footer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="line", tag="footer"):
    """How a run ended: verdicts counted, and pytest's exit status."""

    ended_at: str
    counts: dict[str, int]
    exit_status: int


Line = Header | Record | Comparison | Footer


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run file as read. ``footer`` is None when the run did not end by itself."""

    directory: str
    header: Header
    records: tuple[Record, ...]
    footer: Footer | None
    comparisons: tuple[Comparison, ...] = ()

    @property
    def machine(self) -> dict[str, Any]:
        """What its machine is, without the software that the header tells with it."""
        return {name: value for name, value in self.header.host.items() if name not in SOFTWARE}


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict that decides a case: the gravest of its judgements.

    >>> worst(["inside", "outside", "unjudged"])
    'outside'
    """
    return min(verdicts, key=GRAVITY.index)
