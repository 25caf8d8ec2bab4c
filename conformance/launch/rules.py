"""How a placed case is started: threads, environment and binding, composed to one launch.

The rules are those of the Intel model zoo's launcher (benchmarks/common/base_model_init.py),
with sockets and NUMA nodes kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

import conformance
from conformance.cases import Precision
from conformance.errors import HarnessFault
from conformance.hardware.host import Host, cpu_list
from conformance.hardware.profile import Drive
from conformance.launch import habana
from conformance.launch.placement import Placement, Request
from conformance.records import Launched

LIBRARY_DIRECTORIES = (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/lib/x86_64-linux-gnu"))


class Composed(msgspec.Struct, frozen=True, kw_only=True):
    """A launch, and what a reader of its numbers ought to know about how it came to be.

    ``script`` is what the launch submits to Slurm, the last word of its argv the file that it is written to.
    """

    launched: Launched
    notes: tuple[str, ...]
    script: str | None = None


def compose(
    python: str | Path,
    job_path: Path,
    subject_path: Path,
    placement: Placement,
    host: Host,
    drive: Drive,
    request: Request,
    precision: Precision,
    environ: Mapping[str, str],
    library_directories: Sequence[Path] | None = None,
    hpu: habana.HpuLaunch | None = None,
) -> Composed:
    """Return the launch of one subject; ``environ`` is the user's, and is only read."""
    intra, thread_notes = intra_threads(host, placement, drive, request)
    inter = inter_threads(host, placement, drive, request)
    if hpu is None:
        env, env_notes = environment(subject_path, environ, thread_variables(host, intra))
    else:
        env, env_notes = hpu_environment(hpu, subject_path, environ, habana.variables(hpu, environ))
        inter = request.num_inter_threads or drive.inter_op_threads or intra
    more, preload_notes = allocator(precision, request, hpu, environ, library_directories)
    launched = Launched(
        argv=(*binding(host, placement), str(python), "-m", "conformance.subject", str(job_path)),
        env={**env, **more},
        cpus=placement.cpus,
        memory_nodes=placement.memory_nodes,
        inter_op_threads=inter,
        intra_op_threads=intra,
    )
    return Composed(launched=launched, notes=(*placement.notes, *thread_notes, *env_notes, *preload_notes))


def inter_threads(host: Host, placement: Placement, drive: Drive, request: Request) -> int:
    """Return one thread for each socket of the placement, and one for an instance of several."""
    sockets = {cpu.socket for cpu in host.cpus if cpu.id in placement.cpus}
    rule = 1 if request.num_instances > 1 else len(sockets)
    return request.num_inter_threads or drive.inter_op_threads or rule


def intra_threads(host: Host, placement: Placement, drive: Drive, request: Request) -> tuple[int, tuple[str, ...]]:
    """Return one thread for each core, and notes; only an explicit option may exceed cores or quota.

    Instances share a cgroup's quota evenly.
    """
    cores = most = len(placement.cpus)
    why = f"the {cores} cores of the placement"
    if host.quota_cpus is not None and host.quota_cpus / request.num_instances < cores:
        most = max(1, math.floor(host.quota_cpus / request.num_instances))
        why = f"{most} by the cgroup's quota of {host.quota_cpus:g} CPUs"
    if request.num_intra_threads is not None:
        asked = request.num_intra_threads
        return asked, (f"--num-intra-threads {asked} is more than {why}.",) if asked > most else ()
    wanted = drive.intra_op_threads or cores
    return min(wanted, most), (f"{wanted} intra-op threads are limited to {why}.",) if wanted > most else ()


