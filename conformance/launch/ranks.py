"""How the ranks of one subject are started: by mpirun, by horovodrun, or by mpirun in a Slurm allocation.

The Intel model zoo's launcher (benchmarks/common/base_model_init.py) gives every rank the threads of a whole socket
less two, however many ranks share it, and binds all ranks to one NUMA node where a socket is asked for. Here ranks of a
socket share its cores out: a rank has ``cores of a socket // ranks of a socket`` of its own and as many threads, less
those that ``--reserve-cores`` keeps for the thread that communicates. The mapping is the recipe's, word for word:
``--map-by socket`` for a rank a socket, ``--map-by ppr:K:socket:pe=C//K`` for more.
"""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from conformance.cases import Precision
from conformance.errors import UsageError
from conformance.hardware.host import Host
from conformance.hardware.profile import Drive, Launcher
from conformance.launch.groups import LAUNCH_VARIABLE, slurm_name
from conformance.launch.placement import Request, candidates, cpu_list
from conformance.launch.rules import LIBRARY_DIRECTORIES, Composed, binding, environment, preload, thread_variables
from conformance.records import Launched

_ELASTIC_TIMEOUT_S = 60  # for the ranks that are left to find each other again

# Horovod tells whom it waits for, after three or four checks, before supervision ends ranks that stand still. It gives
# up itself later: by itself it waits for ever. What the first rank does alone while the others wait, as the proof of
# the precision, is under no other limit and takes minutes on a busy machine.
STALL = {"HOROVOD_STALL_CHECK_TIME_SECONDS": "10", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "600"}

# Horovod's thread asks the other ranks every millisecond, and Open MPI spins until they answer. With one core a rank,
# that takes a third of a step from the thread that computes, unless it yields.
YIELD = {"OMPI_MCA_mpi_yield_when_idle": "1"}

# mpirun takes 8 minutes to notice that the connection to another machine is dead, and its ranks wait as long. So it and
# its daemons there notice after 10 s and three probes 5 s apart, and end; user's values win, as for any variable.
DEAD_CONNECTION = {
    "OMPI_MCA_oob_tcp_keepalive_time": "10",
    "OMPI_MCA_oob_tcp_keepalive_intvl": "5",
    "OMPI_MCA_oob_tcp_keepalive_probes": "3",
}


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


def compose_ranks(
    program: str,
    python: str | Path,
    job_path: Path,
    subject_path: Path,
    log_path: Path,
    host: Host,
    drive: Drive,
    request: Request,
    ranks: Ranks,
    precision: Precision,
    environ: Mapping[str, str],
    root: bool,
    library_directories: Sequence[Path] = LIBRARY_DIRECTORIES,
) -> Composed:
    """Return the launch of all ranks of one job; ``program`` is the mpirun or horovodrun to use.

    ``root`` tells whether the user is root, whom mpirun refuses unless told otherwise. Raises UsageError for ranks that
    do not fit the machine.
    """
    layout = lay_out(host, drive, request, ranks)
    inter = request.num_inter_threads or drive.inter_op_threads or ranks.inter_op_threads or 1
    intra, thread_notes = _intra_threads(host, drive, request, ranks, layout)
    rules = STALL if layout.bound else {**STALL, "KMP_AFFINITY": "verbose,none"}  # compact would stack unbound ranks
    if ranks.launcher != "horovodrun":
        rules = {**rules, **YIELD, **(DEAD_CONNECTION if ranks.machines else {})}
    env, env_notes = environment(host, intra, subject_path, environ, rules)
    if ranks.launcher != "horovodrun":
        # mpirun tags every write of a rank: lines must come whole, and do on the terminal that it gives to each.
        del env["PYTHONUNBUFFERED"]
        if "PYTHONUNBUFFERED" in environ:
            env["PYTHONUNBUFFERED"] = None
    preloaded = precision == "int8" if request.tcmalloc is None else request.tcmalloc
    more, preload_notes = preload(library_directories, environ) if preloaded else ({}, ())
    env.update({**more, LAUNCH_VARIABLE: str(job_path)})
    subject = (str(python), "-m", "conformance.subject", str(job_path))
    if ranks.launcher == "horovodrun":
        argv = (*layout.binder, program, *_horovodrun(ranks), *subject)
    else:
        users = (*thread_variables(host, intra), *rules, *(("LD_LIBRARY_PATH",) if ranks.machines else ()))
        own = (*YIELD, *DEAD_CONNECTION)  # mpirun's, which it passes on by itself
        names = [name for name, value in env.items() if value is not None and name not in own]
        names += dict.fromkeys(name for name in users if environ.get(name) and name not in (*names, *own))
        argv = (*layout.binder, program, *_mpirun(ranks, layout, root, names), *subject)
    script = None
    if ranks.launcher == "srun":
        script = sbatch_script(argv, env, host, ranks, job_path, log_path)
        argv = ("sbatch", "--wait", str(job_path.with_suffix(".sbatch")))
    launched = Launched(
        argv=argv,
        env=env,
        cpus=layout.cpus,
        memory_nodes=layout.memory_nodes,
        inter_op_threads=inter,
        intra_op_threads=intra,
        ranks=layout.ranks,
        hosts=_hosts(ranks),
    )
    notes = (*layout.notes, *thread_notes, *env_notes, *preload_notes)
    return Composed(launched=launched, notes=notes, script=script)


