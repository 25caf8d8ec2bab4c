"""What is committed is enough: a fresh clone collects its suites, plans its launches and knows its profiles."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.outside,
    pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs git and a checkout"),
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clone") / "tf-conformance"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(path)], check=True, timeout=60)
    return path


def run(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(clone)}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=60)


def test_a_clone_collects_every_row_of_its_tables(clone: Path) -> None:
    rows = sum(table.read_text().count("[[case]]") for table in clone.glob("suites/**/*.toml"))
    done = run(clone, "pytest", "suites", "--collect-only", "-q")
    assert f"{rows} tests collected" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_a_clone_imports_its_own_package(clone: Path) -> None:
    done = run(clone, "pytest", "suites/inference", "--plan", "-m", "latency")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"PYTHONPATH={clone}" in done.stdout


def test_a_clone_knows_its_profiles(clone: Path) -> None:
    done = run(clone, "conformance.cli", "profiles", "list")
    assert done.returncode == 0, done.stderr
    assert all(path.stem in done.stdout for path in clone.glob("hardware_profiles/*.toml"))


def test_collecting_and_planning_leave_nothing_behind(clone: Path) -> None:
    status = subprocess.run(["git", "status", "--short"], cwd=clone, capture_output=True, text=True, check=True)
    assert status.stdout == ""
    assert not (clone / "runs").exists()
