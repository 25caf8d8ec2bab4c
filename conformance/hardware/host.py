"""What a machine is, as plain values; conformance.hardware.detect makes one from text."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from conformance.errors import HarnessFault
from conformance.hardware.hl_smi import SPOKEN, Accelerators


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """One logical CPU. ``core`` is unique in the whole machine, ``node`` is the NUMA node."""

    id: int
    core: int
    socket: int
    node: int


class Fault(msgspec.Struct, frozen=True):
    """Why the accelerators of a machine cannot be used, and the next step."""

    message: str
    hint: str


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A machine: its sockets, cores and NUMA nodes, and what of them this process may use.

    A socket and a NUMA node are different things: sub-NUMA clustering makes several nodes of
    one socket. ``allowed`` holds the ids of the logical CPUs that affinity and cpuset leave to
    this process; ``quota_cpus`` is the cgroup's quota in CPUs, None without one.
    ``machine_memory_bytes`` is the machine's memory, ``memory_bytes`` what this process may use of
    it: the least of that and the cgroup's limit. Both are 0 where they are unknown. ``accelerators`` are None where
    there are none, and where there are but ``accelerators_fault`` keeps them from being used.
    """

    architecture: str
    vendor: str
    model_name: str
    family: int
    model: int
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    cpus: tuple[Cpu, ...]
    flags: tuple[str, ...]
    allowed: tuple[int, ...]
    memory_bytes: int
    machine_memory_bytes: int = 0
    quota_cpus: float | None = None
    governor: str | None = None
    hypervisor: str | None = None
    accelerators: Accelerators | None = None
    accelerators_fault: Fault | None = None

    @property
    def nodes(self) -> tuple[int, ...]:
        return tuple(sorted({cpu.node for cpu in self.cpus}))

    def usable_cpus(self, socket: int | None = None) -> tuple[Cpu, ...]:
        """Return the first logical CPU of every core that this process may use, by socket."""
        allowed, seen, chosen = set(self.allowed), set(), []
        for cpu in sorted(self.cpus, key=lambda cpu: cpu.id):
            if cpu.id in allowed and cpu.core not in seen and socket in (None, cpu.socket):
                seen.add(cpu.core)
                chosen.append(cpu)
        return tuple(chosen)


def accelerators_in_words(host: Host) -> str:
    """Return name and number of the accelerators and the versions that change a result; else why none, or nothing."""
    found, fault = host.accelerators, host.accelerators_fault
    if found is None:
        return f"not usable: {fault.message}" if fault else ""
    kind = f" ({SPOKEN[found.kind]})" if found.kind in SPOKEN else ", neither Gaudi nor Gaudi2"
    versions = {"driver": found.driver, "firmware": found.firmware, "SynapseAI": found.synapse}
    told = ", ".join(f"{name} {version or 'not told'}" for name, version in versions.items())
    return f"{len(found.devices)} x {found.name}{kind}, {told}"


def usable_cores(host: Host, socket: int | None = None) -> int:
    """Count the cores that affinity, cpuset and quota leave to this process, by socket.

    A quota counts in whole CPUs; below one it still leaves a core, for a part of the time.
    """
    cores = len(host.usable_cpus(socket))
    return cores if host.quota_cpus is None else min(cores, max(1, math.floor(host.quota_cpus)))


def cpu_list(cpus: Iterable[int]) -> str:
    """Write CPU ids as taskset and numactl read them.

    >>> cpu_list([0, 1, 2, 5])
    '0-2,5'
    """
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Return the ids of a list as the kernel and lscpu write it; raises HarnessFault for any other text.

    >>> parse_cpu_list("0-2,8")
    (0, 1, 2, 8)
    """
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        if not dash:
            last = first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise HarnessFault(
                f"{text.strip()!r} is no list of CPUs: {part!r} is neither an id nor a range such as '0-3'.",
                "Compare what `lscpu` and /sys/fs/cgroup say; report what they hold.",
            )
        cpus += range(int(first), int(last) + 1)
    return tuple(cpus)
