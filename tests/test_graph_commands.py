"""The commands that make graphs, as a user gives them."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from graph_examples import two_convolutions  # noqa: E402

from conformance import wire  # noqa: E402
from conformance.cli import OK, main  # noqa: E402
from conformance.commands.graphs import inspected_lines  # noqa: E402
from conformance.data.shards import shards_digest  # noqa: E402
from conformance.fixtures.catalogue import add, provenance  # noqa: E402
from conformance.hardware.detect import detect  # noqa: E402
from conformance.hardware.isa import native_precisions  # noqa: E402
from conformance.models import graphs  # noqa: E402
from conformance.subject import convert_graph  # noqa: E402
from conformance.subject.__main__ import MODULES  # noqa: E402
from conformance.subject.inspect_graph import inspected  # noqa: E402

pytestmark = pytest.mark.tensorflow

v1 = tf.compat.v1


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen graph with two convolutions."""
    return two_convolutions(tmp_path_factory.mktemp("fp32") / "fp32.pb")


def shards(place: Path, subset: str, count: int = 8) -> Path:
    place.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(place / f"{subset}-00000-of-00001")) as writer:
        for label in range(1, count + 1):
            image = tf.io.encode_jpeg(np.random.default_rng(label).integers(0, 255, (32, 32, 3), np.uint8)).numpy()
            features = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return place / f"{subset}-00000-of-00001"


@pytest.mark.parametrize("kind", [wire.INSPECT, wire.FREEZE, wire.QUANTIZE, wire.CONVERT])
def test_each_kind_of_job_has_a_module_that_runs_it(kind: str) -> None:
    assert callable(importlib.import_module("conformance.subject." + MODULES[kind]).run)


def test_what_is_known_of_a_graph_is_printed_for_people(fp32: Path) -> None:
    told = dict(inspected_lines(inspected(str(fp32))))
    assert told["inputs"] == "input_tensor float32 [?, 32, 32, 3]"
    assert told["outputs"] == "softmax_tensor float32 [?, 11]"
    assert (told["precision"], told["classes"], told["convolutions"]) == ("fp32", "11", "2 float32")
    parameters = 3 * 3 * 3 * 16 + 16 + 3 * 3 * 16 * 32 + 32 + 32 * 11
    assert told["parameters"] == f"{parameters:,} ({parameters:,} float32)"
    assert told["network"].startswith("unknown: its convolutions are 2; looked for are ")
    assert "2 Conv2D" in told["operations"] and "but" not in told


needs_bf16 = pytest.mark.skipif("bf16" not in native_precisions(detect()), reason="this CPU has no bf16")


@needs_bf16
def test_the_command_converts_every_convolution_to_bf16_and_tells_how_far_the_answers_differ(
    fp32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    add(fp32, "mine")
    output = tmp_path / "bf16.pb"
    assert main(["graphs", "convert", "mine", "--to", "bf16", "--output", str(output)]) == OK
    told = capsys.readouterr().out
    assert told.startswith(
        f"Wrote {output}: 2 of 2 convolutions in bf16.\nOn 16 images of noise, outputs differ from fp32 by "
    )
    graph_def = graphs.read_graph(str(output))
    assert convert_graph.convolutions(graph_def) == {"bf16": 2, "fp32": 0}
    assert graphs.describe(graph_def, "input_tensor", "softmax_tensor").precision == "bf16"
    beside = json.loads((tmp_path / "bf16.pb.json").read_text())
    assert 0 < beside["max_difference"] < 0.05 and beside["top1_agreement"] > 0.8
    assert beside["from"] == {"path": str(fp32), "sha256": graphs.file_digest(str(fp32))}
    assert provenance(output)


@pytest.mark.skipif(
    importlib.util.find_spec("neural_compressor") is None, reason="Neural Compressor is not installed here"
)
def test_the_command_keeps_a_quantised_graph_with_the_digest_of_its_calibration(
    fp32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard, output = shards(tmp_path / "data", "calibration"), tmp_path / "int8.pb"
    asked = ("--calibration", str(shard.parent), "--images", "6", "--dataset", "digits", "--output", str(output))
    assert main(["graphs", "quantize", str(fp32), *asked]) == OK
    calibration = {"sha256": shards_digest([str(shard)]), "images": 6}
    assert capsys.readouterr().out.splitlines() == [
        f"Wrote {output}: 2 of 2 convolutions in int8.",
        f"Calibrated on 6 images; SHA-256 of their shards: {calibration['sha256']}.",
    ]
    assert json.loads((tmp_path / "int8.pb.json").read_text())["calibration"] == calibration
    told = provenance(output)
    assert told and told.endswith(f"calibrated on 6 images, sha256 {calibration['sha256']}.")
