"""A stack is found by name or path, and asked what it holds; what cannot run subjects is refused in a sentence."""

from __future__ import annotations

import importlib.util
import json
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest

from conformance.errors import UsageError
from conformance.stacks import Stack, find_interpreter, probe


def script(path: Path, body: str) -> Path:
    """Make a program that stands where an interpreter is expected."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with two environments of tox."""
    for name in ("tf215", "tf221"):
        script(tmp_path / ".tox" / name / "bin" / "python", "exit 1")
    return tmp_path


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real virtual environment with nothing in it."""
    path = tmp_path_factory.mktemp("stacks") / "empty"
    venv.create(path, symlinks=True)
    return path


def holding(environment: Path, **packages: str) -> str:
    """Let an environment hold packages, as far as their metadata goes, and return its interpreter."""
    (site,) = environment.glob("lib/python*/site-packages")
    for old in site.glob("*.dist-info"):
        (old / "METADATA").unlink()
        old.rmdir()
    for name, version in packages.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(environment / "bin" / "python")


def refusal(name: str, interpreter: str | Path) -> tuple[str, str]:
    with pytest.raises(UsageError) as error:
        probe(name, str(interpreter))
    return error.value.message, error.value.hint


def test_without_a_name_the_stack_is_the_interpreter_of_pytest(root: Path) -> None:
    assert find_interpreter("", root) == ("default", sys.executable)


def test_a_stack_is_found_by_the_name_of_an_environment_of_tox(root: Path) -> None:
    assert find_interpreter("tf215", root) == ("tf215", str(root / ".tox/tf215/bin/python"))


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("{root}/mine", "mine"),
        ("{root}/mine/", "mine"),
        ("{root}/mine/bin/python", "mine"),
        ("{root}/tools/python9", "python9"),
        ("mine", "mine"),
        ("./mine", "mine"),
        ("mine/.", "mine"),
    ],
)
def test_a_stack_is_found_by_the_path_of_an_environment_or_of_an_interpreter(
    root: Path, spec: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(root / "mine/bin/python", "exit 1")
    script(root / "tools/python9", "exit 1")
    monkeypatch.chdir(root)
    found, interpreter = find_interpreter(spec.format(root=root), root / "elsewhere")
    assert found == name
    assert Path(interpreter).is_absolute() and Path(interpreter).exists()


def test_an_environment_that_is_the_working_directory_has_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(root / "mine/bin/python", "exit 1")
    monkeypatch.chdir(root / "mine")
    assert find_interpreter(".", root)[0] == "mine"


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("tf999", "Make it with `tox -e tf999 --notest`, or give the path of a Python that has TensorFlow."),
        ("/no/such/place", "Give the path of a Python, or of its virtual environment."),
    ],
)
def test_an_unknown_stack_is_refused_with_those_that_are_here(root: Path, spec: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        find_interpreter(spec, root)
    assert error.value.message == (
        f"There is no stack {spec!r}: neither an environment of tox nor a path to an interpreter; "
        "environments here: tf215, tf221."
    )
    assert error.value.hint == hint


def test_where_no_environment_was_made_none_is_listed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="environments here: none"):
        find_interpreter("tf215", tmp_path)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("exit 0", "exit status 0 and no output"),
        ("exit 3", "exit status 3 and no output"),
        ("echo not a Python", "not a Python"),
        ("echo first >&2; echo it is broken. >&2; exit 1", "it is broken"),
        ("echo '[1, 2]'", "[1, 2]"),
        ("echo '{\"python\": [3, 11, 0]}'", '{"python": [3, 11, 0]}'),
        ("printf '\\377\\376'", "\N{REPLACEMENT CHARACTER}" * 2),
    ],
)
def test_a_program_that_is_no_python_is_refused_with_its_last_words(tmp_path: Path, body: str, why: str) -> None:
    program = script(tmp_path / "python", body)
    assert refusal("mine", program) == (
        f"{str(program)!r} of stack 'mine' is no working Python: {why}.",
        f"Run `{program} --version`, or choose another with --stack.",
    )


def test_a_program_that_cannot_be_started_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("no program")
    assert refusal("mine", program)[0] == (
        f"The interpreter {str(program)!r} of stack 'mine' does not start: Permission denied."
    )


def test_a_program_that_never_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.stacks.PROBE_LIMIT_S", 0.1)
    program = script(tmp_path / "python", "exec sleep 20")
    assert refusal("mine", program)[0] == (
        f"The interpreter {str(program)!r} of stack 'mine' does not start: no answer in 0.1 s."
    )


def test_a_python_that_is_too_old_is_refused(tmp_path: Path) -> None:
    answer = json.dumps({"python": [3, 7, 17], "prefix": "/", "packages": {}})
    program = script(tmp_path / "python", f"echo '{answer}'")
    assert refusal("mine", program)[0] == "Stack 'mine' has Python 3.7.17; subjects need 3.8 or newer."


def test_a_python_without_tensorflow_is_refused(environment: Path) -> None:
    python = holding(environment, numpy="1.26.4")
    assert refusal("empty", python) == (
        f"Stack 'empty' ({python}) has no TensorFlow.",
        f"Install it with `{python} -m pip install tensorflow`, or choose another stack with --stack.",
    )


def test_a_tensorflow_that_is_too_old_is_refused(environment: Path) -> None:
    python = holding(environment, tensorflow="2.7.4")
    assert refusal("old", python)[0] == "Stack 'old' has TensorFlow 2.7.4; subjects need 2.8 or newer."


@pytest.mark.parametrize("version", ["2.8.0", "2.21.0rc1", "3.0.0"])
def test_a_tensorflow_that_is_new_enough_is_taken(environment: Path, version: str) -> None:
    assert probe("new", holding(environment, tensorflow=version)).tensorflow == version


def test_of_what_is_installed_a_stack_tells_what_changes_a_measurement(environment: Path) -> None:
    python = holding(environment, Intel_TensorFlow="2.15.0", neural_compressor="2.6", requests="2.0", numpy="1.26.4")
    assert probe("mine", python) == Stack(
        name="mine",
        python=python,
        python_version=".".join(map(str, sys.version_info[:3])),
        packages={"intel-tensorflow": "2.15.0", "neural-compressor": "2.6", "numpy": "1.26.4"},
    )


@pytest.mark.parametrize(
    ("packages", "quantizer"),
    [
        ({}, None),
        ({"neural_compressor": "2.6"}, "neural-compressor 2.6"),
        ({"neural_compressor_tf": "3.4"}, "neural-compressor-tf 3.4"),
        ({"neural_compressor_tf": "3.4", "neural_compressor": "3.4"}, "neural-compressor-tf 3.4"),
    ],
)
def test_a_stack_knows_its_quantizer(environment: Path, packages: dict[str, str], quantizer: str | None) -> None:
    assert probe("mine", holding(environment, tensorflow="2.15.0", **packages)).quantizer == quantizer


def test_a_probe_sees_nothing_of_the_users_environment(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subject sees neither PYTHONPATH nor the working directory, and a wrong PYTHONHOME breaks any Python."""
    for place in ("on-path", "here"):
        folder = tmp_path / place / "tensorflow-2.9.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.9.0\n")
        (tmp_path / place / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "on-path"))
    monkeypatch.setenv("PYTHONHOME", "/no/such/home")
    monkeypatch.chdir(tmp_path / "here")
    assert probe("mine", holding(environment, tensorflow="2.15.0")).tensorflow == "2.15.0"


def test_of_two_tensorflows_on_the_path_the_stack_has_the_one_that_is_imported(
    environment: Path, tmp_path: Path
) -> None:
    """As with a .pth file or the system's packages: Python imports the first, and lists both."""
    interpreter = holding(environment, tensorflow="2.21.0")
    behind = tmp_path / "behind"
    for package in ("tensorflow", "keras"):
        folder = behind / f"{package}-2.15.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.15.0\n")
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "behind.pth").write_text(f"{behind}\n")
    try:
        assert probe("mine", interpreter).packages == {"tensorflow": "2.21.0", "keras": "2.15.0"}
    finally:
        (site / "behind.pth").unlink()


@pytest.mark.tensorflow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow in this interpreter")
def test_the_stack_of_these_tests_is_as_its_metadata_says() -> None:
    stack = probe(*find_interpreter("", Path.cwd()))
    assert (stack.name, stack.python, stack.tensorflow) == ("default", sys.executable, metadata.version("tensorflow"))
