"""``conformance profiles``: hardware profiles, and which of them this machine fits."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from conformance.commands.parser import command, group, print_pairs
from conformance.hardware.detect import detect, digest, identity
from conformance.hardware.habana import NOTHING
from conformance.hardware.hl_smi import Device
from conformance.hardware.host import Host, accelerators_in_words, usable_cores
from conformance.hardware.isa import native_precisions
from conformance.hardware.match import (
    AUTO,
    Chosen,
    choose,
    list_profiles,
    load_profile,
    profile_directory,
    require,
    why_not,
)
from conformance.hardware.profile import Profile

if TYPE_CHECKING:
    from conformance.commands.parser import Subparsers

# The questions that a profile answers, and what an absent value means in each.
TABLES = (
    ("machine", "what it is", "any"),
    ("drive", "how to drive it", "as the case and the launch rules say"),
    ("counts", "when a measurement counts", "any"),
    ("plan", "which CPUs --plan assumes on another machine", "those of the machine that plans"),
)


def add(subparsers: Subparsers) -> None:
    about = "hardware profiles, and which of them this machine fits"
    commands = group(subparsers, "profiles", about)
    command(commands, "list", list_command, "print the name and description of every profile")
    show = command(commands, "show", show_command, "print what a profile asks, sets and allows")
    found = command(commands, "detect", detect_command, "print what this machine is, and the profile for it")
    check = command(commands, "check", check_command, "exit 0 if this machine fits a profile, 4 if it does not")
    for named in (show, check):
        named.add_argument("name", metavar="NAME", help="a profile, the path of a .toml file, or auto")
    found.add_argument("--json", action="store_true", help="print it as JSON")


def list_command(args: argparse.Namespace) -> None:
    print_pairs((profile.name, profile.description) for profile in list_profiles(profile_directory()))


def show_command(args: argparse.Namespace) -> None:
    directory = profile_directory()
    profile = choose(AUTO, detect(), directory).profile if args.name == AUTO else load_profile(args.name, directory)
    print(f"{profile.name}: {profile.description}")
    for table, question, absent in TABLES:
        print(f"\n{table}: {question}")
        values = getattr(profile, table)
        shown = {} if values is None else msgspec.structs.asdict(values)
        print_pairs((f"  {key}", _shown(value, absent)) for key, value in (shown or {"sockets": None}).items())


def check_command(args: argparse.Namespace) -> None:
    host = detect()
    profile = choose(args.name, host, profile_directory()).profile
    require(profile, host, "See what this machine is, and the profile for it, with `conformance profiles detect`.")
    print(f"This machine fits {profile.name}.")


def detect_command(args: argparse.Namespace) -> None:
    host, directory = detect(), profile_directory()
    chosen, profiles = choose(AUTO, host, directory), list_profiles(directory)
    if args.json:
        print(json.dumps(machine_facts(host, chosen, profiles), indent=2))
        return
    print_pairs([*machine_lines(host), ("profile", f"{chosen.profile.name}, {_taken(chosen)}")])
    print("\nwhy no other profile")
    others = [profile for profile in profiles if profile != chosen.profile]
    print_pairs((f"  {profile.name}", why_not(profile, chosen.profile, host)) for profile in others)


def machine_facts(host: Host, chosen: Chosen, profiles: Iterable[Profile]) -> dict[str, Any]:
    """Return what was detected, for programs: units are in the names."""
    return {
        "digest": digest(host),
        "identity": identity(host),
        "cores": len({cpu.core for cpu in host.cpus}),
        "threads": len(host.cpus),
        "usable_cores": usable_cores(host),
        "allowed_cpus": list(host.allowed),
        "memory_bytes": host.memory_bytes or None,
        "machine_memory_bytes": host.machine_memory_bytes or None,
        "quota_cpus": host.quota_cpus,
        "governor": host.governor,
        "native_precisions": list(native_precisions(host)),
        "accelerators": msgspec.to_builtins(host.accelerators),
        "accelerators_fault": host.accelerators_fault.message if host.accelerators_fault else None,
        "profile": chosen.profile.name,
        "differences": list(chosen.differences),
        "not_chosen": {p.name: why_not(p, chosen.profile, host) for p in profiles if p != chosen.profile},
    }


def machine_lines(host: Host) -> list[tuple[str, str]]:
    """Return what was detected, for people."""
    cores, threads = len({cpu.core for cpu in host.cpus}), len(host.cpus)
    guest = f", a guest of {host.hypervisor}" if host.hypervisor else ""
    return [
        ("machine", f"{host.model_name} ({host.architecture}{guest})"),
        ("sockets", str(host.sockets)),
        ("cores", f"{cores} ({host.cores_per_socket} a socket)"),
        ("threads", f"{threads} ({host.threads_per_core} a core)"),
        ("NUMA nodes", str(len(host.nodes))),
        ("usable cores", f"{usable_cores(host)} of {cores}"),
        ("memory", _gib(host.machine_memory_bytes)),
        ("usable memory", _gib(host.memory_bytes)),
        ("CPU quota", "none" if host.quota_cpus is None else f"{host.quota_cpus:g} CPUs"),
        ("governor", host.governor or "not told"),
        ("ISA flags", " ".join(host.flags) or "none"),
        ("native", ", ".join(native_precisions(host))),
        *accelerator_lines(host),
        ("identity", digest(host)),
    ]


def accelerator_lines(host: Host) -> list[tuple[str, str]]:
    """Return what was detected of accelerators: each device and who uses it, or why there are none."""
    hint = f" Hint: {host.accelerators_fault.hint}" if host.accelerators_fault else ""
    devices = host.accelerators.devices if host.accelerators else ()
    told = f"{accelerators_in_words(host) or f'none: {NOTHING}'}{hint}"
    return [("accelerators", told), *((f"  HPU {device.index}", _device(device)) for device in devices)]


def _device(device: Device) -> str:
    module = "not told" if device.module_id is None else device.module_id
    memory = ""
    if device.memory_used_bytes is not None and device.memory_total_bytes is not None:
        memory = f", {device.memory_used_bytes // 2**20} of {device.memory_total_bytes // 2**20} MiB in use"
    status = f", {device.status}" if device.status else ""
    by = f", by {', '.join(f'{one.name} ({one.pid})' for one in device.processes)}" if device.processes else ""
    return f"{device.name}, module {module}, {device.bus_id}{status}{memory}{by}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count else "not told"


def _taken(chosen: Chosen) -> str:
    but = f", but {'; '.join(chosen.differences)}" if chosen.differences else ""
    return f"taken by auto{but}"


def _shown(value: Any, absent: str) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or absent
    return absent if value is None else str(value)