def environment(
    subject_path: Path, environ: Mapping[str, str], rules: Mapping[str, str]
) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Return the variables that a launch sets or unsets (None), and what it keeps of the user's.

    ``rules`` are what is set where the user left it unset or empty.
    """
    env: dict[str, str | None] = {
        "PYTHONPATH": str(subject_path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
    }
    if "PYTHONHOME" in environ:  # it is another interpreter's home
        env["PYTHONHOME"] = None
    env.update((name, value) for name, value in rules.items() if not environ.get(name))
    kept = tuple(
        f"{name}={environ[name]} of your environment is kept; the rule is {value}."
        for name, value in rules.items()
        if environ.get(name, "") not in ("", value)
    )
    if environ.get("PYTHONPATH"):
        kept += (f"PYTHONPATH={environ['PYTHONPATH']} of your environment is not passed to the subject.",)
    return env, kept


def hpu_environment(
    hpu: habana.HpuLaunch, subject_path: Path, environ: Mapping[str, str], rules: Mapping[str, str]
) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Return the same for a launch on Gaudi, which takes more of the user's: Habana's own setup gives PYTHONPATH the
    directory of its media libraries. oneDNN and OpenMP compute nothing here, and get no rules.
    """
    env, kept = environment(subject_path, {**environ, "PYTHONPATH": ""}, rules)
    unset, withheld = habana.withheld(hpu, environ)
    users = environ.get("PYTHONPATH")
    if users:
        env["PYTHONPATH"] = f"{subject_path}:{users}"
    return {**env, **unset}, (*kept, *withheld, *hpu.notes)


def binding(host: Host, placement: Placement) -> tuple[str, ...]:
    """Return the command that binds a subject: none when the placement is all there is to use."""
    usable = {cpu.id for cpu in host.usable_cpus()}
    if usable == set(placement.cpus) and placement.memory_nodes == host.nodes:
        return ()
    cpus, nodes = cpu_list(placement.cpus), ",".join(map(str, placement.memory_nodes))
    if len(host.nodes) == 1:
        return ("taskset", "--cpu-list", cpus)
    cores = f"--cpunodebind={nodes}" if placement.whole_nodes else f"--physcpubind={cpus}"
    return ("numactl", cores, f"--membind={nodes}")


def subject_path(directory: Path) -> Path:
    """Make the directory for PYTHONPATH: a link to this package, and nothing else of the host's.

    Raises HarnessFault when the directory cannot be written.
    """
    path = directory.absolute() / "subject-path"
    package = Path(conformance.__file__).resolve().parent
    link = path / "conformance"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() and link.resolve() != package:
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(package, target_is_directory=True)
    except FileExistsError:
        if link.resolve() != package:  # another worker may have made it at the same moment
            raise HarnessFault(f"{str(link)!r} is no link to {str(package)!r}.", f"Remove {link}.") from None
    except OSError as error:
        raise HarnessFault(f"{str(path)!r} cannot be made: {error}.", "Choose a directory to write to.") from None
    return path


def thread_variables(host: Host, intra: int) -> dict[str, str]:
    """Return what oneDNN, OpenMP and TensorFlow on a CPU are told."""
    order = "compact,1,0" if host.threads_per_core > 1 else "compact"
    return {
        "OMP_NUM_THREADS": str(intra),
        "KMP_AFFINITY": f"granularity=fine,verbose,{order}",
        "KMP_BLOCKTIME": "1",
        "KMP_SETTINGS": "1",
        "TF_ENABLE_ONEDNN_OPTS": "1",
    }


def allocator(
    precision: Precision,
    request: Request,
    hpu: habana.HpuLaunch | None,
    environ: Mapping[str, str],
    directories: Sequence[Path] | None,
) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Return LD_PRELOAD for the malloc of the recipe, and notes: jemalloc's on Gaudi, tcmalloc's for int8.

    ``directories`` are where it is looked for, None for those of the recipe.
    """
    if hpu is not None and not request.tcmalloc:
        return habana.jemalloc(environ, directories)
    preloaded = precision == "int8" if request.tcmalloc is None else request.tcmalloc
    return preload(LIBRARY_DIRECTORIES if directories is None else directories, environ) if preloaded else ({}, ())


def preload(directories: Sequence[Path], environ: Mapping[str, str]) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Return LD_PRELOAD with tcmalloc before what the user preloads; without tcmalloc, a note."""
    names = ("libtcmalloc.so*", "libtcmalloc_minimal.so*")
    found = [path for name in names for folder in directories for path in sorted(folder.glob(name))]
    if not found:
        places = ", ".join(map(str, directories))
        return {}, (f"No tcmalloc in {places}: the system's malloc is used (apt install google-perftools).",)
    users = environ.get("LD_PRELOAD")
    return {"LD_PRELOAD": f"{found[0]}:{users}" if users else str(found[0])}, ()