def one_of(ranks: Ranks, host: Host) -> Ranks:
    """Return the launch of one rank by itself on as many cores as each of these has, and bound by mpirun."""
    per_socket = ranks.per_socket or math.ceil(_ranks_here(ranks) / host.sockets)
    return msgspec.structs.replace(
        ranks, world_size=1, per_socket=min(per_socket, host.cores_per_socket), launcher="mpirun", machines=()
    )


def lay_out(host: Host, drive: Drive, request: Request, ranks: Ranks) -> Layout:
    """Return which CPUs each rank gets; machines that are named are taken to be alike.

    Ranks are bound one by one where the whole machine may be used; where affinity, a cpuset or an option leaves a part
    of it, they share that part. Raises UsageError, with figures, for more ranks than cores, sockets or slots.
    """
    here = _ranks_here(ranks)
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
    return _by_socket(host, ranks, here)


def _ranks_here(ranks: Ranks) -> int:
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
    owned = [
        tuple(cpu.id for cpu in sorted(host.usable_cpus(socket), key=lambda cpu: (cpu.node, cpu.id)))
        for socket in sorted({cpu.socket for cpu in host.cpus})
    ]
    parts = [_part(owned[rank // per_socket], rank % per_socket, each) for rank in range(here)]
    left = cores - each * per_socket
    return Layout(
        cpus=tuple(cpu for part in parts for cpu in part),
        memory_nodes=tuple(sorted({cpu.node for cpu in host.cpus if any(cpu.id in part for part in parts)})),
        ranks=tuple(_with_siblings(host, parts[rank]) for rank in _places(ranks, here)),
        cores_per_rank=each,
        mapping=("--map-by", "socket" if per_socket == 1 else f"ppr:{per_socket}:socket:pe={each}"),
        notes=(f"{per_socket} ranks of {each} cores leave {left} of the {cores} of a socket unused.",) if left else (),
    )


def _part(cpus: tuple[int, ...], index: int, size: int) -> tuple[int, ...]:
    return cpus[index * size : (index + 1) * size]


def _places(ranks: Ranks, here: int) -> list[int]:
    """Return for each rank its number on its own machine; one machine is filled after the other."""
    slots = [machine.slots for machine in ranks.machines] or [here]
    return [place for count in slots for place in range(count)][: ranks.world_size]


def _hosts(ranks: Ranks) -> tuple[str, ...]:
    """Return the machine of each rank; nothing where Slurm chooses it, which has an order of its own."""
    names = [machine.name for machine in ranks.machines for _ in range(machine.slots)]
    return () if ranks.launcher == "srun" else tuple(names[: ranks.world_size])


def _with_siblings(host: Host, cpus: Sequence[int]) -> tuple[int, ...]:
    cores, allowed = {cpu.core for cpu in host.cpus if cpu.id in cpus}, set(host.allowed)
    return tuple(sorted(cpu.id for cpu in host.cpus if cpu.core in cores and cpu.id in allowed))


def _intra_threads(
    host: Host, drive: Drive, request: Request, ranks: Ranks, layout: Layout
) -> tuple[int, tuple[str, ...]]:
    """Return the compute threads of one rank, and notes; only an explicit option may exceed its cores or its quota."""
    most, why = layout.cores_per_rank, f"the {layout.cores_per_rank} cores of a rank"
    here = _ranks_here(ranks)
    if host.quota_cpus is not None and host.quota_cpus / here < most:
        most = max(1, math.floor(host.quota_cpus / here))
        why = f"{most} a rank by the cgroup's quota of {host.quota_cpus:g} CPUs"
    if request.num_intra_threads is not None:
        asked = request.num_intra_threads
        return asked, (f"--num-intra-threads {asked} is more than {why}.",) if asked > most else ()
    documented = drive.intra_op_threads or ranks.intra_op_threads
    wanted = documented or max(1, layout.cores_per_rank - ranks.reserve_cores)
    notes = [f"{wanted} intra-op threads are limited to {why}."] if wanted > most else []
    if not documented and ranks.reserve_cores >= layout.cores_per_rank:
        notes.append(f"--reserve-cores {ranks.reserve_cores} leaves none of {why}: a rank has 1 thread.")
    return min(wanted, most), tuple(notes)


def _mpirun(ranks: Ranks, layout: Layout, root: bool, names: Sequence[str]) -> tuple[str, ...]:
    words = ["--allow-run-as-root"] if root else []
    words += ["-n", str(ranks.world_size), *layout.mapping, "--tag-output"]
    if ranks.machines and ranks.launcher != "srun":  # in an allocation mpirun takes the machines from Slurm
        words += ["-H", _machine_list(ranks.machines)]
    if ranks.ssh_port is not None:
        words += ["--mca", "plm_rsh_args", f"-p {ranks.ssh_port}"]
    if ranks.network_interface is not None:
        for parameter in ("btl_tcp_if_include", "oob_tcp_if_include"):
            words += ["--mca", parameter, ranks.network_interface]
    return (*words, *(word for name in names for word in ("-x", name)))


def _horovodrun(ranks: Ranks) -> tuple[str, ...]:
    """Return the options of horovodrun, which passes on the whole environment by itself."""
    words = ["-np", str(ranks.world_size), "--gloo"]
    machines, interface = ranks.machines, ranks.network_interface
    if ranks.elastic:
        words += ["--min-np", "1", "--max-np", str(ranks.world_size), "--elastic-timeout", str(_ELASTIC_TIMEOUT_S)]
        # A rank that is lost takes all others of its machine with it: here each is given one by another spelling of the
        # same address. The interface has to be named, or horovodrun waits for a second machine.
        spelled = (Machine(f"127.0.0.{'0' * rank}1", 1) for rank in range(ranks.world_size))
        interface = interface or (None if machines else "lo")
        machines = machines or tuple(spelled)
    if machines:
        words += ["-H", _machine_list(machines)]
    if interface is not None:
        words += ["--network-interface", interface]
    if ranks.ssh_port is not None:
        words += ["-p", str(ranks.ssh_port)]
    return tuple(words)


def _machine_list(machines: Sequence[Machine]) -> str:
    return ",".join(f"{machine.name}:{machine.slots}" for machine in machines)


def sbatch_script(
    argv: Sequence[str], env: Mapping[str, str | None], host: Host, ranks: Ranks, job_path: Path, log_path: Path
) -> str:
    """Return the script of a Slurm job whose one step is mpirun, which takes machines and slots from the allocation.

    Tasks of ``srun`` would need a rendezvous server for Gloo or a PMI plugin that fits Open MPI; mpirun needs neither.
    """
    slots = max(machine.slots for machine in ranks.machines) if ranks.machines else ranks.world_size
    options = {
        "job-name": slurm_name(str(job_path)),
        "nodes": len(ranks.machines) or 1,
        **({"nodelist": ",".join(machine.name for machine in ranks.machines)} if ranks.machines else {}),
        "ntasks": ranks.world_size,
        "ntasks-per-node": slots,
        "cpus-per-task": max(1, len(host.cpus) // slots),
        "open-mode": "append",
        "output": log_path,
    }
    if ranks.oversubscribe:
        options["overcommit"] = ""
    lines = [f"#SBATCH --{name}={value}" if value != "" else f"#SBATCH --{name}" for name, value in options.items()]
    lines.append("#SBATCH --exclusive")
    lines += [f"unset {k}" if value is None else f"export {k}={shlex.quote(value)}" for k, value in env.items()]
    return "\n".join(("#!/bin/sh", *lines, f"exec {shlex.join(argv)}", ""))


def find_launcher(launcher: Launcher, python: str | Path) -> str:
    """Return mpirun or horovodrun of the stack, else its name, by which PATH finds it or an error tells of it."""
    name = "horovodrun" if launcher == "horovodrun" else "mpirun"
    beside = Path(python).parent / name
    return str(beside) if beside.exists() else name


def default_launcher(python: str | Path) -> Launcher:
    """Return mpirun where the stack or the system has it, else horovodrun where the stack has that."""
    if Path(find_launcher("mpirun", python)).is_absolute() or shutil.which("mpirun"):
        return "mpirun"
    return "horovodrun" if Path(find_launcher("horovodrun", python)).is_absolute() else "mpirun"


def misplaced(launched: Launched, affinities: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Say which ranks could not use what the launch gave them, or could use more; nothing where all is as planned.

    ``affinities`` holds for each rank, in their order, the logical CPUs that it told.
    """
    planned = launched.ranks
    if len(affinities) != len(planned):
        return (f"{len(planned)} ranks were launched, and {len(affinities)} told where they ran.",)
    return tuple(
        f"Rank {rank} could use CPUs {cpu_list(found)}; the launch gave it {cpu_list(given)}."
        for rank, (given, found) in enumerate(zip(planned, affinities, strict=True))
        if set(given) != set(found)
    )


def recipe(host: Host, request: Request, ranks: Ranks, intra: int) -> tuple[str, ...]:
    """Return in a sentence what the Intel model zoo's own launcher starts for ranks that mpirun starts on one machine.

    Source: base_model_init.py of v1.6.1, lines 58-70, and ``set_num_inter_intra_threads``.
    """
    if (
        ranks.launcher != "mpirun" or ranks.machines or ranks.inter_op_threads
    ):  # with these, its command had no launcher
        return ()
    cores, per_socket = host.cores_per_socket, ranks.per_socket or 1
    each = cores // per_socket
    mapping = f"ppr:{per_socket}:socket:pe={each} --cpus-per-proc {each}" if per_socket > 1 else "socket"
    threads = request.num_intra_threads or request.num_cores or cores - 2
    line = f"mpirun --allow-run-as-root -n {ranks.world_size} --map-by {mapping} PYTHON SCRIPT"
    told = f"The recipe's launcher starts `{line}`, each rank with 1 inter-op and {threads} intra-op threads"
    return (f"{told}." if threads == intra else f"{told}; here a rank has {intra}.",)
