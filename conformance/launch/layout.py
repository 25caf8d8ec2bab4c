"""Where ranks go: on which machines, and on a machine which cores each of them gets.

The Intel model zoo's launcher (benchmarks/common/base_model_init.py) gives every rank the threads of a whole socket
less two, however many ranks share it, and binds all ranks to one NUMA node where a socket is asked for. Here ranks of a
socket share its cores out: a rank has ``cores of a socket // ranks of a socket`` of its own and as many threads, less
those that ``--reserve-cores`` keeps for the thread that communicates. The mapping is the recipe's, word for word:
``--map-by socket`` for a rank a socket, ``--map-by ppr:K:socket:pe=C//K`` for more, and on Gaudi
``--bind-to core --map-by socket:PE=n``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from conformance.errors import UsageError
from conformance.hardware.host import Host
from conformance.hardware.profile import Drive, Launcher
from conformance.launch import habana
from conformance.launch.placement import Request, candidates, cores_by_turn
from conformance.launch.rules import binding


class Machine(msgspec.Struct, frozen=True):
    """A machine that ranks run on, and how many of them at most."""

    name: str
    slots: int


class Ranks(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for of a launch of ranks: by option, or by the row and the profile.

    ``per_socket`` is as many as needed where it is None, ``machines`` is this one where it is empty. ``reserve_cores``
    are those of each rank that get no compute thread. ``elastic`` ranks go on without one that is lost. The threads are
    a row's: options and the profile win over them.
    """

    world_size: int
    launcher: Launcher = "mpirun"
    per_socket: int | None = None
    machines: tuple[Machine, ...] = ()
    network_interface: str | None = None
    ssh_port: int | None = None
    oversubscribe: bool = False
    elastic: bool = False
    reserve_cores: int = 0
    inter_op_threads: int | None = None
    intra_op_threads: int | None = None


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ranks go on a machine.

    ``cpus`` holds the first logical CPU of every core that the launch holds; ``ranks`` all logical CPUs that each rank
    may use, SMT siblings too, as its affinity shows them. ``mapping`` is what mpirun is told; ``binder`` binds all
    ranks together where they are not bound one by one.
    """

    cpus: tuple[int, ...]
    memory_nodes: tuple[int, ...]
    ranks: tuple[tuple[int, ...], ...]
    cores_per_rank: int
    mapping: tuple[str, ...]
    binder: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def bound(self) -> bool:
        return "none" not in self.mapping


def one_of(ranks: Ranks, host: Host) -> Ranks:
    """Return the launch of one rank by itself on as many cores as each of these has, and bound by mpirun."""
    per_socket = ranks.per_socket or math.ceil(ranks_here(ranks) / host.sockets)
    return msgspec.structs.replace(
        ranks, world_size=1, per_socket=min(per_socket, host.cores_per_socket), launcher="mpirun", machines=()
    )


def lay_out(host: Host, drive: Drive, request: Request, ranks: Ranks, hpu: habana.HpuLaunch | None = None) -> Layout:
    """Return which CPUs each rank gets; machines that are named are taken to be alike.

    Ranks are bound one by one where the whole machine may be used; where affinity, a cpuset or an option leaves a part
    of it, they share that part. Raises UsageError, with figures, for more ranks than cores, sockets or slots.
    """
    here = ranks_here(ranks)
    notes = _require_hpus(ranks, here, hpu) if hpu else ()
    if ranks.machines and (request.socket_id is not None or request.num_cores is not None):
        raise UsageError(
            "--hosts goes with whole machines, and --socket-id or --num-cores asks for a part of this one.",
            "Leave out --socket-id and --num-cores, or --hosts.",
        )
    alone = msgspec.structs.replace(request, num_instances=1)
    place = candidates(host, msgspec.structs.replace(drive, unit="machine"), alone)[0][0]
    cores = len(place.cpus)
    if here > cores:
        if not ranks.oversubscribe:
            raise UsageError(
                f"{here} ranks on one machine are more than the {cores} cores that this process may use; "
                f"allowed: 1 to {cores}.",
                f"Ask for --mpi-num-processes {cores}, or let ranks share cores with --oversubscribe.",
            )
        note = f"{here} ranks share {cores} cores: no speed of such a run says anything about this machine."
        return _together(host, place.cpus, binding(host, place), ranks, 1, ("--oversubscribe",), note)
    whole = cores == len({cpu.core for cpu in host.cpus}) and len(host.allowed) == len(host.cpus)
    if ranks.launcher == "horovodrun" or not whole:
        why = "horovodrun binds none" if whole else "this process may use a part of the machine only"
        note = f"Ranks are not bound one by one, because {why}: they share {cores} cores."
        return _together(host, place.cpus, binding(host, place), ranks, cores // here, (), note)
    if hpu is None:
        return _by_socket(host, ranks, here)
    try:
        each, parts, more = habana.place(host, here, hpu)
    except UsageError as error:
        if not ranks.oversubscribe:
            raise
        told = f"{error.message} They share {cores} cores: no speed of such a run says anything about this machine."
        return _together(host, place.cpus, binding(host, place), ranks, cores // here, ("--oversubscribe",), told)
    mapping = ("--bind-to", "core", "--map-by", f"socket:PE={each}")
    return _of_parts(host, ranks, parts, mapping, (*notes, *more))


def _require_hpus(ranks: Ranks, here: int, hpu: habana.HpuLaunch) -> tuple[str, ...]:
    """Raise UsageError for what no ranks on Gaudi can be asked for, and return what is to be said of their number."""
    if ranks.launcher == "horovodrun":
        told = "horovodrun joins ranks by Gloo, which Habana's Horovod is built without."
        raise UsageError(told, "Leave out --elastic, and choose --launcher mpirun or srun.")
    return habana.require_devices(here, hpu)


def ranks_here(ranks: Ranks) -> int:
    """Return how many ranks one machine gets at most."""
    if not ranks.machines:
        return ranks.world_size
    slots = sum(machine.slots for machine in ranks.machines)
    if ranks.world_size > slots:
        raise UsageError(
            f"--mpi-num-processes is {ranks.world_size}; allowed: 1 to {slots}, the slots of --hosts.",
            "Ask for fewer ranks, or give each host more slots: --hosts NAME:SLOTS,NAME:SLOTS.",
        )
    return min(ranks.world_size, max(machine.slots for machine in ranks.machines))


def _together(
    host: Host, cpus: tuple[int, ...], binder: tuple[str, ...], ranks: Ranks, each: int, how: tuple[str, ...], note: str
) -> Layout:
    """Return the layout of ranks that all may use the same cores."""
    mine = _with_siblings(host, cpus)
    return Layout(
        cpus=cpus,
        memory_nodes=tuple(sorted({cpu.node for cpu in host.cpus if cpu.id in mine})),
        ranks=(mine,) * ranks.world_size,
        cores_per_rank=each,
        mapping=(*how, "-bind-to", "none", "-map-by", "slot"),
        binder=binder,
        notes=(note,),
    )


def _by_socket(host: Host, ranks: Ranks, here: int) -> Layout:
    """Return the layout of ranks that have cores of their own, in the order in which Open MPI maps and binds them."""
    sockets, cores = host.sockets, host.cores_per_socket
    per_socket = ranks.per_socket or math.ceil(here / sockets)
    if per_socket > cores:
        raise UsageError(
            f"--mpi-num-processes-per-socket is {per_socket}; allowed: 1 to {cores}, the cores of a socket.",
            "Ask for fewer ranks a socket, or leave it out.",
        )
    if here > per_socket * sockets:
        raise UsageError(
            f"{here} ranks on one machine are more than {per_socket} on each of its {sockets} sockets; "
            f"allowed: 1 to {per_socket * sockets}.",
            "Ask for fewer ranks, or for more with --mpi-num-processes-per-socket.",
        )
    each = cores // per_socket
    turns = [divmod(rank, per_socket) for rank in range(here)]
    left = cores - each * per_socket
    return _of_parts(
        host,
        ranks,
        cores_by_turn(host, turns, each),
        ("--map-by", "socket" if per_socket == 1 else f"ppr:{per_socket}:socket:pe={each}"),
        (f"{per_socket} ranks of {each} cores leave {left} of the {cores} of a socket unused.",) if left else (),
    )


def _of_parts(
    host: Host, ranks: Ranks, parts: Sequence[tuple[int, ...]], mapping: tuple[str, ...], notes: tuple[str, ...]
) -> Layout:
    """Return the layout of ranks with cores of their own; ``parts`` are those of each rank of a machine."""
    return Layout(
        cpus=tuple(cpu for part in parts for cpu in part),
        memory_nodes=tuple(sorted({cpu.node for cpu in host.cpus if any(cpu.id in part for part in parts)})),
        ranks=tuple(_with_siblings(host, parts[rank]) for rank in _places(ranks, len(parts))),
        cores_per_rank=len(parts[0]),
        mapping=mapping,
        notes=notes,
    )


def _places(ranks: Ranks, here: int) -> list[int]:
    """Return for each rank its number on its own machine; one machine is filled after the other."""
    slots = [machine.slots for machine in ranks.machines] or [here]
    return [place for count in slots for place in range(count)][: ranks.world_size]


def _with_siblings(host: Host, cpus: Sequence[int]) -> tuple[int, ...]:
    cores, allowed = {cpu.core for cpu in host.cpus if cpu.id in cpus}, set(host.allowed)
    return tuple(sorted(cpu.id for cpu in host.cpus if cpu.core in cores and cpu.id in allowed))


def machine_list(machines: Sequence[Machine]) -> str:
    return ",".join(f"{machine.name}:{machine.slots}" for machine in machines)
