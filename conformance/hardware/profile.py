"""Hardware profiles: what a machine is, how to drive it, when a measurement on it counts."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Launcher = Literal["mpirun", "horovodrun", "srun"]


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the machine is; a value that is not given fits any machine.

    ``sockets`` and ``cores_per_socket`` are the machine's own; ``min_cores`` and ``max_cores`` count
    the cores that this process may use, so that a small container of a big server is small.
    """

    architecture: Literal["x86_64"] = "x86_64"
    sockets: Positive | None = None
    cores_per_socket: Positive | None = None
    min_cores: Positive | None = None
    max_cores: Positive | None = None
    flags: tuple[str, ...] = ()


class Drive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to drive it: which cores one case gets, what starts several ranks, and sizes that replace a row's own."""

    unit: Literal["socket", "machine"] = "machine"
    launcher: Launcher | None = None
    inter_op_threads: Positive | None = None
    intra_op_threads: Positive | None = None
    batch_size: Positive | None = None
    train_batch_size: Positive | None = None
    warmup_steps: Positive | None = None
    steps: Positive | None = None
    min_timed_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a measurement counts: beyond one of these a speed is unstable."""

    max_steal_share: Share = 0.02
    max_foreign_share: Share = 0.05
    max_spread: Share = 0.10
    max_ceiling_drift: Share = 0.10


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of hardware_profiles/; ``name`` equals the file's name."""

    name: str
    description: str
    machine: Machine
    drive: Drive = Drive()
    counts: Counts = Counts()
