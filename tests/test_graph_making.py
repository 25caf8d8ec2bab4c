"""Graphs made from others: frozen, quantised, converted, each with what it was made from beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from graph_examples import two_convolutions  # noqa: E402

from conformance import wire  # noqa: E402
from conformance.models import graphs  # noqa: E402
from conformance.subject import convert_graph, freeze_graph, quantize, runtime  # noqa: E402
from conformance.subject.freeze import write_graph  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

v1 = tf.compat.v1
SIDE, CLASSES = 8, 5
IMAGES = np.random.default_rng(0).uniform(0, 255, (4, SIDE, SIDE, 3)).astype(np.float32)
NAMES = {"input_name": "input_tensor", "output_name": "softmax_tensor"}


class Silent:
    """Events that nobody hears."""

    def phase(self, name: str) -> None: ...

    def send(self, kind: str, **fields: Any) -> None: ...


def freeze(**arguments: Any) -> dict[str, Any]:
    return freeze_graph.freeze({**NAMES, **arguments}, Silent())


def convert(**arguments: Any) -> dict[str, Any]:
    return convert_graph.convert(wire.Job("", "", 1, 1, {**NAMES, "images": 2, "seed": 0, **arguments}), Silent())


def quantized(**arguments: Any) -> dict[str, Any]:
    common = {"dataset": "digits", "image_size": 32, "images": 6, "batch_size": 3, "seed": 0}
    return quantize.quantize({**NAMES, **common, **arguments}, Silent())


def refusal(making: Callable[..., Any], **arguments: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        making(**arguments)
    return caught.value


def answers(path: Path, names: dict[str, str] = NAMES) -> Any:
    return runtime.graph_step(wire.Job("", "", 1, 1, {}), graphs.read_graph(str(path)), "fp32", *names.values())(IMAGES)


def logits(images: Any, training: bool, resource: bool) -> Any:
    with v1.variable_scope("network", reuse=v1.AUTO_REUSE, use_resource=resource):
        moments = [
            v1.get_variable(name, [8], initializer=v1.ones_initializer()) for name in ("scale", "mean", "variance")
        ]
        offset = v1.get_variable("offset", [8])
        x = tf.nn.conv2d(images, v1.get_variable("kernel", [3, 3, 3, 8]), 2, "SAME")
        given = (moments[0], offset) if training else (moments[0], offset, *moments[1:])
        x = tf.nn.relu(v1.nn.fused_batch_norm(x, *given, is_training=training)[0])
        x = tf.matmul(tf.reduce_mean(x, [1, 2]), v1.get_variable("dense", [8, CLASSES]))
        return tf.nn.bias_add(x, v1.get_variable("bias", [CLASSES]))


class Trained(NamedTuple):
    prefix: Path
    expected: Any
    trap: Path  # what a reader of the training data would write


@pytest.fixture(scope="module", params=[False, True], ids=["variables", "resources"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A checkpoint as training leaves it: with other heads, an input pipeline, and an operation that writes a file."""
    place = tmp_path_factory.mktemp("trained")
    with tf.Graph().as_default():
        images = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], name="input_tensor")
        output = tf.nn.softmax(logits(images, False, request.param), name="softmax_tensor")
        tf.nn.softmax(logits(images, True, request.param), name="of_training")
        data = tf.data.Dataset.from_tensors(IMAGES).map(lambda x: x + tf.strings.to_number(tf.io.read_file("/no")))
        fed = v1.data.make_one_shot_iterator(data).get_next()
        tf.nn.softmax(logits(fed, False, request.param), name="of_a_pipeline")
        saver = v1.train.Saver()
        tf.io.write_file(str(place / "trap"), "sprung", name="save/restore_all_too")
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            saver.save(session, str(place / "model.ckpt"))
            return Trained(place / "model.ckpt", session.run(output, {images: IMAGES}), place / "trap")


