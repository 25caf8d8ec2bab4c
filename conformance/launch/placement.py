"""Which cores a case gets: the host, the profile's drive and explicit options come to core sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from conformance.errors import UsageError
from conformance.hardware.host import Cpu, Host
from conformance.hardware.profile import Drive


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for by option; None leaves it to the profile, then to the rules."""

    socket_id: int | None = None
    num_cores: int | None = None
    num_inter_threads: int | None = None
    num_intra_threads: int | None = None
    num_instances: int = 1
    tcmalloc: bool | None = None


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The cores of one subject.

    ``cpus`` holds the first usable logical CPU of each core. ``whole_nodes`` says that the cores
    are all those of ``memory_nodes`` and that every logical CPU there may be used, so that
    binding to the nodes is the same as binding to the CPUs.
    """

    cpus: tuple[int, ...]
    memory_nodes: tuple[int, ...]
    whole_nodes: bool
    notes: tuple[str, ...] = ()


def candidates(host: Host, drive: Drive, request: Request) -> tuple[tuple[Placement, ...], ...]:
    """Return every core set that a case may get, each split into one placement an instance.

    All alternatives have the same number of cores, so that a measurement does not depend on
    which of them was free: a socket that leaves fewer cores to this process than another is
    none. Raises UsageError for an option that does not fit this machine.
    """
    _require_positive(request)
    places = _places(host, drive, request)
    size = _size(places, request)
    fitting = [cpus[:size] for cpus in places.values() if len(cpus) >= size]
    return tuple(_split(host, cpus, request.num_instances) for cpus in fitting)


def cores_by_turn(host: Host, turns: Sequence[tuple[int, int]], each: int) -> tuple[tuple[int, ...], ...]:
    """Return the first logical CPUs of the ``each`` cores of ranks that mpirun binds.

    ``turns`` holds for each rank the index of its socket, whose cores it gets in the order of the memory, and how many
    ranks of that socket come before it.
    """
    sockets = sorted({cpu.socket for cpu in host.cpus})
    owned = [tuple(cpu.id for cpu in _ordered(host.usable_cpus(socket))) for socket in sockets]
    return tuple(owned[socket][turn * each : (turn + 1) * each] for socket, turn in turns)


def _require_positive(request: Request) -> None:
    for name in ("num_cores", "num_inter_threads", "num_intra_threads", "num_instances"):
        value = getattr(request, name)
        if value is not None and value < 1:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is {value}; allowed: 1 or more.", f"Give a positive {option}, or leave it out.")


def _places(host: Host, drive: Drive, request: Request) -> dict[str, tuple[Cpu, ...]]:
    """Return the usable cores of each place, by its name in words, in the order of the memory."""
    sockets = sorted({cpu.socket for cpu in host.cpus})
    if request.socket_id is not None:
        if request.socket_id not in sockets:
            raise _no_such_socket(host, request.socket_id, sockets)
        sockets = [request.socket_id]
    elif drive.unit == "machine":
        return {"this machine": _ordered(host.usable_cpus())}
    return {f"socket {socket}": _ordered(host.usable_cpus(socket)) for socket in sockets}


def _ordered(cpus: Iterable[Cpu]) -> tuple[Cpu, ...]:
    return tuple(sorted(cpus, key=lambda cpu: (cpu.socket, cpu.node, cpu.id)))


def _no_such_socket(host: Host, socket: int, sockets: Sequence[int]) -> UsageError:
    known = ", ".join(map(str, sockets))
    return UsageError(
        f"--socket-id is {socket}, which is no socket of this machine; allowed: {known}.",
        f"A socket is no NUMA node; sockets here: {len(sockets)}, NUMA nodes: {len(host.nodes)}.",
    )


def _size(places: dict[str, tuple[Cpu, ...]], request: Request) -> int:
    """Return how many cores every alternative has."""
    name, largest = max(places.items(), key=lambda place: len(place[1]))
    most = len(largest)
    if most == 0:
        raise UsageError(
            f"No core of {name} is left to this process by its affinity and cpuset.",
            "Choose another --socket-id, or start from a shell that may use these cores.",
        )
    size = most if request.num_cores is None else request.num_cores
    if size > most:
        raise UsageError(
            f"--num-cores is {size}; allowed: 1 to {most}, the cores of {name} that this process may use.",
            "Ask for fewer cores, or widen the affinity or cpuset of this shell (taskset -p $$).",
        )
    if request.num_instances > size:
        raise UsageError(
            f"--num-instances is {request.num_instances}; allowed: 1 to {size}, one core each on {name}.",
            "Ask for fewer instances, or for more cores with --num-cores.",
        )
    return size


def _split(host: Host, cpus: tuple[Cpu, ...], instances: int) -> tuple[Placement, ...]:
    """Split cores into equal parts that share none; a remainder stays unused and is noted."""
    each, unused = divmod(len(cpus), instances)
    notes = (f"{instances} instances of {each} cores leave {unused} of {len(cpus)} unused.",) if unused else ()
    parts = (cpus[part * each : (part + 1) * each] for part in range(instances))
    return tuple(_placement(host, part, notes) for part in parts)


def _placement(host: Host, cpus: tuple[Cpu, ...], notes: tuple[str, ...]) -> Placement:
    nodes, cores, allowed = {cpu.node for cpu in cpus}, {cpu.core for cpu in cpus}, set(host.allowed)
    return Placement(
        cpus=tuple(cpu.id for cpu in cpus),
        memory_nodes=tuple(sorted(nodes)),
        whole_nodes=all(c.core in cores and c.id in allowed for c in host.cpus if c.node in nodes),
        notes=notes,
    )
