"""Which profile fits a machine, and in a sentence each, why another does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import conformance
from conformance.errors import HardwareMismatch, UsageError, unknown_name
from conformance.hardware.habana import NOTHING
from conformance.hardware.hl_smi import SPOKEN, Accelerators, Device
from conformance.hardware.host import Cpu, Host, usable_cores
from conformance.hardware.isa import ISA
from conformance.hardware.profile import Machine, Plan, Profile
from conformance.tables import read_table

AUTO = "auto"
RUN_HINT = (
    "Use --hw auto for this machine, --hw-mismatch=run to judge accuracy only, "
    "or --plan to see the launches of the profile."
)


class Chosen(NamedTuple):
    """A profile for this session, and how the machine differs from it; no difference when it fits."""

    profile: Profile
    differences: tuple[str, ...]


def profile_directory() -> Path:
    return Path(conformance.__file__).parent.parent / "hardware_profiles"


def list_profiles(directory: Path) -> tuple[Profile, ...]:
    return tuple(_read(path) for path in _files(directory))


def _files(directory: Path) -> list[Path]:
    """Return the files of profiles; raises UsageError where there is none, as without a checkout."""
    files = sorted(directory.glob("*.toml"))
    if not files:
        hint = "Profiles are files beside the package: clone the repository and run `pip install -e .` in it."
        raise UsageError(f"There is no hardware profile in {str(directory)!r}.", hint)
    return files


def load_profile(name: str, directory: Path) -> Profile:
    """Return the profile of a name, or of a path that ends in .toml."""
    path = Path(name) if name.endswith(".toml") else directory / f"{name}.toml"
    if not name.endswith(".toml") and not path.exists():
        known = [AUTO, *(path.stem for path in _files(directory))]
        hint = "See `conformance profiles list`, or give the path of a .toml file."
        raise UsageError(unknown_name("hardware profile", name, known), hint)
    return _read(path)


def _read(path: Path) -> Profile:
    if path.stem == AUTO:
        message = f"{path.name}: the name {AUTO!r} is kept for the machine that is detected."
        raise UsageError(message, f"Rename {path}, and the name in it.")
    profile = read_table(path, Profile)
    if profile.name != path.stem:
        message = f"name is {profile.name!r}; it must equal the file's name, {path.stem!r}"
        raise UsageError(f"{path.name}: {message}.", f"Correct {path}.")
    for message in (*_contradictions(profile.machine), *_contradicting_accelerators(profile)):
        raise UsageError(f"{path.name}: {message}.", f"Correct {path}.")
    return profile


def _contradictions(machine: Machine) -> Iterator[str]:
    """Yield why no machine would ever fit."""
    low, high = machine.min_cores, machine.max_cores
    if low is not None and high is not None and low > high:
        yield f"min_cores {low} is above max_cores {high}"
    given = [name for name in ("sockets", "cores_per_socket") if getattr(machine, name) is not None]
    cores = math.prod(getattr(machine, name) for name in given)
    size = " * ".join(f"{name} {getattr(machine, name)}" for name in given)
    if len(given) == 2:
        size += f" = {cores}"
        if low is not None and cores < low:
            yield f"{size} is below min_cores {low}"
    if high is not None and cores > high:
        yield f"{size} is above max_cores {high}"
    for flag in machine.flags:
        if not ISA.fullmatch(flag):
            yield f"flag {flag!r} is none of those that are detected ({ISA.pattern})"


def _contradicting_accelerators(profile: Profile) -> Iterator[str]:
    """Yield what of a profile's accelerators, servers and hosts does not go together."""
    machine, drive = profile.machine, profile.drive
    if (machine.accelerator is None) != (machine.accelerators is None):
        given, missing = ("accelerator", "accelerators")[:: 1 if machine.accelerator else -1]
        yield f"{given} {getattr(machine, given)!r} is given, and {missing} is not"
    if machine.servers > 1 and drive.launcher is None:
        yield f"servers {machine.servers} need a launcher"
    if drive.hosts and len(drive.hosts) != machine.servers:
        yield f"hosts names {len(drive.hosts)}, and servers is {machine.servers}"
    names = [host.partition(":")[0] for host in drive.hosts]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"hosts names {name!r} twice"


