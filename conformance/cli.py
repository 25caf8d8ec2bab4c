"""The command ``conformance``: hardware profiles and reports, thin over the functions of the rooms.

Exit status 0 when it did what was asked, 4 with one sentence and a hint when it could not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

import conformance
from conformance.errors import ConformanceError, UsageError, unknown_name
from conformance.hardware.detect import detect, digest, identity
from conformance.hardware.host import Host, usable_cores
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
    from argparse import _SubParsersAction

    Subparsers = _SubParsersAction["Parser"]

OK, FAULT = 0, 4

# The three questions that a profile answers, and what an absent value means in each.
TABLES = (
    ("machine", "what it is", "any"),
    ("drive", "how to drive it", "as the case and the launch rules say"),
    ("counts", "when a measurement counts", "any"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        status = _run(argv)
        sys.stdout.flush()
    except ConformanceError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return FAULT
    except BrokenPipeError:  # the reader has seen enough: `conformance profiles list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return status


def _run(argv: Sequence[str] | None) -> int:
    try:
        args, unknown = make_parser().parse_known_args(argv)
    except SystemExit as done:  # --help and --version, which print and exit 0
        return int(done.code or OK)
    if unknown:
        args.parser.refuse(unknown[0])
    args.run(args)
    return OK


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UsageErrors, with the nearest of the known names."""

    def error(self, message: str) -> NoReturn:
        hint = f"See `{self.prog} --help`."
        choice = re.search(r"invalid choice: (['\"])(.*?)\1.*\(choose from (.*)\)", message)
        if choice:
            message = unknown_name("command", choice[2], re.findall(r"[\w-]+", choice[3]))
        raise UsageError(f"{message[:1].upper()}{message[1:].rstrip('.')}.", hint)

    def refuse(self, argument: str) -> NoReturn:
        """Raise UsageError for an argument that this command does not know."""
        if not argument.startswith("-"):
            self.error(f"`{self.prog}` takes no argument {argument!r}")
        known = [name for name in self._option_string_actions if name.startswith("--")]
        self.error(unknown_name("option", argument.partition("=")[0], known))


def make_parser() -> Parser:
    about = "Judges TensorFlow image models on Xeon and Gaudi. Cases are run by `pytest suites`."
    parser = Parser(prog="conformance", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"conformance {conformance.__version__}")
    parser.set_defaults(parser=parser)
    groups = parser.add_subparsers(metavar="COMMAND", required=True)
    add_profiles(groups)
    add_report(groups)
    return parser


def add_profiles(subparsers: Subparsers) -> None:
    about = "hardware profiles, and which of them this machine fits"
    group = subparsers.add_parser("profiles", help=about, description=about, allow_abbrev=False)
    group.set_defaults(parser=group)
    commands = group.add_subparsers(metavar="COMMAND", required=True)
    _command(commands, "list", list_command, "print the name and description of every profile")
    show = _command(commands, "show", show_command, "print what a profile asks, sets and allows")
    found = _command(commands, "detect", detect_command, "print what this machine is, and the profile for it")
    check = _command(commands, "check", check_command, "exit 0 if this machine fits a profile, 4 if it does not")
    for command in (show, check):
        command.add_argument("name", metavar="NAME", help="a profile, the path of a .toml file, or auto")
    found.add_argument("--json", action="store_true", help="print it as JSON")


def add_report(subparsers: Subparsers) -> None:
    report = _command(subparsers, "report", report_command, "write a page or a table of one run or of several")
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="directory of a run, or its run.jsonl")
    report.add_argument("--html", metavar="FILE", type=Path, help="write a page that needs no other file")
    report.add_argument("--csv", metavar="FILE", type=Path, help="write one row for each case and metric")


def _command(subparsers: Subparsers, name: str, run: Any, about: str) -> Parser:
    command = subparsers.add_parser(name, help=about, description=about, allow_abbrev=False)
    command.set_defaults(run=run, parser=command)
    return command


def list_command(args: argparse.Namespace) -> None:
    _print_pairs((profile.name, profile.description) for profile in list_profiles(profile_directory()))


def show_command(args: argparse.Namespace) -> None:
    directory = profile_directory()
    profile = choose(AUTO, detect(), directory).profile if args.name == AUTO else load_profile(args.name, directory)
    print(f"{profile.name}: {profile.description}")
    for table, question, absent in TABLES:
        print(f"\n{table}: {question}")
        values = msgspec.structs.asdict(getattr(profile, table))
        _print_pairs((f"  {key}", _shown(value, absent)) for key, value in values.items())


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
    _print_pairs([*machine_lines(host), ("profile", f"{chosen.profile.name}, {_taken(chosen)}")])
    print("\nwhy no other profile")
    others = [profile for profile in profiles if profile != chosen.profile]
    _print_pairs((f"  {profile.name}", why_not(profile, chosen.profile, host)) for profile in others)


def report_command(args: argparse.Namespace) -> None:
    if args.html is None and args.csv is None:
        raise UsageError("A report needs a file to be written to.", "Give --html FILE, --csv FILE, or both.")
    from conformance.records.run_file import read_run
    from conformance.reports import write_report

    write_report([read_run(path) for path in args.runs], args.html, args.csv)
    for path in filter(None, (args.html, args.csv)):
        print(f"Wrote {path}")


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
        ("identity", digest(host)),
    ]


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count else "not told"


def _taken(chosen: Chosen) -> str:
    but = f", but {'; '.join(chosen.differences)}" if chosen.differences else ""
    return f"taken by auto{but}"


def _shown(value: Any, absent: str) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or absent
    return absent if value is None else str(value)


def _print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print two columns, the second wrapped under itself."""
    rows = list(pairs)
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, value in rows:
        text = textwrap.wrap(value, 100 - width, break_long_words=False, break_on_hyphens=False)
        print(f"{name:<{width}}" + f"\n{'':<{width}}".join(text))


if __name__ == "__main__":
    sys.exit(main())
