"""Leases between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from conformance.errors import HarnessFault
from conformance.launch import lease
from conformance.launch.lease import Leases

A, B = frozenset({0, 1}), frozenset({2, 3})

# Holds one of the sets in argv[2:] for a while and prints the index and when it held it.
HOLDER = """
import sys, time
from pathlib import Path
from conformance.launch.lease import Leases
sets = [frozenset(map(int, words.split(","))) for words in sys.argv[3:]]
with Leases(Path(sys.argv[1])).hold(sets, case="other") as index:
    print(index, time.monotonic(), flush=True)
    time.sleep(float(sys.argv[2]))
    print(time.monotonic(), flush=True)
"""


def holder(directory: Path, seconds: float, *sets: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), str(seconds), *sets],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def held(process: subprocess.Popen[str]) -> tuple[int, float, float]:
    index, began, ended = process.communicate()[0].split()
    return int(index), float(began), float(ended)


def is_free(directory: Path, cores: frozenset[int]) -> bool:
    """Ask for the cores, with a core of nobody as the way out."""
    with Leases(directory).hold([cores, frozenset({10_000 + os.getpid()})]) as index:
        return index == 0


def test_the_first_alternative_is_taken_and_given_back(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    for _ in range(2):
        with leases.hold([A, B]) as index:
            assert index == 0
            assert not is_free(tmp_path, A) and is_free(tmp_path, B)
    assert is_free(tmp_path, A)


def test_a_lease_is_given_back_when_the_case_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Leases(tmp_path).hold([A]):
        raise KeyboardInterrupt
    assert is_free(tmp_path, A)


def test_the_next_alternative_is_taken_when_one_of_the_cores_is_held(tmp_path: Path) -> None:
    with Leases(tmp_path).hold([frozenset({1})]), Leases(tmp_path).hold([A, B]) as index:
        assert index == 1
        assert is_free(tmp_path, frozenset({0}))


def test_processes_on_the_same_cores_run_one_after_another(tmp_path: Path) -> None:
    processes = [holder(tmp_path, 0.2, "0,1"), holder(tmp_path, 0.2, "1,2"), holder(tmp_path, 0.2, "0,1,2")]
    times = sorted(held(process)[1:] for process in processes)
    assert all(before[1] <= after[0] for before, after in pairwise(times))


def test_processes_on_different_sockets_run_at_the_same_time(tmp_path: Path) -> None:
    processes = [holder(tmp_path, 1.0, "0,1", "2,3"), holder(tmp_path, 1.0, "0,1", "2,3")]
    (first, *one), (second, *two) = (held(process) for process in processes)
    assert {first, second} == {0, 1}
    assert max(one[0], two[0]) < min(one[1], two[1])


def test_the_death_of_a_holder_frees_its_cores(tmp_path: Path) -> None:
    with holder(tmp_path, 60, "0,1") as process:
        assert process.stdout is not None and process.stdout.readline()
        assert not is_free(tmp_path, A)
        process.kill()
        process.wait()
        assert is_free(tmp_path, A)


def test_one_who_waits_is_told_once_who_holds_the_cores(tmp_path: Path) -> None:
    told: list[str] = []
    with holder(tmp_path, 0.5, "0,1") as process:
        assert process.stdout is not None and process.stdout.readline()
        began = time.monotonic()
        with Leases(tmp_path).hold([A, frozenset({1, 2})], told.append) as index:
            assert index == 0 and time.monotonic() - began > 0.3
    assert told == [f"Waiting for cores 0-2, held by pid {process.pid} other."]


def test_a_child_process_does_not_inherit_a_lease(tmp_path: Path) -> None:
    with Leases(tmp_path).hold([A]):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert is_free(tmp_path, A) and child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_the_default_directory_is_one_for_each_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/elsewhere")
    with Leases().hold([A]):
        assert (tmp_path / f"tf-conformance-leases-{os.getuid()}" / "cpu-0.lock").exists()


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with (
        pytest.raises(HarnessFault, match=r"link': it is not a directory of user \d+\. Hint: Remove it, or"),
        Leases(tmp_path / "link").hold([A]),
    ):
        pass


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(HarnessFault, match=r"Leases on cores cannot be kept in '.*file/x': Not a directory"),
        Leases(tmp_path / "file/x").hold([A]),
    ):
        pass


def test_a_lock_file_that_cannot_be_opened_is_told_and_nothing_stays_locked(tmp_path: Path) -> None:
    (tmp_path / "cpu-1.lock").mkdir()
    with (
        pytest.raises(HarnessFault, match=r"cannot be kept in '.*': Is a directory"),
        Leases(tmp_path).hold([A]),
    ):
        pass
    assert is_free(tmp_path, frozenset({0}))
    assert lease.default_directory().name == f"tf-conformance-leases-{os.getuid()}"
