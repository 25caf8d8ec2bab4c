"""Hardware profiles: what a machine is, how to drive it, when a measurement on it counts, what a plan assumes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
HostSlots = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*:[1-9][0-9]*$")]
Launcher = Literal["mpirun", "horovodrun", "srun"]
Accelerator = Literal["gaudi", "gaudi2"]


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the machine is; a value that is not given fits any machine.

    ``sockets`` and ``cores_per_socket`` are the machine's own; ``min_cores`` and ``max_cores`` count
    the cores that this process may use, so that a small container of a big server is small. ``accelerators`` are
    those of each server, at least; only the server that this process runs on is looked at.
    """

    architecture: Literal["x86_64"] = "x86_64"
    sockets: Positive | None = None
    cores_per_socket: Positive | None = None
    min_cores: Positive | None = None
    max_cores: Positive | None = None
    flags: tuple[str, ...] = ()
    accelerator: Accelerator | None = None
    accelerators: Positive | None = None
    servers: Positive = 1


class Drive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to drive it: which cores one case gets, what starts several ranks, and sizes that replace a row's own.

    ``hosts`` (each as in ``--hosts``: a name and its slots), ``network_interface`` and ``ssh_port`` stand where the
    options of these names are not given.
    """

    unit: Literal["socket", "machine"] = "machine"
    launcher: Launcher | None = None
    hosts: tuple[HostSlots, ...] = ()
    network_interface: str | None = None
    ssh_port: Port | None = None
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


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The CPUs that ``--plan`` assumes on a machine that is not the profile's: no demand, for such machines differ."""

    sockets: Positive
    cores_per_socket: Positive
    threads_per_core: Positive = 1


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of hardware_profiles/; ``name`` equals the file's name."""

    name: str
    description: str
    machine: Machine
    drive: Drive = Drive()
    counts: Counts = Counts()
    plan: Plan | None = None