def choose(name: str, host: Host, directory: Path) -> Chosen:
    """Return the profile asked for; ``auto`` takes the one that fits and asks most of a machine, if it is one only.

    One of several servers is only taken by its name: nothing tells here that the others are there.
    """
    if name != AUTO:
        profile = load_profile(name, directory)
        return Chosen(profile, differences(profile, host))
    here = [profile for profile in list_profiles(directory) if profile.machine.servers == 1]
    fitting = [profile for profile in here if not differences(profile, host)]
    most = max(map(_demands, fitting), default=(0, 0))
    best = [profile for profile in fitting if _demands(profile) == most]
    if len(best) == 1:
        return Chosen(best[0], ())
    own = Profile(name=AUTO, description="this machine as it is", machine=Machine())
    return Chosen(own, differences(own, host))


def why_not(profile: Profile, chosen: Profile, host: Host) -> str:
    """Return in one sentence, without its full stop, why ``auto`` took ``chosen`` and not this profile."""
    found = differences(profile, host)
    if found:
        return "; ".join(found)
    if profile.machine.servers > 1:
        return f"fits, but is for {profile.machine.servers} servers: ask for it with --hw {profile.name}"
    if chosen.name == AUTO:
        return "fits, but another profile that asks as much of a machine fits too"
    return f"fits, but asks less of a machine than {chosen.name!r}"


def _demands(profile: Profile) -> tuple[int, int]:
    """Count what a profile asks of a machine: first its accelerators, then all else."""
    values = msgspec.structs.asdict(profile.machine)
    flags = len(values.pop("flags"))
    return profile.machine.accelerators or 0, flags + sum(value is not None for value in values.values())


class _Demand(NamedTuple):
    what: str
    wanted: Callable[[Machine], Any]
    found: Callable[[Host], Any]
    fits: Callable[[Any, Any], bool]
    words: str


_DEMANDS = (
    _Demand("architecture", lambda m: m.architecture, lambda h: h.architecture, lambda f, w: f == w, "{}"),
    _Demand("sockets", lambda m: m.sockets, lambda h: h.sockets, lambda f, w: f == w, "{}"),
    _Demand("cores a socket", lambda m: m.cores_per_socket, lambda h: h.cores_per_socket, lambda f, w: f == w, "{}"),
    _Demand("usable cores", lambda m: m.min_cores, usable_cores, lambda f, w: f >= w, "at least {}"),
    _Demand("usable cores", lambda m: m.max_cores, usable_cores, lambda f, w: f <= w, "at most {}"),
)


def differences(profile: Profile, host: Host) -> tuple[str, ...]:
    """Return a sentence for each way in which a machine is not the profile's: found and required."""
    said = []
    for demand in _DEMANDS:
        wanted, found = demand.wanted(profile.machine), demand.found(host)
        if wanted is not None and not demand.fits(found, wanted):
            said.append(f"{demand.what}: found {found}, required {demand.words.format(wanted)}")
    missing = [flag for flag in profile.machine.flags if flag not in host.flags]
    if missing:
        said.append(f"CPU flags: {', '.join(missing)} not found, required {', '.join(profile.machine.flags)}")
    said += _missing_accelerators(profile.machine, host)
    return tuple(said) or _withheld(profile, host)


