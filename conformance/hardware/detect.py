"""From what the kernel and lscpu print to a Host: pure functions of text, and one that reads this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from conformance.errors import CannotRun, HarnessFault
from conformance.hardware import cgroup
from conformance.hardware.habana import detect_accelerators
from conformance.hardware.host import Cpu, Fault, Host, parse_cpu_list
from conformance.hardware.isa import ISA

_COMPARE = "Run `lscpu` and compare; report what it prints."
_OLD_NAMES = {"CPU socket(s)": "Socket(s)"}  # util-linux before 2.19


def parse_lscpu(text: str) -> dict[str, str]:
    """Return lscpu's fields by name, from its plain output of any age or from ``lscpu -J``.

    Names are matched whole: newer versions print ``CPU(s) scaling MHz`` beside ``CPU(s)``. Of a
    field that is repeated, as for each kind of core, the first counts. Raises HarnessFault for JSON
    that is not lscpu's.
    """
    fields: dict[str, str] = {}
    for name, value in _pairs_of_json(text) if text.lstrip().startswith("{") else _pairs(text):
        if value:
            fields.setdefault(_OLD_NAMES.get(name, name), value)
    return fields


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()


def _pairs_of_json(text: str) -> list[tuple[str, str]]:
    try:
        return list(_flattened(json.loads(text)["lscpu"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarnessFault(f"The output of `lscpu -J` cannot be read: {error!r}.", _COMPARE) from None


def _flattened(entries: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    for entry in entries:
        if entry.get("data") is not None:
            yield entry["field"].strip().removesuffix(":"), str(entry["data"])
        yield from _flattened(entry.get("children", ()))


def parse_topology(text: str) -> tuple[Cpu, ...]:
    """Read ``lscpu -p=CPU,CORE,SOCKET,NODE``; raises HarnessFault for a line that is none of it.

    What a virtual machine or a kernel without NUMA does not tell is empty or ``-``: each CPU is then
    a core of its own, on socket 0 and node 0. Where CORE begins anew on each socket, cores are
    numbered through the machine.
    """
    cpus = tuple(_cpu(line) for line in text.splitlines() if line and not line.startswith("#"))
    cores = sorted({(cpu.socket, cpu.core) for cpu in cpus})
    if len(cores) == len({core for _, core in cores}):
        return cpus
    numbers = {core: number for number, core in enumerate(cores)}
    return tuple(msgspec.structs.replace(cpu, core=numbers[cpu.socket, cpu.core]) for cpu in cpus)


def _cpu(line: str) -> Cpu:
    id, *told = line.split(",")
    if len(told) < 3 or not id.isdecimal():
        raise HarnessFault(f"`lscpu -p` says {line!r} where CPU,CORE,SOCKET,NODE is needed.", _COMPARE)
    core, socket, node = (int(cell) if cell.isdecimal() else None for cell in told[:3])
    return Cpu(id=int(id), core=int(id) if core is None else core, socket=socket or 0, node=node or 0)


def topology_of_summary(fields: Mapping[str, str]) -> tuple[Cpu, ...]:
    """Derive the CPUs from lscpu's summary alone, as for a recording of another machine.

    Assumes Linux's usual numbering: the first threads of all cores come first, then their siblings, and
    NUMA nodes go through the sockets in order, as many on each. Ids may have gaps.
    """
    sockets, per_socket = _count(fields, "Socket(s)"), _count(fields, "Core(s) per socket")
    cores, nodes = sockets * per_socket, _nodes(fields)
    ranks = {node: rank for rank, node in enumerate(sorted(set(nodes.values())))}
    online = parse_cpu_list(fields.get("On-line CPU(s) list", "")) or tuple(range(_count(fields, "CPU(s)")))
    offline = parse_cpu_list(fields.get("Off-line CPU(s) list", "")) if len(online) > cores else ()
    core_of = {cpu: place % cores for place, cpu in enumerate(sorted({*online, *offline}))}

    def socket(cpu: int) -> int:
        if cpu in nodes and len(ranks) >= sockets:
            return ranks[nodes[cpu]] * sockets // len(ranks)
        return core_of[cpu] // per_socket

    return tuple(Cpu(id=cpu, core=core_of[cpu], socket=socket(cpu), node=nodes.get(cpu, 0)) for cpu in online)


def _nodes(fields: Mapping[str, str]) -> dict[int, int]:
    """Return the NUMA node of each CPU; a node of memory alone has no CPU."""
    return {
        cpu: int(found[1])
        for name, value in fields.items()
        if (found := re.fullmatch(r"NUMA node(\d+) CPU\(s\)", name))
        for cpu in parse_cpu_list(value)
    }


def make_host(
    fields: Mapping[str, str],
    *,
    cpus: tuple[Cpu, ...] | None = None,
    flags: str | None = None,
    allowed: Iterable[int] | None = None,
    memory_bytes: int = 0,
    machine_memory_bytes: int = 0,
    quota_cpus: float | None = None,
    governor: str | None = None,
) -> Host:
    """Return the Host that lscpu's fields and what else was read come to.

    A topology is believed over the fields: it has what is online now, and each socket's own cores.
    """
    if cpus:
        sockets, per_socket, threads = _shape(cpus)
    else:
        cpus = topology_of_summary(fields)
        sockets, per_socket = _count(fields, "Socket(s)"), _count(fields, "Core(s) per socket")
        threads = _number(fields, "Thread(s) per core") or _shape(cpus)[2]
    words = (fields.get("Flags", "") if flags is None else flags).split()
    return Host(
        architecture=fields.get("Architecture", "unknown"),
        vendor=fields.get("Vendor ID", "unknown"),
        model_name=fields.get("Model name", "unknown"),
        family=_number(fields, "CPU family"),
        model=_number(fields, "Model"),
        sockets=sockets,
        cores_per_socket=per_socket,
        threads_per_core=threads,
        cpus=cpus,
        flags=tuple(sorted(word for word in set(words) if ISA.fullmatch(word))),
        allowed=tuple(sorted(allowed)) if allowed is not None else tuple(cpu.id for cpu in cpus),
        memory_bytes=memory_bytes,
        machine_memory_bytes=machine_memory_bytes,
        quota_cpus=quota_cpus,
        governor=governor,
        hypervisor=fields.get("Hypervisor vendor"),
    )


def _shape(cpus: Iterable[Cpu]) -> tuple[int, int, int]:
    """Return the sockets, the cores of the largest socket, and the threads of the largest core."""
    threads = Counter((cpu.socket, cpu.core) for cpu in cpus)
    cores = Counter(socket for socket, _ in threads)
    return len(cores), max(cores.values()), max(threads.values())


def _count(fields: Mapping[str, str], name: str) -> int:
    count = _number(fields, name)
    if not count:
        raise HarnessFault(
            f"lscpu says {fields.get(name, '')!r} where a number of {name!r} above 0 is needed.", _COMPARE
        )
    return count


def _number(fields: Mapping[str, str], name: str) -> int:
    value = fields.get(name, "")
    return int(value) if value.isdecimal() else 0


def detect() -> Host:
    """Read this machine: lscpu, /proc, affinity, cgroups, and hl-smi where there is a trace of a Gaudi.

    Raises HarnessFault where lscpu cannot be run. Accelerators that cannot be used are no error here: the CPU can be.
    """
    fields, cpus = parse_lscpu(_lscpu()), parse_topology(_lscpu("-p=CPU,CORE,SOCKET,NODE"))
    limits = cgroup.limits(_read("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    affinity = os.sched_getaffinity(0)
    memory = _memory_bytes(_read("/proc/meminfo"))
    host = make_host(
        fields,
        cpus=cpus,
        flags=_flags(_read("/proc/cpuinfo")),
        allowed=affinity if limits.cpus is None else affinity & set(limits.cpus),
        memory_bytes=min(filter(None, (memory, limits.memory_bytes)), default=0),
        machine_memory_bytes=memory,
        quota_cpus=limits.quota_cpus,
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
    )
    try:
        return msgspec.structs.replace(host, accelerators=detect_accelerators())
    except CannotRun as fault:
        return msgspec.structs.replace(host, accelerators_fault=Fault(fault.message, fault.hint))


def _lscpu(*options: str) -> str:
    """Return what lscpu prints in English. Its JSON is left alone: versions before 2.30 have none."""
    argv, env = ["lscpu", *options], {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, env=env)
    except (OSError, subprocess.SubprocessError) as error:
        raise HarnessFault(f"lscpu cannot be run: {error}.", "Install util-linux, which has lscpu.") from None
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0] or "nothing"
        message = f"`{' '.join(argv)}` ended with {done.returncode} and said: {said}."
        raise HarnessFault(message, "Install the lscpu of util-linux, and run it by hand.")
    return done.stdout


def _flags(cpuinfo: str) -> str | None:
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return found[1] if found else None


def _memory_bytes(meminfo: str) -> int:
    found = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _read(path: str) -> str:
    """Return a file of the kernel; nothing where it is absent, as many are in containers."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def identity(host: Host) -> dict[str, Any]:
    """Return what makes a machine the same one tomorrow: no clock rate, name, temperature, load, affinity or limit.

    Memory is None where it is unknown; whole GiB, as kernels differ in how much they keep to themselves. Accelerators
    are named where there are any, with their driver, firmware and SynapseAI: each changes a result.
    """
    found = host.accelerators
    accelerators = {} if found is None else {
        "accelerators": f"{len(found.devices)} x {found.name}",
        "accelerators_driver": found.driver or None,
        "accelerators_firmware": found.firmware or None,
        "synapseai": found.synapse or None,
    }  # fmt: skip
    return {
        "architecture": host.architecture,
        "vendor": host.vendor,
        "model_name": host.model_name,
        "family": host.family,
        "model": host.model,
        "sockets": host.sockets,
        "cores_per_socket": host.cores_per_socket,
        "threads_per_core": host.threads_per_core,
        "numa_nodes": len(host.nodes),
        "flags": list(host.flags),
        "memory_gib": round(host.machine_memory_bytes / 2**30) or None,
        "hypervisor": host.hypervisor,
        **accelerators,
    }


def digest(host: Host) -> str:
    """Return 12 hexadecimal digits that stand for a machine's identity."""
    return hashlib.sha256(json.dumps(identity(host), sort_keys=True).encode()).hexdigest()[:12]
