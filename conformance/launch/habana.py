"""A launch on Gaudi: what each rank's environment holds, which cores a rank gets, and mpirun's words.

Sources: README.md of ResNeXt in HabanaAI/Model-References 1.6.1 and what its ``imagenet_main.py`` sets; docs.habana.ai,
"Horovod-based Scaling of Gaudi on TensorFlow" (1.8.0), "Gaudi-to-process Assignment" (1.10.0) and "TensorFlow Mixed
Precision Training on Gaudi"; ``multinode_helpers.py`` and the strings of ``habana_device.so`` in the wheel of
habana-tensorflow 1.6.1. None of it was ever started on a Gaudi.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from conformance.errors import UsageError
from conformance.hardware.host import Host
from conformance.launch.placement import cores_by_turn

JEMALLOC_DIRECTORIES = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"))
JEMALLOC_NAMES = ("libjemalloc.so.1", "libjemalloc.so.2")
INTERFACES = Path("/sys/class/net")

# What the recipe passes on to ranks on other servers, in its order.
PASSED_ON = ("GC_KERNEL_PATH", "HABANA_LOGS", "PYTHONPATH", "HCCL_SOCKET_IFNAME")
# What else of the user's is, by a part of its name (from the repository's central/multi_node_utils.py): ranks on
# other servers find what those here do.
_PASSED_ON_TOO = (
    "HABANA", "HBN", "HCCL", "HCL", "GC_", "SYN", "TPC_", "AEON", "TF_", "HOROVOD", "LOG_LEVEL", "ENABLE_",
)  # fmt: skip
_NOT_PASSED_ON = ("TF_CONFORMANCE_", "TF_CLI_", "TF_VAR_")  # the harness's own, and Terraform's

_CONVERSION = "TF_BF16_CONVERSION"
_MODULES = "HABANA_VISIBLE_MODULES"
_INTERFACE = "HCCL_SOCKET_IFNAME"


class HpuLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """What a launch on Gaudi needs to know beside what any launch does.

    ``modules`` are the numbers of the devices of one server. ``bf16`` is "full" or the path of a JSON file that says
    which operations of the fp32 graph are converted; None converts none. ``notes`` are of that file.
    """

    modules: tuple[int, ...]
    bf16: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        return len(self.modules)


class Bf16Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file for TF_BF16_CONVERSION: types of operations that are converted always, or beside ones that are.

    Exceptions are pairs of a regular expression for names and a type of operation, "" for any. The first list is
    ``allow_list`` in the documentation, and ``allowlist`` in the library of 1.6.1 and in the files of the repository.
    """

    allow_list: tuple[str, ...] = ()
    allowlist: tuple[str, ...] = ()
    conditional_list: tuple[str, ...] = ()
    strict_conditional_list: tuple[str, ...] = ()
    non_convertible_exceptions: tuple[tuple[str, str], ...] = ()
    convertible_exceptions: tuple[tuple[str, str], ...] = ()


def check_bf16_config(value: str) -> str:
    """Return "full", or the absolute path of a file that can be what is asked for; raises UsageError for any other."""
    if value == "full":
        return value
    _read(value)
    return str(Path(value).absolute())


def bf16_notes(value: str) -> tuple[str, ...]:
    """Say of a file what the library of 1.6.1 would pass over; raises UsageError as check_bf16_config does."""
    if value == "full" or not _read(value).allow_list:
        return ()
    return (f"{value} has an 'allow_list'; habana-tensorflow 1.6.1 knows the name 'allowlist' only.",)


def _read(value: str) -> Bf16Config:
    known = ", ".join(field.name for field in msgspec.structs.fields(Bf16Config))
    hint = f"Give --bf16-config full, or a JSON file with lists under {known}."
    try:
        found = msgspec.json.decode(Path(value).read_bytes(), type=Bf16Config)
    except OSError as error:
        raise UsageError(f"--bf16-config {value!r} cannot be read: {error.strerror}.", hint) from None
    except msgspec.DecodeError as error:  # wrong JSON, or right JSON of another shape
        raise UsageError(f"--bf16-config {value!r} is no such file: {error}.", hint) from None
    if found.allow_list and found.allowlist:
        raise UsageError(f"--bf16-config {value!r} has both an 'allow_list' and an 'allowlist'.", "Leave one of them.")
    if not (found.allow_list or found.allowlist or found.convertible_exceptions):
        told = f"--bf16-config {value!r} converts nothing: its allow_list and convertible_exceptions are empty."
        raise UsageError(told, hint)
    return found