def test_a_frozen_checkpoint_answers_as_the_session_did(trained: Trained, tmp_path: Path) -> None:
    made = freeze(source=str(trained.prefix), output=str(tmp_path / "a.pb"))
    np.testing.assert_array_equal(answers(tmp_path / "a.pb"), trained.expected)
    assert (made["classes"], made["precision"], made["network"].split(":")[0]) == (CLASSES, "fp32", "unknown")
    assert not graphs.read_graph(str(tmp_path / "a.pb")).library.function
    assert not trained.trap.exists()
    beside = json.loads((tmp_path / "a.pb.json").read_text())
    assert beside["sha256"] == made["sha256"] == graphs.file_digest(str(tmp_path / "a.pb"))
    assert (beside["made_by"], beside["from"]["path"]) == ("freeze", str(trained.prefix))
    again = freeze(source=f"{trained.prefix}.meta", output=str(tmp_path / "b.pb"))
    assert again["sha256"] == made["sha256"]


def test_a_checkpoint_whose_output_needs_a_refused_operation_is_refused(trained: Trained, tmp_path: Path) -> None:
    output = str(tmp_path / "a.pb")
    error = refusal(freeze, source=str(trained.prefix), output=output, output_name="of_a_pipeline")
    assert error.message.startswith(f"'{trained.prefix}.meta' holds operation ") and "touches files" in error.message
    assert not os.path.exists(output)


def test_a_graph_that_normalises_by_its_batch_is_refused(trained: Trained, tmp_path: Path) -> None:
    error = refusal(freeze, source=str(trained.prefix), output=str(tmp_path / "a.pb"), output_name="of_training")
    assert "normalises by the batch that it sees: the graph is one of training." in error.message


