from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from launch_examples import xeon
from report_examples import accuracy, footer, header

import conformance
from conformance.cli import OK, USAGE, main
from conformance.commands.profiles import machine_facts, machine_lines
from conformance.hardware.detect import detect, digest
from conformance.hardware.host import usable_cores
from conformance.hardware.match import AUTO, choose, list_profiles, profile_directory
from conformance.records.run_file import RunWriter

PROFILES = list_profiles(profile_directory())
HERE = choose(AUTO, detect(), profile_directory()).profile.name
KNOWN = ", ".join(sorted(["auto", *(profile.name for profile in PROFILES)]))


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return what a command that succeeds prints."""
    status = main(argv)
    out, err = capsys.readouterr()
    assert (status, err) == (OK, "")
    return out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    """Return the lines that a command that fails prints on stderr."""
    status = main(argv)
    out, err = capsys.readouterr()
    assert (status, out) == (USAGE, "")
    return err.splitlines()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    records = (accuracy("fp32", 0.7651, 0.9298),)
    writer = RunWriter.create(tmp_path, header())
    writer.append(records[0])
    writer.finish(footer(records))
    return writer.directory


@pytest.mark.parametrize(
    ("argv", "error", "hint"),
    [
        ("", "The following arguments are required: COMMAND.", "See `conformance --help`."),
        (
            "profile",
            "Unknown command 'profile' (did you mean 'profiles'?); known: "
            "accept, calibrate, ci, compare, data, graphs, history, profiles, report.",
            "See `conformance --help`.",
        ),
        (
            "profiles lst",
            "Unknown command 'lst' (did you mean 'list'?); known: check, detect, list, show.",
            "See `conformance profiles --help`.",
        ),
        (
            "profiles it's",
            'Unknown command "it\'s"; known: check, detect, list, show.',
            "See `conformance profiles --help`.",
        ),
        ("profiles show", "The following arguments are required: NAME.", "See `conformance profiles show --help`."),
        (
            "profiles detect --jsn",
            "Unknown option '--jsn' (did you mean '--json'?); known: --help, --json.",
            "See `conformance profiles detect --help`.",
        ),
        (
            "profiles detect --js",
            "Unknown option '--js' (did you mean '--json'?); known: --help, --json.",
            "See `conformance profiles detect --help`.",
        ),
        (
            "profiles detect --json=yes",
            "Argument --json: ignored explicit argument 'yes'.",
            "See `conformance profiles detect --help`.",
        ),
        (
            "profiles list xeon-8s",
            "`conformance profiles list` takes no argument 'xeon-8s'.",
            "See `conformance profiles list --help`.",
        ),
        (
            "report run --htm=a.html",
            "Unknown option '--htm' (did you mean '--html'?); known: --csv, --help, --html, --md.",
            "See `conformance report --help`.",
        ),
        ("report run --html", "Argument --html: expected one argument.", "See `conformance report --help`."),
        ("report --html a.html", "The following arguments are required: RUN.", "See `conformance report --help`."),
        ("report run", "A report needs a file to be written to.", "Give --html FILE, --csv FILE or --md FILE."),
        (
            "profiles show xeon-8",
            f"Unknown hardware profile 'xeon-8' (did you mean 'xeon-8s'?); known: {KNOWN}.",
            "See `conformance profiles list`, or give the path of a .toml file.",
        ),
        (
            "profiles check xeon-9s",
            f"Unknown hardware profile 'xeon-9s' (did you mean 'xeon-8s'?); known: {KNOWN}.",
            "See `conformance profiles list`, or give the path of a .toml file.",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_a_hint(
    capsys: pytest.CaptureFixture[str], argv: str, error: str, hint: str
) -> None:
    assert refused(capsys, *argv.split()) == [f"error: {error}", f"hint: {hint}"]


@pytest.mark.parametrize(
    ("argv", "usage"),
    [
        ("--help", "usage: conformance [-h] [--version] COMMAND ..."),
        ("profiles --help", "usage: conformance profiles [-h] COMMAND ..."),
        ("profiles check -h", "usage: conformance profiles check [-h] NAME"),
        ("report -h", "usage: conformance report [-h] [--html FILE] [--csv FILE] [--md FILE] RUN"),
    ],
)
def test_help_is_no_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: str, usage: str
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert told(capsys, *argv.split()).startswith(usage)


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--version") == f"conformance {conformance.__version__}\n"


def test_list_names_and_describes_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    printed = " ".join(told(capsys, "profiles", "list").split())
    assert printed == " ".join(f"{profile.name} {profile.description}" for profile in PROFILES)


@pytest.mark.parametrize("command", ["list", "detect", "show auto", "check auto", "show xeon-8s", "check xeon-8s"])
def test_a_package_without_a_checkout_tells_where_profiles_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(conformance, "__file__", str(tmp_path / "conformance" / "__init__.py"))
    assert refused(capsys, "profiles", *command.split()) == [
        f"error: There is no hardware profile in '{tmp_path / 'hardware_profiles'}'.",
        "hint: Profiles are files beside the package: clone the repository and run `pip install -e .` in it.",
    ]


def test_show_prints_the_three_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ndescription = "made up"\n[machine]\nsockets = 2\nflags = ["amx_bf16", "amx_int8"]\n'
        '[drive]\nunit = "socket"\nsteps = 20\n[counts]\nmax_spread = 0.05\n'
    )
    lines = told(capsys, "profiles", "show", str(path)).splitlines()
    assert lines[0] == "mine: made up"
    assert lines[2:5] == ["machine: what it is", "  architecture      x86_64", "  sockets           2"]
    pairs = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith("  ")}
    assert (pairs["cores_per_socket"], pairs["flags"]) == ("any", "amx_bf16, amx_int8")
    assert (pairs["unit"], pairs["steps"]) == ("socket", "20")
    assert pairs["batch_size"] == "as the case and the launch rules say"
    assert (pairs["max_spread"], pairs["max_steal_share"]) == ("0.05", "0.02")


@pytest.mark.parametrize("name", [profile.name for profile in PROFILES])
def test_show_prints_every_shipped_profile(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert told(capsys, "profiles", "show", name).startswith(f"{name}: ")


def test_show_auto_prints_the_profile_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "profiles", "show", "auto").startswith(f"{HERE}: ")


@pytest.mark.parametrize("name", ["auto", HERE])
def test_check_says_that_this_machine_fits(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert told(capsys, "profiles", "check", name) == f"This machine fits {HERE}.\n"


def test_check_lists_what_was_found_and_required(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    host = detect()
    path = tmp_path / "huge.toml"
    path.write_text('name = "huge"\ndescription = "none such"\n[machine]\nsockets = 4096\nmin_cores = 99999\n')
    error, hint = refused(capsys, "profiles", "check", str(path))
    assert error == (
        f"error: This machine is not 'huge': sockets: found {host.sockets}, required 4096; "
        f"usable cores: found {usable_cores(host)}, required at least 99999."
    )
    assert hint == "hint: See what this machine is, and the profile for it, with `conformance profiles detect`."


def test_detect_prints_this_machine_and_why_no_other_profile(capsys: pytest.CaptureFixture[str]) -> None:
    printed = told(capsys, "profiles", "detect")
    summary, others = printed.split("\nwhy no other profile\n")
    pairs = dict(re.split(r"  +", line, maxsplit=1) for line in summary.splitlines() if not line.startswith(" "))
    assert (pairs["identity"], pairs["profile"]) == (digest(detect()), f"{HERE}, taken by auto")
    names = [line.split()[0] for line in others.splitlines() if line[2:3].strip()]
    assert names == [profile.name for profile in PROFILES if profile.name != HERE]


def test_detect_prints_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(told(capsys, "profiles", "detect", "--json"))
    host = detect()
    assert (facts["digest"], facts["profile"], facts["threads"]) == (digest(host), HERE, len(host.cpus))
    assert facts["allowed_cpus"] == list(host.allowed)
    assert (facts["memory_bytes"], facts["machine_memory_bytes"]) == (host.memory_bytes, host.machine_memory_bytes)
    assert facts["usable_cores"] == usable_cores(host)
    assert set(facts["not_chosen"]) == {profile.name for profile in PROFILES} - {HERE}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("machine", "Xeon (x86_64, a guest of KVM)"),
        ("sockets", "2"),
        ("cores", "56 (28 a socket)"),
        ("threads", "112 (2 a core)"),
        ("NUMA nodes", "4"),
        ("usable cores", "3 of 56"),
        ("memory", "512.0 GiB"),
        ("usable memory", "256.0 GiB"),
        ("CPU quota", "3.5 CPUs"),
        ("governor", "powersave"),
        ("ISA flags", "amx_bf16 avx512f"),
        ("native", "fp32, bf16"),
    ],
)
def test_a_machine_is_summarised_in_words(name: str, value: str) -> None:
    host = xeon(2, 28, nodes_per_socket=2, allowed=range(6), quota_cpus=3.5)
    changes = {"flags": ("amx_bf16", "avx512f"), "governor": "powersave", "hypervisor": "KVM"}
    host = msgspec.structs.replace(host, **changes, memory_bytes=2**38, machine_memory_bytes=2**39)
    assert dict(machine_lines(host))[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("machine", "Xeon (x86_64)"), ("memory", "not told"), ("usable memory", "not told"), ("CPU quota", "none"),
     ("governor", "not told"), ("ISA flags", "none"), ("native", "fp32")],
)  # fmt: skip
def test_what_a_machine_does_not_tell_is_said(name: str, value: str) -> None:
    assert dict(machine_lines(msgspec.structs.replace(xeon(1, 4), memory_bytes=0)))[name] == value


def test_the_facts_hold_no_number_for_a_memory_that_is_unknown() -> None:
    host = msgspec.structs.replace(xeon(1, 4), memory_bytes=0, machine_memory_bytes=0)
    facts = machine_facts(host, choose(AUTO, host, profile_directory()), PROFILES)
    assert (facts["memory_bytes"], facts["machine_memory_bytes"], facts["identity"]["memory_gib"]) == (None, None, None)


def test_the_facts_tell_how_a_machine_differs_from_every_profile() -> None:
    arm = msgspec.structs.replace(xeon(1, 4), architecture="aarch64")
    chosen = choose(AUTO, arm, profile_directory())
    facts = machine_facts(arm, chosen, PROFILES)
    assert (facts["profile"], facts["differences"]) == ("auto", ["architecture: found aarch64, required x86_64"])
    assert facts["not_chosen"]["generic-cpu"] == "architecture: found aarch64, required x86_64"


def test_a_report_is_written_as_csv(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    target = tmp_path / "out" / "report.csv"
    assert told(capsys, "report", str(run), "--csv", str(target)) == f"Wrote {target}\n"
    rows = list(csv.DictReader(target.read_text().splitlines()))
    assert {row["case"] for row in rows} == {accuracy("fp32", 0.7651, 0.9298).case}


def test_a_report_of_two_runs_is_written_as_a_page(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    for package in ("altair", "jinja2", "pandas", "vl_convert"):
        pytest.importorskip(package)
    page, table = tmp_path / "report.html", tmp_path / "report.csv"
    printed = told(capsys, "report", str(run), str(run / "run.jsonl"), "--html", str(page), "--csv", str(table))
    assert printed == f"Wrote {page}\nWrote {table}\n"
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")


def test_a_report_of_no_run_names_the_runs_that_are_near(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    target = tmp_path / "report.csv"
    error, hint = refused(capsys, "report", str(tmp_path), "--csv", str(target))
    assert error == f"error: There is no run file '{tmp_path / 'run.jsonl'}'."
    assert hint == f"hint: Give one of the runs in it: {run.name}."
    assert not target.exists()


def test_a_package_that_reports_need_is_named_when_it_is_missing(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.delitem(sys.modules, "conformance.reports.frame", raising=False)
    assert refused(capsys, "report", str(run), "--csv", str(tmp_path / "report.csv")) == [
        "error: A report needs the package 'pandas', which is not installed.",
        "hint: pip install 'tf-conformance[reports]'",
    ]


def test_a_module_of_the_project_that_is_missing_is_no_package_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "conformance.reports.frame", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        main(["report", str(run), "--csv", str(tmp_path / "report.csv")])
    assert caught.value.name == "conformance.reports.frame"


def start(*argv: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    root = Path(conformance.__file__).parent.parent
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "conformance.cli", *argv],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**buffered, "PYTHONPATH": str(root)},
    )


def test_the_module_is_a_program() -> None:
    done = start("profiles", "check", "auto")
    assert (done.returncode, done.stdout, done.stderr) == (OK, f"This machine fits {HERE}.\n", "")


def test_a_mistake_of_the_program_shows_no_traceback() -> None:
    done = start("profiles", "show", "tpu")
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize("argv", [["profiles", "list"], ["profiles", "detect", "--json"], ["--help"]], ids=str)
def test_a_reader_who_has_seen_enough_is_no_mistake(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = start(*argv, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (OK, "")


def test_help_takes_less_than_a_fifth_of_a_second() -> None:
    def cpu_s() -> float:
        before = os.times()
        assert start("--help").returncode == OK
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert min(cpu_s() for _ in range(3)) < 0.2  # CPU time: other processes do not count


def test_nothing_heavy_is_loaded_before_a_report_is_asked_for() -> None:
    heavy = {"numpy", "scipy", "pandas", "altair", "jinja2", "tensorflow"}
    code = f"import sys, conformance.cli; print(*sorted({heavy} & set(sys.modules)))"
    root = Path(conformance.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == ""