def variables(
    hpu: HpuLaunch,
    environ: Mapping[str, str],
    here: int | None = None,
    several_servers: bool = False,
    network_interface: str | None = None,
) -> dict[str, str]:
    """Return what is set where the user left it unset; ``here`` are the ranks of a server, None without mpirun.

    A rank takes the module in the list at its place among the ranks of its server. Where several servers join, the list
    has to name all of a server. A process by itself takes the first that is free, and so do ranks in a container that
    was given some of the devices: there modules may have other numbers.
    """
    rules = {_CONVERSION: hpu.bf16} if hpu.bf16 else {}
    rules |= {
        "TF_ENABLE_DYNAMIC_SHAPES": "false",
        "TF_DISABLE_MKL": "1",
        "TF_ALLOW_CONTROL_EDGES_IN_HABANA_OPS": "1",
    }
    if here is not None and environ.get("HABANA_VISIBLE_DEVICES", "all") == "all":
        rules[_MODULES] = ",".join(map(str, hpu.modules if several_servers else hpu.modules[:here]))
    interface = interface_of(network_interface, {})
    return {**rules, _INTERFACE: interface} if interface else rules


def interface_of(network_interface: str | None, environ: Mapping[str, str]) -> str | None:
    """Return how the names of interfaces begin that HCCL may take: the user's word, else the network's interface."""
    named = network_interface if network_interface and "/" not in network_interface else None
    return environ.get(_INTERFACE) or named


def withheld(hpu: HpuLaunch, environ: Mapping[str, str]) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Return what of the user's environment would make the case another one, as None, and say so."""
    if hpu.bf16 or not environ.get(_CONVERSION):
        return {}, ()
    told = f"{_CONVERSION}={environ[_CONVERSION]} of your environment is not passed on: the case is fp32."
    return {_CONVERSION: None}, (told,)


def check_modules(environ: Mapping[str, str], here: int) -> None:
    """Raise UsageError where the user's environment leaves fewer devices than there are ranks on a server."""
    module = environ.get("HLS_MODULE_ID")
    if module and here > 1:
        raise UsageError(f"HLS_MODULE_ID={module} of your environment gives one Gaudi to {here} ranks.", "Unset it.")
    value = environ.get(_MODULES)
    if not value:
        return
    words = value.split(",")
    numbers = {int(word) for word in words if word.isascii() and word.isdecimal()}
    if len(numbers) < len(words):
        told = f"{_MODULES}={value!r} of your environment is no list of different module numbers."
        raise UsageError(told, f"Unset it, or write {_MODULES}={','.join(map(str, range(here)))}.")
    if len(numbers) < here:
        told = f"{_MODULES}={value} of your environment leaves {len(numbers)} Gaudi to {here} ranks."
        raise UsageError(told, f"Unset it, or ask for --mpi-num-processes {len(numbers)}.")


