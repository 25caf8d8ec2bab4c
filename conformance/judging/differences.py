"""What differs between two runs of a case, in sentences: software first, then the machine, then the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conformance.hardware.host import cpu_list
from conformance.records import Record, Run
from conformance.stacks.compatibility import TENSORFLOWS

# What a subject said of what it had loaded, in the words for it.
LOADED = {
    "onednn": "oneDNN",
    "onednn_runtime": "oneDNN runtime",
    "onednn_isa": "oneDNN instruction set",
    "plugins": "loaded plugins",
}
# What else a stack says of itself, where it is one value.
OF_A_STACK = {
    "plugins": "plugins",
    "synapse": "SynapseAI",
    "driver": "driver of the accelerators",
    "mpi": "Open MPI",
    "horovod_built": "Horovod built for",
}
OWN_VARIABLES = ("PYTHONPATH", "CONFORMANCE_LAUNCH")  # they name the directory of the run
SIDE_BY_SIDE = ("throughput", "latency")  # the modes in which several instances run at once
ABSENT = "none"


def differences(base: Run, base_record: Record, new: Run, new_record: Record) -> tuple[str, ...]:
    """Return what differs between a case in one run and in another, e.g. ``TensorFlow 2.15.1 -> 2.21.0``.

    What neither run says is no difference; what only one says is.
    """
    one, other = facts(base, base_record), facts(new, new_record)
    names = [*one, *(name for name in other if name not in one)]
    told = [
        _changed(name, one.get(name, ""), other.get(name, ""))
        for name in sorted(names, key=_rank)
        if one.get(name, ABSENT) != other.get(name, ABSENT)
    ]
    return (*told, *_other_files(_stack(base, base_record), _stack(new, new_record)))


def facts(run: Run, record: Record) -> dict[str, str]:
    """Return what may differ between two runs of a case, by what it is called."""
    stack = _stack(run, record)
    packages: Mapping[str, str] = stack.get("packages", {})
    loaded = next((r.loaded for r in run.records if r.stack == record.stack and r.loaded), {})
    version = loaded.get("tensorflow") or next((packages[name] for name in TENSORFLOWS if name in packages), "")
    found = {
        "TensorFlow": version,
        **{words: loaded.get(name, "") for name, words in LOADED.items()},
        **{words: _words(stack.get(name)) for name, words in OF_A_STACK.items()},
        "Python": str(stack.get("python", "")),
        **{f"package {name}": number for name, number in packages.items() if name not in TENSORFLOWS},
        **{f"machine's {name.replace('_', ' ')}": _words(value) for name, value in run.header.host.items()},
        "profile": record.profile,
        **_launch(run, record),
        "batch size": str(record.batch_size or ""),
        **{f"{name}": (artefact.sha256 or "")[:12] for name, artefact in record.inputs.items()},
        "harness": run.header.harness,
    }
    return {name: value for name, value in found.items() if value}


def same_machine(base: Run, new: Run) -> bool:
    return base.machine == new.machine


def machine_differences(base: Run, new: Run) -> str:
    """Return in words how one machine is not the other."""
    one, other = base.machine, new.machine
    told = [
        _changed(name.replace("_", " "), _words(one.get(name)), _words(other.get(name)))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]
    return "; ".join(told)


def _changed(name: str, one: str, other: str) -> str:
    """Return what a value was and is; of the flags of a CPU only those that came and went.

    >>> _changed("flags", "avx avx2 fma", "avx avx2 amx_int8")
    'flags: without fma, with amx_int8'
    """
    if not name.endswith("flags"):
        return f"{name} {one or ABSENT} -> {other or ABSENT}"
    gone, come = ([flag for flag in a.split() if flag not in b.split()] for a, b in ((one, other), (other, one)))
    told = (f"{word} {' '.join(flags)}" for word, flags in (("without", gone), ("with", come)) if flags)
    return f"{name}: {', '.join(told)}"


def _stack(run: Run, record: Record) -> dict[str, Any]:
    return run.header.stacks.get(record.stack, {})


def _launch(run: Run, record: Record) -> dict[str, str]:
    """Return the variables and threads that the subject was started with, those of the session where it says none."""
    if not record.launched:
        return {f"variable {name}": value for name, value in run.header.environment.items()}
    launched = record.launched[0]
    together = record.launched if record.mode in SIDE_BY_SIDE else record.launched[:1]  # the rest ran at other times
    variables = {**run.header.environment, **launched.env}
    told = {f"variable {name}": value or "" for name, value in variables.items() if name not in OWN_VARIABLES}
    return {
        **told,
        "intra-op threads": str(launched.intra_op_threads),
        "inter-op threads": str(launched.inter_op_threads),
        "instances": str(len(together)),
        "cores": str(len(launched.cpus)),
        "CPUs": " and ".join(cpu_list(one.cpus) for one in together if one.cpus),
        "memory nodes": " and ".join(cpu_list(one.memory_nodes) for one in together if one.memory_nodes),
        "ranks": str(len(launched.ranks) or 1),
    }


def _other_files(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return which packages of the same version hold other files."""
    versions, others = base.get("packages", {}), new.get("packages", {})
    hashes, other_hashes = base.get("hashes", {}), new.get("hashes", {})
    return [
        f"package {name} {version} has other files: {hashes[name][:12]} -> {other_hashes[name][:12]}"
        for name, version in versions.items()
        if others.get(name) == version and hashes.get(name) and other_hashes.get(name)
        if hashes[name] != other_hashes[name]
    ]


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _rank(name: str) -> int:
    """Return where a difference is told: TensorFlow, oneDNN and plugins, Python and packages, variables, the rest."""
    first = ["TensorFlow", *LOADED.values(), *OF_A_STACK.values(), "Python"]
    if name in first:
        return first.index(name)
    kinds = ("package ", "variable ", "machine's ")
    return next((100 + i for i, kind in enumerate(kinds) if name.startswith(kind)), 200)