def _missing_accelerators(machine: Machine, host: Host) -> Iterator[str]:
    """Yield why the accelerators of this server are not those that are asked for."""
    if machine.accelerator is None or machine.accelerators is None:
        return
    asked = f"needs {machine.accelerators} {SPOKEN[machine.accelerator]}, found"
    found = host.accelerators
    if found is None:
        yield f"{asked} none: {host.accelerators_fault.message.rstrip('.') if host.accelerators_fault else NOTHING}"
    elif found.kind != machine.accelerator:
        yield f"{asked} {len(found.devices)} {SPOKEN.get(found.kind, found.kind)}"
    elif len(found.up) < machine.accelerators:
        down = [f"HPU {device.index} is {device.status!r}" for device in found.devices if device not in found.up]
        # A driver that leaves a device out counts the others without a gap, but each keeps its module.
        present = {device.place for device in found.devices}
        told = all(device.module_id is not None for device in found.devices)
        absent = [str(number) for number in range(machine.accelerators) if told and number not in present]
        which = "module" if len(absent) == 1 else "modules"
        why = ", ".join([*down, *([f"{which} {', '.join(absent)} missing"] if absent else ())])
        yield f"{asked} {len(found.up)}{f': {why}' if why else ''}"


def _withheld(profile: Profile, host: Host) -> tuple[str, ...]:
    """Say what affinity, cpuset or quota keep of a machine whose size the profile gives.

    The bands of a profile are those of what one case gets: the whole machine or one whole socket; a
    container with a few of its cores is another.
    """
    if profile.machine.sockets is None and profile.machine.cores_per_socket is None:
        return ()
    if profile.drive.unit == "socket":
        what, cores = "usable cores on one socket", host.cores_per_socket
        usable = max(usable_cores(host, socket) for socket in {cpu.socket for cpu in host.cpus})
    else:
        what, cores, usable = "usable cores", host.sockets * host.cores_per_socket, usable_cores(host)
    return () if usable >= cores else (f"{what}: found {usable}, required {cores}",)


def require(profile: Profile, host: Host, hint: str = RUN_HINT) -> None:
    """Raise HardwareMismatch with every difference when this machine is not the profile's."""
    found = differences(profile, host)
    if found:
        if profile.machine.accelerator and host.accelerators_fault:
            hint = f"{host.accelerators_fault.hint} {hint}"
        raise HardwareMismatch(f"This machine is not {profile.name!r}: {'; '.join(found)}.", hint)


def planned_host(profile: Profile, fallback: Host) -> Host:
    """Return the machine that a profile describes, to plan launches anywhere; ``fallback`` where it describes none.

    One NUMA node a socket, CPUs numbered through the sockets as Linux does, a thread of every core first. A profile
    that asks for accelerators only leaves the CPUs open: they are those of ``fallback`` if it fits, else of ``plan``.
    """
    machine, shape = profile.machine, profile.plan
    if machine.sockets is not None and machine.cores_per_socket is not None:
        shape = Plan(sockets=machine.sockets, cores_per_socket=machine.cores_per_socket)
    elif shape is None or not differences(profile, fallback):
        return fallback
    cores = shape.sockets * shape.cores_per_socket
    cpus = tuple(
        Cpu(
            id=cpu,
            core=cpu % cores,
            socket=cpu % cores // shape.cores_per_socket,
            node=cpu % cores // shape.cores_per_socket,
        )
        for cpu in range(cores * shape.threads_per_core)
    )
    return Host(
        architecture=machine.architecture,
        vendor="planned",
        model_name=f"planned from profile {profile.name!r}",
        family=0,
        model=0,
        sockets=shape.sockets,
        cores_per_socket=shape.cores_per_socket,
        threads_per_core=shape.threads_per_core,
        cpus=cpus,
        flags=tuple(sorted(machine.flags)),
        allowed=tuple(cpu.id for cpu in cpus),
        memory_bytes=0,
        accelerators=_planned_accelerators(machine),
    )


def _planned_accelerators(machine: Machine) -> Accelerators | None:
    if machine.accelerator is None or machine.accelerators is None:
        return None
    devices = (Device(index=n, module_id=n, bus_id="", name="planned") for n in range(machine.accelerators))
    return Accelerators(kind=machine.accelerator, devices=tuple(devices))