def test_a_checkpoint_without_the_output_or_its_values_is_told(trained: Trained, tmp_path: Path) -> None:
    output = str(tmp_path / "a.pb")
    missing = refusal(freeze, source=str(trained.prefix), output=output, output_name="scores")
    assert "has no tensor 'scores'; its softmax: of_a_pipeline, of_training, softmax_tensor." in missing.message
    alone = tmp_path / "alone.meta"
    alone.write_bytes(Path(f"{trained.prefix}.meta").read_bytes())
    assert "cannot be read: " in refusal(freeze, source=str(alone), output=output).message
    with tf.Graph().as_default(), v1.Session() as session:
        session.run(v1.get_variable("stranger", [1]).initializer)
        v1.train.Saver().save(session, str(tmp_path / "other"))
    (tmp_path / "other.meta").write_bytes(alone.read_bytes())
    foreign = refusal(freeze, source=str(tmp_path / "other"), output=output).message
    assert "has no value for variable 'network/" in foreign and foreign.endswith("it has: stranger.")
    alone.write_bytes(b"\x0a\xff\xff")
    assert "is no MetaGraphDef, or is cut short." in refusal(freeze, source=str(alone), output=output).message


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen graph with two convolutions."""
    return two_convolutions(tmp_path_factory.mktemp("fp32") / "fp32.pb")


def test_a_saved_model_and_a_graph_freeze_to_what_lies_before_the_output(fp32: Path, tmp_path: Path) -> None:
    made = freeze(source=str(fp32), output=str(tmp_path / "cut.pb"), output_name="Relu_1")
    assert graphs.last_nodes(graphs.read_graph(str(tmp_path / "cut.pb")))[0].name == "Relu_1"
    assert made["classes"] == 32

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(np.ones((3, CLASSES), np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, "input_tensor")])
        def __call__(self, x: Any) -> Any:
            return {"scores": tf.nn.softmax(tf.matmul(tf.reduce_mean(x, [1, 2]), self.kernel))}

    model = Model()
    tf.saved_model.save(model, str(tmp_path / "saved"), signatures={"serving_default": model.__call__})
    freeze(source=str(tmp_path / "saved"), output=str(tmp_path / "a.pb"), output_name="Identity")
    found = answers(tmp_path / "a.pb", {"input_name": "input_tensor", "output_name": "Identity"})
    np.testing.assert_allclose(found, np.full((4, CLASSES), 1 / CLASSES), rtol=1e-6)


def test_a_graph_that_cannot_be_written_is_told(fp32: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "gone" / "a.pb")
    error = refusal(freeze, source=str(fp32), output=output)
    assert error.message == f"{output!r} cannot be written: No such file or directory."


def test_a_graph_in_which_nothing_becomes_bf16_is_refused(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], name="input_tensor")
        tf.nn.softmax(tf.reduce_mean(x, [1, 2]), name="softmax_tensor")
    write_graph(graph.as_graph_def(), str(tmp_path / "a.pb"))
    error = refusal(convert, graph=str(tmp_path / "a.pb"), output=str(tmp_path / "b.pb"))
    assert error.message == f"TensorFlow {tf.__version__} made bf16 of none of 0 convolutions."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pb"]


def of_int8(place: Path) -> str:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 32, 32, 3], name="input_tensor")
        x = tf.quantization.dequantize(*tf.quantization.quantize(x, -1.0, 1.0, tf.quint8))
        tf.nn.softmax(tf.reduce_mean(x, [1, 2]), name="softmax_tensor")
    write_graph(graph.as_graph_def(), str(place / "int8.pb"))
    return str(place / "int8.pb")


def test_what_is_int8_already_is_neither_quantised_nor_converted(tmp_path: Path) -> None:
    graph, output = of_int8(tmp_path), str(tmp_path / "b.pb")
    for error in (
        refusal(quantized, graph=graph, output=output, data=None),
        refusal(convert, graph=graph, output=output),
    ):
        assert error.message == f"{graph!r} is int8 already."


def test_a_graph_that_reads_files_is_refused_whatever_is_to_be_made_of_it(tmp_path: Path) -> None:
    graph_def = v1.GraphDef()
    graph_def.node.add(name="input_tensor", op="Placeholder")
    graph_def.node.add(name="softmax_tensor", op="ReadFile", input=["input_tensor"])
    write_graph(graph_def, str(tmp_path / "a.pb"))
    common = {"graph": str(tmp_path / "a.pb"), "output": str(tmp_path / "b.pb")}
    for error in (
        refusal(freeze, source=common["graph"], output=common["output"]),
        refusal(convert, **common),
        refusal(quantized, data=None, **common),
    ):
        assert "holds operation ReadFile (node 'softmax_tensor'), which is refused: it touches files." in error.message


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


def test_calibration_images_come_before_training_images_and_never_from_validation(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shards(data, "validation", 1)
    with pytest.raises(Refused) as caught:
        quantize.calibration_shards(str(data))
    found = f"{str(data)!r} holds validation images only; a graph calibrated on them has seen what it is judged on."
    assert caught.value.message == found
    train = shards(data, "train", 1)
    assert quantize.calibration_shards(str(data)) == [str(train)]
    calibration = shards(data, "calibration", 1)
    assert quantize.calibration_shards(str(data)) == [str(calibration)]
    calibration.rename(data / "calibration-00000-of-00002")
    with pytest.raises(Refused, match="1 of 2 calibration shards are missing"):
        quantize.calibration_shards(str(data))


def test_the_digest_of_a_calibration_is_of_the_shards_that_were_read(tmp_path: Path) -> None:
    for number in range(9):  # eight are read side by side, and the ninth after them
        shards(tmp_path / "data", "train", 1).rename(tmp_path / "data" / f"train-{number:05d}-of-00009")
    paths = quantize.calibration_shards(str(tmp_path / "data"))
    batch = quantize.first_images(paths, 3, "digits")
    assert batch.images.shape == (3, 32, 32, 3) and sorted(path.decode() for path in batch.shards) == paths[:3]
