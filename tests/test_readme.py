"""What the README says is true: its commands are commands, its options exist, its files are there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.cli import make_parser
from conformance.plugin import MARKERS
from conformance.records import CHANGE_GRAVITY, GRAVITY
from conformance.records.exit_status import MEANINGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```\n(.*?)```", README, re.DOTALL) for line in block.strip().splitlines()]
EVERYDAY = [line for line in COMMANDS if not line.startswith("python3")]


def test_the_two_commands_set_themselves_up_and_end_in_their_environment() -> None:
    setup = "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox -e "
    assert [line for line in COMMANDS if line.startswith("python3")] == [setup + "inference", setup + "tests"]
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    assert "[testenv:inference]" in tox and "[testenv:tests]" in tox and "[testenv:tf215-itex]" in tox


@pytest.mark.parametrize("line", [line for line in EVERYDAY if line.startswith("pytest")])
def test_an_everyday_command_of_pytest_is_understood_and_selects_cases(line: str, tmp_path: Path) -> None:
    plan = [] if "--plan" in line else ["--plan"]
    there = re.sub(r"\.tox/\w+", sys.prefix, line)  # this interpreter stands for stacks that are not made here
    command = [sys.executable, "-m", *shlex.split(there), *plan, "--output-dir", str(tmp_path)]
    if "--num-instances 2" in line:
        command += ["--hw", "xeon-2s"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 5), done.stdout + done.stderr
    assert "-m conformance.subject" in done.stdout


@pytest.mark.parametrize("line", [line for line in EVERYDAY if line.startswith("conformance")])
def test_an_everyday_command_of_conformance_is_understood(line: str) -> None:
    make_parser().parse_args(shlex.split(line)[1:])


def test_every_everyday_command_is_one_of_the_two() -> None:
    assert EVERYDAY and all(line.split()[0] in ("pytest", "conformance") for line in EVERYDAY)


def test_every_verdict_is_explained() -> None:
    of_cases, of_changes = README.index("## How to read a verdict"), README.index("## Did the new TensorFlow")
    for verdicts, told in ((GRAVITY, README[of_cases:of_changes]), (CHANGE_GRAVITY, README[of_changes:])):
        assert set(re.findall(r"^\| `([a-z ]+)` \|", told, re.MULTILINE)) == set(verdicts)


def test_every_exit_status_is_explained() -> None:
    told = README[README.index("The exit status is") :].split("\n\n")[0]
    assert set(map(int, re.findall(r"\b\d\b", told))) == set(MEANINGS)


def test_every_option_that_is_named_exists() -> None:
    helped = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    ).stdout
    named = set(re.findall(r"`(--[a-z-]+)", README))
    assert named and all(option in helped for option in named)


def test_every_marker_that_is_used_exists() -> None:
    used = re.findall(r'-m "?(?:not )?([a-z0-9]+(?: and [a-z0-9]+)*)"?', "\n".join(EVERYDAY))
    assert used and all(name in MARKERS for expression in used for name in expression.split(" and "))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(docs/[a-z.]+|[A-Z]+\.md)", README))))
def test_a_file_that_is_named_is_there(name: str) -> None:
    assert (ROOT / name).is_file()