def jemalloc(
    environ: Mapping[str, str], directories: Sequence[Path] | None = None
) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Return LD_PRELOAD with jemalloc before what the user preloads; without one, or beside another malloc, a note."""
    users = environ.get("LD_PRELOAD")
    if users and "malloc" in users:
        told = f"LD_PRELOAD={users} of your environment is kept; the recipe preloads jemalloc."
        return {}, () if "jemalloc" in users else (told,)
    places = JEMALLOC_DIRECTORIES if directories is None else directories
    found = next((path for folder in places for name in JEMALLOC_NAMES if (path := folder / name).exists()), None)
    if found is None:
        told = f"No {' or '.join(JEMALLOC_NAMES)} in {', '.join(map(str, places))}: the system's malloc is used"
        return {}, (f"{told} (apt install libjemalloc2).",)
    return {"LD_PRELOAD": f"{found}:{users}" if users else str(found)}, ()


def processing_elements(logical_cpus: int, cores: int, ranks: int, devices: int) -> tuple[int, tuple[str, ...]]:
    """Return how many cores a rank is bound to, at least one, and where the two documented formulas differ, a note.

    The documentation divides the physical cores of a server by its devices. ``central/training_run_config.py`` of the
    repository divides its logical CPUs by the ranks and by two: the same with two threads a core and a rank for each
    device. mpirun counts cores here, so the documentation's is taken.
    """
    documented, of_repository = cores // devices, logical_cpus // ranks // 2
    told: tuple[str, ...] = ()
    if documented != of_repository:
        told = (
            f"PE is {max(1, documented)}: the documentation divides {cores} cores by {devices} Gaudi; the repository's "
            f"helper would divide {logical_cpus} logical CPUs by {ranks} ranks and by two threads a core, to "
            f"{of_repository}, and mpirun binds to cores.",
        )
    return max(1, documented), told


def place(host: Host, here: int, hpu: HpuLaunch) -> tuple[int, tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Return the cores of a rank, for each rank the first logical CPU of its cores, and notes.

    ``--map-by socket:PE=n`` deals ranks out to the sockets in turn, and ranks of a socket take its cores in order.
    Raises UsageError where a socket has less cores than its ranks are to get.
    """
    sockets = sorted({cpu.socket for cpu in host.cpus})
    cores = len({cpu.core for cpu in host.cpus})
    each, notes = processing_elements(len(host.cpus), cores, here, hpu.devices)
    most = math.ceil(here / len(sockets))
    if most * each > host.cores_per_socket:
        raise UsageError(
            f"{most} ranks of {each} cores (PE={each}) on one socket are more than its {host.cores_per_socket} cores.",
            "Ask for fewer ranks, or let ranks share cores with --oversubscribe.",
        )
    turns = [(rank % len(sockets), rank // len(sockets)) for rank in range(here)]
    return each, cores_by_turn(host, turns, each), notes


def require_devices(here: int, hpu: HpuLaunch) -> tuple[str, ...]:
    """Raise UsageError for more ranks on a server than devices, and note a number that the documentation leaves out."""
    if here > hpu.devices:
        raise UsageError(
            f"{here} ranks on one server are more than its {hpu.devices} Gaudi; allowed: 1 to {hpu.devices}.",
            "Ask for fewer ranks, or name more servers with their Gaudi: --hosts h1:8,h2:8.",
        )
    if here in (1, 2, 4, hpu.devices):
        return ()
    return (f"{here} of {hpu.devices} Gaudi: of a part of a server, the documentation supports 2 and 4 only.",)


def passed_on(names: Iterable[str], environ: Mapping[str, str], several_servers: bool) -> tuple[str, ...]:
    """Return the variables for mpirun's -x: those that the launch sets, in the recipe's order, and more for others.

    mpirun passes the environment on to this server's ranks by itself, but not to those of other servers.
    """
    wanted = dict.fromkeys(names)
    if several_servers:
        of_recipe = [name for name in (*PASSED_ON, "LD_PRELOAD") if environ.get(name)]
        wanted |= dict.fromkeys(of_recipe)
        users = (name for name, value in environ.items() if value and not name.startswith(_NOT_PASSED_ON))
        wanted |= dict.fromkeys(sorted(name for name in users if any(part in name for part in _PASSED_ON_TOO)))
    return (*(name for name in PASSED_ON if name in wanted), *(name for name in wanted if name not in PASSED_ON))


def mpirun_words(
    *,
    root: bool,
    world_size: int,
    mapping: Sequence[str],
    servers: str = "",
    interface: str | None = None,
    ssh_port: int | None = None,
    prefix: str | None = None,
    output: str | None = None,
) -> tuple[str, ...]:
    """Return mpirun's options in the order of the recipe, which has one for one server and one for several.

    ``servers`` is the value of -H, ``prefix`` where Open MPI is installed on them. ``output`` makes a file of each
    rank's output on its own server: only the recipe's command has it. A launch of the harness has the same lines, by
    rank, in its one log, and collects no files from elsewhere. Without these files Open MPI 4.1.8 merges no streams.
    """
    words = ["--allow-run-as-root"] if root else []
    tags = ["--tag-output", "--merge-stderr-to-stdout", *(("--output-filename", output) if output else ())]
    if not servers:
        return (*words, *tags, *mapping, "-np", str(world_size))
    if ssh_port is not None:
        words += ["--mca", "plm_rsh_args", f"-p{ssh_port}"]
    words += [*mapping, "-np", str(world_size)]
    if interface is not None:
        words += ["--mca", "btl_tcp_if_include", interface]
    return (*words, *tags, *(("--prefix", prefix) if prefix else ()), "-H", servers)


def check_interface(prefix: str, directory: Path = INTERFACES) -> tuple[str, ...]:
    """Check HCCL_SOCKET_IFNAME, the beginning of the names of interfaces that HCCL may take, on this machine.

    Raises UsageError where no interface has such a name, or all that have are down; where some are, they are noted.
    """
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    fitting = [name for name in names if name.startswith(prefix)]
    if not fitting:
        told = f"{_INTERFACE} is {prefix!r}, and no network interface here begins so; there are {', '.join(names)}."
        raise UsageError(told, "Name one of them with --network-interface.")
    down = [name for name in fitting if _state(directory / name) not in ("up", "unknown")]  # loopback says unknown
    named = f"{_INTERFACE} is {prefix!r}, and {', '.join(down)} is down"
    if len(down) == len(fitting):
        up = [name for name in names if _state(directory / name) == "up"]
        hint = f"ip link set {down[0]} up, or name another with --network-interface."
        raise UsageError(f"{named}; up are {', '.join(up) or 'none'}.", hint)
    return (f"{named}.",) if down else ()


def _state(interface: Path) -> str:
    try:
        return (interface / "operstate").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
