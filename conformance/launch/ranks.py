"""How the ranks of one subject are started: by mpirun, by horovodrun, or by mpirun in a Slurm allocation."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from conformance.cases import Precision
from conformance.hardware.host import Host, cpu_list
from conformance.hardware.profile import Drive, Launcher
from conformance.launch import habana
from conformance.launch.groups import LAUNCH_VARIABLE, slurm_name
from conformance.launch.layout import Layout, Machine, Ranks, lay_out, machine_list, ranks_here
from conformance.launch.placement import Request
from conformance.launch.rules import Composed, allocator, environment, hpu_environment, thread_variables
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
    library_directories: Sequence[Path] | None = None,
    hpu: habana.HpuLaunch | None = None,
) -> Composed:
    """Return the launch of all ranks of one job; ``program`` is the mpirun or horovodrun to use.

    ``root`` tells whether the user is root, whom mpirun refuses unless told otherwise. ``hpu`` is for ranks on Gaudi.
    Raises UsageError for ranks that do not fit the machine.
    """
    layout = lay_out(host, drive, request, ranks, hpu)
    intra, thread_notes = _intra_threads(host, drive, request, ranks, layout)
    inter = request.num_inter_threads or drive.inter_op_threads or ranks.inter_op_threads or (intra if hpu else 1)
    rules = {**_device_rules(host, intra, ranks, layout, environ, hpu), **STALL}
    if ranks.launcher != "horovodrun":
        rules |= {**({} if hpu else YIELD), **(DEAD_CONNECTION if ranks.machines else {})}
    env, env_notes = _environment(subject_path, environ, rules, ranks, hpu)
    more, preload_notes = allocator(precision, request, hpu, environ, library_directories)
    env.update({**more, LAUNCH_VARIABLE: str(job_path)})
    subject = (str(python), "-m", "conformance.subject", str(job_path))
    if ranks.launcher == "horovodrun":
        argv = (*layout.binder, program, *_horovodrun(ranks), *subject)
    else:
        for_hpu = hpu is not None
        words = _mpirun_for_hpu(program, ranks, layout, root, environ) if for_hpu else _mpirun(ranks, layout, root)
        names = _passed_on(ranks, env, environ, rules, hpu)
        argv = (*layout.binder, program, *words, *(word for name in names for word in ("-x", name)), *subject)
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


def _hosts(ranks: Ranks) -> tuple[str, ...]:
    """Return the machine of each rank; nothing where Slurm chooses it, which has an order of its own."""
    names = [machine.name for machine in ranks.machines for _ in range(machine.slots)]
    return () if ranks.launcher == "srun" else tuple(names[: ranks.world_size])


def _intra_threads(
    host: Host, drive: Drive, request: Request, ranks: Ranks, layout: Layout
) -> tuple[int, tuple[str, ...]]:
    """Return the compute threads of one rank, and notes; only an explicit option may exceed its cores or its quota."""
    most, why = layout.cores_per_rank, f"the {layout.cores_per_rank} cores of a rank"
    here = ranks_here(ranks)
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


def _device_rules(
    host: Host, intra: int, ranks: Ranks, layout: Layout, environ: Mapping[str, str], hpu: habana.HpuLaunch | None
) -> dict[str, str]:
    if hpu is not None:
        return habana.variables(hpu, environ, ranks_here(ranks), bool(ranks.machines), ranks.network_interface)
    if layout.bound:
        return thread_variables(host, intra)
    return {**thread_variables(host, intra), "KMP_AFFINITY": "verbose,none"}  # compact would stack unbound ranks


def _environment(
    subject_path: Path, environ: Mapping[str, str], rules: Mapping[str, str], ranks: Ranks, hpu: habana.HpuLaunch | None
) -> tuple[dict[str, str | None], tuple[str, ...]]:
    if hpu is None:
        env, notes = environment(subject_path, environ, rules)
    else:
        habana.check_modules(environ, ranks_here(ranks))
        env, notes = hpu_environment(hpu, subject_path, environ, rules)
    if ranks.launcher != "horovodrun":
        # mpirun tags every write of a rank: lines must come whole, and do on the terminal that it gives to each.
        del env["PYTHONUNBUFFERED"]
        if "PYTHONUNBUFFERED" in environ:
            env["PYTHONUNBUFFERED"] = None
    return env, notes


def _passed_on(
    ranks: Ranks,
    env: Mapping[str, str | None],
    environ: Mapping[str, str],
    rules: Mapping[str, str],
    hpu: habana.HpuLaunch | None,
) -> tuple[str, ...]:
    """Return the variables that mpirun passes on to ranks: what the launch sets, and what it keeps of the user's."""
    users = (*rules, *(("LD_LIBRARY_PATH",) if ranks.machines else ()))
    own = (*YIELD, *DEAD_CONNECTION)  # mpirun's, which it passes on by itself
    names = [name for name, value in env.items() if value is not None and name not in own]
    names += dict.fromkeys(name for name in users if environ.get(name) and name not in (*names, *own))
    if hpu is None:
        return tuple(names)
    untouched = {name: value for name, value in environ.items() if name not in env}
    return habana.passed_on(names, untouched, bool(ranks.machines))


def _mpirun_for_hpu(
    program: str, ranks: Ranks, layout: Layout, root: bool, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the words of the recipe, and one more for several servers: their daemons take the network named, too."""
    named = ranks.launcher != "srun"  # in an allocation mpirun takes the machines from Slurm
    words = habana.mpirun_words(
        root=root,
        world_size=ranks.world_size,
        mapping=layout.mapping,
        servers=machine_list(ranks.machines) if named else "",
        interface=ranks.network_interface,
        ssh_port=ranks.ssh_port,
        prefix=None if Path(program).is_absolute() else environ.get("MPI_ROOT"),  # a path says as much
    )
    more = ("--mca", "oob_tcp_if_include", ranks.network_interface)
    return (*words, *(more if ranks.machines and named and ranks.network_interface else ()))


def _mpirun(ranks: Ranks, layout: Layout, root: bool) -> tuple[str, ...]:
    words = ["--allow-run-as-root"] if root else []
    words += ["-n", str(ranks.world_size), *layout.mapping, "--tag-output"]
    if ranks.machines and ranks.launcher != "srun":  # in an allocation mpirun takes the machines from Slurm
        words += ["-H", machine_list(ranks.machines)]
    if ranks.ssh_port is not None:
        words += ["--mca", "plm_rsh_args", f"-p {ranks.ssh_port}"]
    if ranks.network_interface is not None:
        for parameter in ("btl_tcp_if_include", "oob_tcp_if_include"):
            words += ["--mca", parameter, ranks.network_interface]
    return tuple(words)


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
        words += ["-H", machine_list(machines)]
    if interface is not None:
        words += ["--network-interface", interface]
    if ranks.ssh_port is not None:
        words += ["-p", str(ranks.ssh_port)]
    return tuple(words)


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
