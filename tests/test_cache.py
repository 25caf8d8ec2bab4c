"""Inputs are made once, as a whole or not at all, whoever asks and however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.errors import HarnessFault, SubjectFailed
from conformance.fixtures.cache import Cache, default_root, sources_digest

KEY = {"seed": 0}

# A process that asks for an entry, tells when it makes it, and is killed in the middle when told to.
ASKING = """
import os, signal, sys, time
from pathlib import Path
from conformance.fixtures.cache import Cache
root, how = Path(sys.argv[1]), sys.argv[2]
def make(directory):
    with open(root / "made.log", "a") as log:
        log.write("made\\n")
    (directory / "half").write_text("half")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    (directory / "whole").write_text("whole")
print(Cache(root).entry("graph", {"seed": 0}, make) / "whole")
"""


def asking(root: Path, how: str = "whole") -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", ASKING, str(root), how], stdout=subprocess.PIPE, text=True)


def writes(text: str, count: list[int]) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        count.append(1)
        (directory / "file").write_text(text)

    return make


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def test_an_entry_is_made_once_and_keeps_its_key(tmp_path: Path) -> None:
    made: list[int] = []
    first = Cache(tmp_path).entry("graph", KEY, writes("one", made))
    second = Cache(tmp_path).entry("graph", KEY, writes("two", made))
    assert first == second and len(made) == 1
    assert (first / "file").read_text() == "one"
    assert json.loads((first / "key.json").read_text()) == KEY
    assert first.name.startswith("graph-")


def test_another_kind_or_key_is_another_entry_and_the_order_of_a_key_is_none(tmp_path: Path) -> None:
    made: list[int] = []
    cache = Cache(tmp_path)
    asked = [("a", {"x": 1, "y": 2}), ("a", {"y": 2, "x": 1}), ("a", {"x": 1, "y": 3}), ("b", {"x": 1, "y": 2})]
    paths = [cache.entry(kind, key, writes("", made)) for kind, key in asked]
    assert paths[0] == paths[1] and len(set(paths)) == len(made) == 3


def test_two_processes_that_want_one_entry_make_it_once(tmp_path: Path) -> None:
    processes = [asking(tmp_path), asking(tmp_path)]
    told = {process.communicate(timeout=20)[0] for process in processes}
    assert len(told) == 1 and Path(told.pop().strip()).read_text() == "whole"
    assert (tmp_path / "made.log").read_text() == "made\n"


@pytest.mark.parametrize("error", [SubjectFailed("It crashed.", "Look."), KeyboardInterrupt()])
def test_what_fails_or_is_interrupted_leaves_nothing_and_is_made_again(tmp_path: Path, error: BaseException) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").write_text("half")
        raise error

    with pytest.raises(type(error)) as raised:
        Cache(tmp_path).entry("graph", KEY, fail)
    assert raised.value is error and entries(tmp_path) == []
    made: list[int] = []
    entry = Cache(tmp_path).entry("graph", KEY, writes("whole", made))
    assert len(made) == 1 and sorted(p.name for p in entry.iterdir()) == ["file", "key.json"]


def test_a_make_that_was_killed_leaves_no_entry_and_is_made_again(tmp_path: Path) -> None:
    killed = asking(tmp_path, "killed")
    killed.communicate(timeout=20)
    assert killed.returncode == -signal.SIGKILL
    made: list[int] = []
    entry = Cache(tmp_path).entry("graph", KEY, writes("whole", made))
    assert len(made) == 1 and sorted(p.name for p in entry.iterdir()) == ["file", "key.json"]
    assert entries(tmp_path) == [entry.name]


HINT = "Free space there, or name another directory in the environment variable TF_CONFORMANCE_CACHE."


def test_a_root_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "cache"
    with pytest.raises(HarnessFault) as error:
        Cache(root).entry("graph", KEY, writes("", []))
    assert error.value.message == f"The cache {str(root)!r} cannot be written: Not a directory."
    assert error.value.hint == HINT


def test_a_disk_that_fills_up_while_an_entry_is_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    def fill(directory: Path) -> None:
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)

    with pytest.raises(HarnessFault) as error:
        Cache(tmp_path).entry("graph", KEY, fill)
    full = f"The cache {str(tmp_path)!r} cannot be written: No space left on device."
    assert (error.value.message, error.value.hint, entries(tmp_path)) == (full, HINT, [])


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ({"TF_CONFORMANCE_CACHE": "/a"}, "/a"),
        ({"TF_CONFORMANCE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"TF_CONFORMANCE_CACHE": "~/a", "HOME": "/home/me"}, "/home/me/a"),
        ({"TF_CONFORMANCE_CACHE": "a"}, "{here}/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/tf-conformance"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/tf-conformance"),
    ],
)
def test_the_cache_lies_where_the_environment_says(
    given: dict[str, str], root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TF_CONFORMANCE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert str(default_root()) == root.format(here=tmp_path)


def test_the_digest_of_sources_is_of_those_that_are_named() -> None:
    assert sources_digest("data/*.py") == sources_digest("data/*.py")
    assert len({sources_digest("data/*.py"), sources_digest("models/*.py"), sources_digest()}) == 3
