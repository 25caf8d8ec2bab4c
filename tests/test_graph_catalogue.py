"""Published graphs by name, and the digests of those that the user has."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from conformance.cases import Case
from conformance.cli import OK, USAGE, main
from conformance.errors import HarnessFault, UsageError
from conformance.fixtures import catalogue
from conformance.fixtures.inputs import Inputs
from conformance.fixtures.options import Options
from conformance.fixtures.session import Session

INT8 = "resnet50v1_5-int8"
INT8_FILE = "resnet50v1_5_int8_pretrained_model.pb"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file of this test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "tf-conformance" / "graphs.lock.json"


def graph(place: Path, name: str = "a.pb", data: bytes = b"a graph") -> Path:
    path = place / name
    path.write_bytes(data)
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refused(call: Any, *arguments: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    return caught.value


def test_the_published_graphs_have_a_source_each_and_both_spellings_of_the_bf16_one() -> None:
    rows = catalogue.published()
    assert [(row.name, row.precision) for row in rows.values()] == [
        (INT8, "int8"),
        ("resnet50v1_5-fp32", "fp32"),
        ("resnet50v1_5-bf16", "bf16"),
    ]
    assert rows["resnet50v1_5-bf16"].files == ("resnet50_v1_5_bfloat16.pb", "resnet50_v1_bfloat16.pb")
    for row in rows.values():
        assert row.url.rsplit("/", 1)[1] in row.files and row.source
        assert (row.classes, row.input_tensor, row.output_tensor) == (1001, "input_tensor", "softmax_tensor")


def test_a_graph_that_is_added_is_kept_with_digest_and_size(tmp_path: Path, home: Path) -> None:
    path = graph(tmp_path)
    catalogue.add(path, INT8)
    kept = json.loads(home.read_text())
    assert kept[INT8].pop("added_at")
    assert kept == {INT8: {"path": str(path), "sha256": digest(b"a graph"), "bytes": 7}}
    assert [file.name for file in home.parent.iterdir()] == [home.name]
    assert catalogue.resolved(Path(INT8)) == path


def test_other_bytes_under_a_name_are_refused_with_both_digests(tmp_path: Path) -> None:
    catalogue.add(graph(tmp_path), "mine")
    other = graph(tmp_path, "b.pb", b"another")
    error = refused(catalogue.add, other, "mine")
    assert error.message == (
        f"{str(other)!r} is not the graph that was added as 'mine': its SHA-256 is {digest(b'another')} (7 bytes), "
        f"that one's {digest(b'a graph')} (7 bytes)."
    )
    assert "--replace" in error.hint
    catalogue.add(graph(tmp_path, "copy.pb"), "mine")
    assert catalogue.resolved(Path("mine")) == tmp_path / "copy.pb"
    catalogue.add(other, "mine", replace=True)
    assert catalogue.resolved(Path("mine")) == other


def test_a_graph_that_changed_since_it_was_added_is_refused_by_its_name(tmp_path: Path) -> None:
    catalogue.add(graph(tmp_path), "mine")
    graph(tmp_path, data=b"changed since")
    error = refused(catalogue.resolved, Path("mine"))
    assert digest(b"changed since") in error.message and digest(b"a graph") in error.message
    assert error.hint.endswith("keep this one with `conformance graphs add FILE --as mine --replace`.")


def test_other_bytes_in_a_file_of_a_published_name_are_refused(tmp_path: Path) -> None:
    there = graph(tmp_path, INT8_FILE)
    assert catalogue.resolved(there) == there  # nothing was added that it could differ from
    catalogue.add(there, INT8)
    assert catalogue.resolved(there) == there
    (tmp_path / "other").mkdir()
    error = refused(catalogue.resolved, graph(tmp_path / "other", INT8_FILE, b"another"))
    assert f"not the graph that was added as '{INT8}'" in error.message
    assert digest(b"another") in error.message and digest(b"a graph") in error.message


def test_a_published_graph_that_was_never_added_tells_where_it_is(tmp_path: Path) -> None:
    error = refused(catalogue.resolved, Path(INT8))
    url = "https://storage.googleapis.com/intel-optimized-tensorflow/models/v1_6/" + INT8_FILE
    assert error.message == f"Graph '{INT8}' was not added here; it is published at {url}."
    assert error.hint == f"Fetch it, then `conformance graphs add FILE --as {INT8}`."


def test_a_graph_that_is_gone_or_was_never_known_is_told(tmp_path: Path) -> None:
    path = graph(tmp_path)
    catalogue.add(path, "mine")
    path.unlink()
    gone = refused(catalogue.resolved, Path("mine"))
    assert gone.message == f"Graph 'mine' was added as {str(path)!r}, and nothing is there any more."
    assert refused(catalogue.resolved, Path("nobody's")).message == 'There is no graph "nobody\'s".'
    assert refused(catalogue.add, path, "mine").message == f"There is no graph {str(path)!r}."


@pytest.mark.parametrize("name", ["", "Mine", "a/b", "-x", "..", "a b"])
def test_a_name_that_could_be_taken_for_something_else_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(catalogue.add, graph(tmp_path), name).message == f"A graph cannot be named {name!r}."


@pytest.mark.parametrize("text", ["no JSON", '{"mine": {"path": "a.pb"}}', '{"mine": 1}'])
def test_a_lock_file_that_is_none_is_told_and_left_alone(tmp_path: Path, home: Path, text: str) -> None:
    home.parent.mkdir(parents=True)
    home.write_text(text)
    assert refused(catalogue.add, graph(tmp_path), "mine").message.startswith(
        f"{str(home)!r} is no lock file of graphs: "
    )
    assert home.read_text() == text


def test_a_lock_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file in the way")
    with pytest.raises((HarnessFault, UsageError)) as caught:
        catalogue.add(graph(tmp_path), "mine")
    assert str(tmp_path / "home") in caught.value.message


def test_a_saved_model_is_added_as_a_whole(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    graph(model, "saved_model.pb", b"1234")
    catalogue.add(model, "mine")
    assert catalogue.added()["mine"].bytes == 4
    graph(model, "extra", b"5")
    assert "not the graph that was added" in refused(catalogue.resolved, Path("mine")).message


def case(precision: str) -> Case:
    return Case(
        id="x", model="resnet50_v1_5", mode="latency", precision=precision, dataset="dummy", batch_size=1, source="y"
    )  # fmt: skip


def test_in_graph_takes_a_name_for_a_precision(tmp_path: Path) -> None:
    path = graph(tmp_path)
    catalogue.add(path, INT8)
    session = Session(Options(in_graph=(f"int8={INT8}",)), tmp_path, (), "run", None)
    assert Inputs(session).graph(case("int8"), "int8") == path
    graph(tmp_path, data=b"changed")
    assert digest(b"changed") in refused(Inputs(session).graph, case("int8"), "int8").message


def sidecar(path: Path, **changes: Any) -> None:
    said = {
        "sha256": digest(path.read_bytes()),
        "made_by": "quantize",
        "from": {"path": "/models/fp32.pb", "sha256": "f" * 64},
        "tensorflow": "2.21.0",
        "packages": {"neural-compressor-tf": "3.10"},
        "harness": "0.1.0",
        "calibration": {"sha256": "c" * 64, "images": 500},
    }
    path.with_name(path.name + ".json").write_text(json.dumps({**said, **changes}))


def test_what_a_graph_was_made_from_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = graph(tmp_path)
    sidecar(path)
    made = f"a.pb was made from fp32.pb (sha256 {'f' * 64}) by quantize, TensorFlow 2.21.0, neural-compressor-tf 3.10"
    assert catalogue.provenance(path) == f"{made}, calibrated on 500 images, sha256 {'c' * 64}."
    sidecar(path, calibration={"sha256": None, "images": 20})
    assert catalogue.provenance(path) == f"{made}, calibrated on 20 images of noise, good for speed only."
    sidecar(path, calibration=None, packages={})
    assert (
        catalogue.provenance(path) == f"a.pb was made from fp32.pb (sha256 {'f' * 64}) by quantize, TensorFlow 2.21.0."
    )


def test_what_was_said_of_other_bytes_is_not_told_of_these(tmp_path: Path) -> None:
    path = graph(tmp_path)
    assert catalogue.provenance(path) is None
    sidecar(path)
    path.write_bytes(b"replaced")
    assert catalogue.provenance(path) is None
    path.with_name("a.pb.json").write_text("[]")
    assert catalogue.provenance(path) is None


def test_the_list_says_what_is_published_and_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = graph(tmp_path)
    assert main(["graphs", "add", str(path), "--as", INT8]) == main(["graphs", "add", str(path), "--as", "mine"]) == OK
    capsys.readouterr()
    assert main(["graphs", "list"]) == OK
    told = capsys.readouterr().out
    assert told.count(digest(b"a graph")) == 2 and told.count("not added") == 2 and "mine: added by you" in told
    assert all(row.url in told for row in catalogue.published().values())


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ("add {a} --as Mine", "A graph cannot be named 'Mine'."),
        ("add {a}", "The following arguments are required: --as."),
        ("inspect {tmp}/no.pb", "There is no graph '{tmp}/no.pb'."),
        ("convert {a} --to bf16 --output {a}", "There is a file '{a}' already."),
        ("freeze {a} --output {tmp}/no/b.pb", "There is no directory '{tmp}/no' to write in."),
        ("quantize {a} --output {tmp}/b.pb", "The following arguments are required: --calibration."),
        ("convert {a} --to fp16 --output b.pb", "Unknown value of --to 'fp16' (did you mean 'bf16'?); known: bf16."),
    ],
)
def test_a_mistake_is_told_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: str, error: str
) -> None:
    names = {"a": graph(tmp_path), "tmp": tmp_path}
    assert main(["graphs", *argv.format(**names).split()]) == USAGE
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[0] == f"error: {error.format(**names)}" and len(err.splitlines()) == 2
