"""Graphs of others: what is read, what is refused and why, and what a graph says of itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from tensorflow.core.framework import op_def_pb2  # noqa: E402
from tensorflow.python.client import pywrap_tf_session  # noqa: E402

from conformance.models import allowed_ops, graphs  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

v1 = tf.compat.v1
HINT = "Give a frozen GraphDef (.pb), or a SavedModel directory."


def network(classes: int = 11, dtype: Any = tf.float32, batch: int | None = None) -> Any:
    """Build a frozen graph: convolution, batch normalisation, ReLU, mean, dense, softmax."""
    rng = np.random.RandomState(0)
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [batch, 8, 8, 3], name="input_tensor")
        x = tf.cast(x, dtype) if dtype != tf.float32 else x
        x = tf.nn.conv2d(x, tf.constant(rng.randn(3, 3, 3, 4), dtype), 1, "SAME", name="conv")
        moments = [tf.constant(1 + rng.rand(4), dtype) for _ in range(4)]
        if dtype == tf.float32:
            x = v1.nn.fused_batch_norm(x, *moments, is_training=False)[0]
        x = tf.reduce_mean(tf.nn.relu(x), [1, 2])
        x = tf.matmul(x, tf.constant(rng.randn(4, classes), dtype))
        x = tf.nn.bias_add(x, tf.constant(rng.randn(classes), dtype), name="final_dense")
        tf.nn.softmax(tf.cast(x, tf.float32) if dtype != tf.float32 else x, name="softmax_tensor")
    return graph.as_graph_def()


def save(graph_def: Any, path: Path) -> str:
    path.write_bytes(graph_def.SerializeToString())
    return str(path)


def add(graph_def: Any, op: str, name: str = "intruder", function: str | None = None) -> Any:
    """Put a node of any operation, also of none that TensorFlow knows, into a graph or a function of it."""
    if function is None:
        graph_def.node.add(name=name, op=op)
    else:
        graph_def.library.function.add().signature.name = function
        graph_def.library.function[-1].node_def.add(name=name, op=op)
    return graph_def


def refusal(path: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        graphs.read_graph(str(path))
    return caught.value


def run(graph_def: Any, images: np.ndarray, output: str = "softmax_tensor:0") -> np.ndarray:
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        with v1.Session(graph=graph) as session:
            return np.asarray(session.run(output, {"input_tensor:0": images}))


IMAGES = np.random.RandomState(1).uniform(-100, 100, (5, 8, 8, 3)).astype(np.float32)


def test_a_frozen_graph_reads_back(tmp_path: Path) -> None:
    path = save(network(), tmp_path / "fp32.pb")
    assert graphs.read_graph(path) == network()
    assert graphs.file_digest(path) == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_link_to_a_graph_is_followed(tmp_path: Path) -> None:
    save(network(), tmp_path / "real.pb")
    (tmp_path / "link.pb").symlink_to(tmp_path / "real.pb")
    assert graphs.read_graph(str(tmp_path / "link.pb")) == network()


def test_a_missing_graph_is_told(tmp_path: Path) -> None:
    error = refusal(tmp_path / "no.pb")
    assert (error.message, error.hint) == (f"There is no graph {str(tmp_path / 'no.pb')!r}.", HINT)


def test_a_graph_that_is_cut_short_is_told(tmp_path: Path) -> None:
    data = network().SerializeToString()
    (tmp_path / "cut.pb").write_bytes(data[:-100])
    found = f"{str(tmp_path / 'cut.pb')!r} ({len(data) - 100} bytes)"
    assert refusal(tmp_path / "cut.pb").message == f"{found} is no frozen graph, or is cut short."


def test_a_graph_that_lost_whole_nodes_is_told(tmp_path: Path) -> None:
    graph_def = network()
    (missing,) = (node for node in graph_def.node if node.name == "conv")
    graph_def.node.remove(missing)
    path = save(graph_def, tmp_path / "lost.pb")
    assert refusal(path).message == (
        f"{path!r} is incomplete: node 'FusedBatchNormV3' reads 'conv', which is not in it."
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "{} is an empty file."),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
            "{} is a Git LFS pointer, not the graph itself.",
        ),
        (b"node { name: 'input_tensor' }", "{} (29 bytes) is no frozen graph, or is cut short."),
        (b"\x18\x05", "{} is no graph: it holds no node."),
    ],
    ids=["empty", "lfs", "text", "no-node"],
)
def test_a_file_that_is_no_graph_is_told(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "a.pb").write_bytes(data)
    assert refusal(tmp_path / "a.pb").message == sentence.format(repr(str(tmp_path / "a.pb")))


@pytest.mark.parametrize(
    ("op", "why"),
    [
        ("ReadFile", "it touches files"),
        ("WriteFile", "it touches files"),
        ("MatchingFiles", "it touches files"),
        ("ImmutableConst", "it touches files"),
        ("SaveV2", "it touches files"),
        ("RestoreV2", "it touches files"),
        ("PrintV2", "it touches files"),
        ("TextLineDataset", "it touches files"),
        ("PyFunc", "it runs Python code"),
        ("EagerPyFunc", "it runs Python code"),
        ("PyFuncStateless", "it runs Python code"),
        ("DebugIdentityV2", "it talks to others"),
        ("RemoteCall", "it talks to others"),
        ("_HostSend", "it talks to others"),
        ("CollectiveReduceV2", "it talks to others"),
        ("HorovodAllreduce", "it talks to others"),
        ("VarHandleOp", "it holds or reads a variable, and the graph is not frozen"),
        ("VariableV2", "it holds or reads a variable, and the graph is not frozen"),
        ("Abort", "it is not among the operations that image models need"),
        ("SomebodysOwnOp", "it is not among the operations that image models need"),
    ],
)
@pytest.mark.parametrize("function", [None, "inner"])
def test_an_operation_that_leaves_the_process_is_refused(
    tmp_path: Path, op: str, why: str, function: str | None
) -> None:
    path = save(add(network(), op, function=function), tmp_path / "evil.pb")
    where = "node 'intruder'" + (" of function 'inner'" if function else "")
    error = refusal(path)
    assert error.message == f"{path!r} holds operation {op} ({where}), which is refused: {why}."
    assert error.hint == "Give a frozen graph of arithmetic operations only."


def test_a_function_cannot_lend_its_name_to_a_refused_operation(tmp_path: Path) -> None:
    graph_def = add(add(network(), "NoOp", function="ReadFile"), "ReadFile")
    assert "holds operation ReadFile (node 'intruder')" in refusal(save(graph_def, tmp_path / "evil.pb")).message


def test_a_node_may_call_a_function_of_its_graph(tmp_path: Path) -> None:
    graph_def = add(add(network(), "NoOp", function="inner"), "inner")
    assert len(graphs.read_graph(save(graph_def, tmp_path / "calls.pb")).library.function) == 1


@pytest.mark.parametrize(
    "op",
    [
        "QuantizedConv2DWithBiasAndReluAndRequantize",
        "_QuantizedConv2D",
        "_FusedQuantizedConv2D",
        "_FusedConv2D",
        "_MklNativeFusedConv2D",
        "_ITEXQuantizedConv2DWithDequantize",
        "_OneDnnQuantizedConv2D",
    ],
)
def test_fused_and_quantised_operations_are_allowed(tmp_path: Path, op: str) -> None:
    assert graphs.read_graph(save(add(network(), op), tmp_path / "int8.pb")).node[-1].op == op


def known_operations() -> dict[str, Any]:
    listed = op_def_pb2.OpList()
    listed.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return {op.name: op for op in listed.op}


def test_every_name_on_the_list_is_an_operation_of_some_tensorflow() -> None:
    newer = {"BatchMatMulV3", "DisableCopyOnRead"}  # than TensorFlow 2.8
    names = allowed_ops._ALLOWED | allowed_ops.VARIABLES
    assert names - set(known_operations()) <= newer


def test_no_allowed_operation_has_effects_beyond_control_flow_and_assertions() -> None:
    stateful = {name for name, op in known_operations().items() if op.is_stateful and allowed_ops.is_allowed(name)}
    assert stateful == {"Assert", "Case", "CheckNumerics", "If", "StatefulPartitionedCall", "While"}


def test_tensors_that_are_there_pass() -> None:
    graphs.check_graph(network(), "input_tensor:0", "softmax_tensor:0")
    graphs.check_graph(network(), "input_tensor", "final_dense")


@pytest.mark.parametrize(
    ("names", "sentence", "hint"),
    [
        (
            ("input", "softmax_tensor"),
            "The graph has no tensor 'input' to feed; its placeholders: input_tensor.",
            "Name it with --input-tensor.",
        ),
        (
            ("conv:0", "softmax_tensor"),
            "Input 'conv:0' is a Conv2D; the graph's placeholders: input_tensor.",
            "Name it with --input-tensor.",
        ),
        (
            ("input_tensor", "predict:0"),
            "The graph has no tensor 'predict:0' to fetch; its last operations: softmax_tensor (Softmax).",
            "Name it with --output-tensor.",
        ),
        (
            ("input_tensor", "Const"),
            "Output 'Const' does not depend on input 'input_tensor'; last operations: softmax_tensor (Softmax).",
            "Name it with --output-tensor.",
        ),
    ],
    ids=["no-input", "no-placeholder", "no-output", "independent"],
)
def test_a_tensor_that_is_not_there_is_told_with_those_that_are(names: Any, sentence: str, hint: str) -> None:
    with pytest.raises(Refused) as caught:
        graphs.check_graph(network(), *names)
    assert (caught.value.message, caught.value.hint) == (sentence, hint)


def test_a_long_list_of_candidates_is_cut() -> None:
    graph_def = network()
    for number in range(12):
        add(graph_def, "Relu", name=f"head_{number}")
    with pytest.raises(Refused, match=r"head_11 \(Relu\), head_10 .* and 5 more\."):
        graphs.check_graph(graph_def, "input_tensor", "nothing")


def test_a_graph_says_what_it_is() -> None:
    facts = graphs.describe(network(classes=1001, batch=2), "input_tensor:0", "softmax_tensor:0")
    assert facts.input_shape == [2, 8, 8, 3]
    assert (facts.input_dtype, facts.classes, facts.precision, facts.convolutions) == (
        "float32",
        1001,
        "fp32",
        1,
    )
    assert facts.operations["Conv2D"] == facts.operations["Softmax"] == facts.operations["Placeholder"] == 1
    assert sum(facts.operations.values()) == len(network().node)


@pytest.mark.parametrize(("dtype", "precision"), [(tf.bfloat16, "bf16"), (tf.float16, "fp16")])
def test_the_types_of_a_graph_tell_its_precision(dtype: Any, precision: str) -> None:
    assert graphs.describe(network(dtype=dtype), "input_tensor", "softmax_tensor").precision == precision


def test_quantised_operations_tell_int8() -> None:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="input_tensor")
        quantized = tf.quantization.quantize(x, -1.0, 1.0, tf.quint8)
        tf.nn.softmax(tf.quantization.dequantize(*quantized), name="softmax_tensor")
    facts = graphs.describe(graph.as_graph_def(), "input_tensor", "softmax_tensor")
    assert (facts.precision, facts.classes, facts.convolutions) == ("int8", 4, 0)


def test_simulated_quantisation_is_not_int8() -> None:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="input_tensor")
        tf.quantization.fake_quant_with_min_max_args(x, name="softmax_tensor")
    assert graphs.describe(graph.as_graph_def(), "input_tensor", "softmax_tensor").precision == "fp32"


def test_without_static_shapes_the_last_bias_tells_the_classes() -> None:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, name="input_tensor")
        shape = v1.placeholder(tf.int32, name="shape")
        x = tf.nn.bias_add(tf.reshape(x, shape), tf.zeros([7]) + 0.0, name="dense")
        tf.nn.softmax(tf.reshape(x, shape), name="softmax_tensor")
    facts = graphs.describe(graph.as_graph_def(), "input_tensor", "softmax_tensor")
    assert (facts.input_shape, facts.classes) == (None, 7)


def test_a_graph_of_another_plugin_is_told() -> None:
    with pytest.raises(Refused) as caught:
        graphs.describe(add(network(), "_ITEXConv2D"), "input_tensor", "softmax_tensor")
    assert caught.value.message.startswith(f"TensorFlow {tf.__version__} cannot import the graph: ")
    assert "_ITEXConv2D" in caught.value.message
    assert caught.value.hint == "Use the TensorFlow, or the plugin, that the graph was made for."


def test_an_output_index_that_is_not_there_is_told() -> None:
    with pytest.raises(Refused) as caught:
        graphs.describe(network(), "input_tensor", "softmax_tensor:3")
    expected = "The graph has no tensor 'softmax_tensor:3': node 'softmax_tensor' has fewer outputs."
    assert caught.value.message == expected


@pytest.mark.parametrize(("classes", "labels"), [(1001, 1000), (11, 10)])
def test_labels_from_1_need_one_output_more(classes: int, labels: int) -> None:
    graphs.check_classes(classes, labels)


@pytest.mark.parametrize(
    ("classes", "found"), [(1000, "1000"), (1002, "1002"), (10, "10"), (None, "an unknown number of")]
)
def test_a_graph_without_the_background_class_is_told(classes: int | None, found: str) -> None:
    with pytest.raises(Refused) as caught:
        graphs.check_classes(classes, 1000)
    expected = f"The graph has {found} outputs, but labels 1 to 1000 need 1001 (output 0 is the background)."
    assert caught.value.message == expected


def test_an_optimised_graph_answers_the_same_without_batch_normalisation() -> None:
    graph_def = network()
    result = graphs.optimized(graph_def, "input_tensor:0", "softmax_tensor:0")
    assert not [node.name for node in result.node if node.op.startswith("FusedBatchNorm")]
    np.testing.assert_allclose(run(result, IMAGES), run(graph_def, IMAGES), atol=1e-5)
    facts = graphs.describe(result, "input_tensor", "softmax_tensor")
    assert (facts.input_shape, facts.classes) == ([None, 8, 8, 3], 11)


def test_optimising_leaves_the_original_as_it_was() -> None:
    graph_def = network()
    graphs.optimized(graph_def, "input_tensor", "softmax_tensor")
    assert graph_def == network()


class Model(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(np.random.RandomState(0).randn(3, 11).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, "input_tensor")])
    def __call__(self, x: Any) -> Any:
        return {"scores": tf.nn.softmax(tf.matmul(tf.reduce_mean(x, [1, 2]), self.kernel))}


def saved(path: Path, signature: str = "serving_default") -> Path:
    model = Model()
    tf.saved_model.save(model, str(path), signatures={signature: model.__call__})
    return path


def placeholders(graph_def: Any) -> list[str]:
    return [node.name for node in graph_def.node if node.op == "Placeholder"]


def test_a_saved_model_is_frozen_by_its_signature(tmp_path: Path) -> None:
    graph_def = graphs.read_graph(str(saved(tmp_path / "model")))
    assert not {node.op for node in graph_def.node} & allowed_ops.VARIABLES
    assert placeholders(graph_def) == ["input_tensor"]
    graphs.check_graph(graph_def, "input_tensor", "Identity")
    assert graphs.describe(graph_def, "input_tensor", "Identity").classes == 11
    model = Model()
    expected = model(tf.constant(IMAGES))["scores"]
    np.testing.assert_allclose(run(graph_def, IMAGES, "Identity:0"), expected, atol=1e-5)


def test_the_digest_of_a_saved_model_covers_its_variables(tmp_path: Path) -> None:
    path = saved(tmp_path / "model")
    before = graphs.file_digest(str(path))
    (data,) = (path / "variables").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:-1] + b"!")
    assert graphs.file_digest(str(path)) != before


def test_a_directory_without_a_saved_model_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("checkpoint", "a.ckpt"):
        (tmp_path / name).touch()
    found = f"Directory {str(tmp_path)!r} is no SavedModel: it has no saved_model.pb"
    assert refusal(tmp_path).message == f"{found}, it holds a.ckpt, checkpoint."


def test_an_empty_directory_is_no_saved_model(tmp_path: Path) -> None:
    assert refusal(tmp_path).message.endswith("it has no saved_model.pb, it holds nothing.")


def test_a_file_of_a_saved_model_points_to_its_directory(tmp_path: Path) -> None:
    path = saved(tmp_path / "model") / "saved_model.pb"
    error = refusal(path)
    assert error.message == f"{str(path)!r} is one file of a SavedModel."
    assert error.hint == f"Give its directory, {str(path.parent)!r}."


def test_a_saved_model_that_is_cut_short_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "model") / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-50])
    assert refusal(path.parent).message.endswith("bytes) is no SavedModel, or is cut short.")


def test_a_saved_model_without_a_graph_is_told(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    assert refusal(tmp_path).message == f"SavedModel {str(tmp_path)!r} holds no graph."


def test_a_saved_model_without_its_variables_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "model")
    for file in (path / "variables").iterdir():
        file.unlink()
    error = refusal(path)
    assert error.message.startswith(f"SavedModel {str(path)!r} cannot be loaded: ")
    assert error.hint == "Export it again, with variables and a signature 'serving_default'."


def test_a_saved_model_without_the_signature_lists_those_it_has(tmp_path: Path) -> None:
    path = saved(tmp_path / "model", "other")
    assert refusal(path).message == f"SavedModel {str(path)!r} has no signature 'serving_default'; it has: other."


def test_a_saved_model_that_reads_files_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def __call__(self, path: Any) -> Any:
            return {"data": tf.io.read_file(path)}

    reader = Reader()
    tf.saved_model.save(reader, str(tmp_path), signatures={"serving_default": reader.__call__})
    monkeypatch.setattr(tf.saved_model, "load", lambda *_: pytest.fail("the SavedModel was loaded"))
    error = refusal(tmp_path)
    assert error.message.startswith(f"{str(tmp_path)!r} holds operation ReadFile (node 'ReadFile' of function ")
    assert error.message.endswith("which is refused: it touches files.")


@pytest.mark.parametrize(
    ("batch", "shape", "declared"),
    [
        (None, (4, 8, 8, 3), None),
        (2, (2, 8, 8, 3), None),
        (2, (4, 8, 8, 3), "float32 (2, 8, 8, 3)"),
        (None, (4, 9, 8, 3), "float32 (None, 8, 8, 3)"),
    ],
)
def test_images_of_another_shape_than_the_input_takes_are_refused(
    batch: int | None, shape: tuple[int, ...], declared: str | None
) -> None:
    graph_def = network(batch=batch)
    if declared is None:
        graphs.check_feed(graph_def, "input_tensor:0", shape)
        return
    with pytest.raises(Refused) as caught:
        graphs.check_feed(graph_def, "input_tensor", shape)
    assert caught.value.message == f"Input 'input_tensor' takes {declared}, and would be fed float32 {shape}."
    assert "--batch-size" in caught.value.hint


def test_images_are_refused_where_the_input_takes_whole_numbers() -> None:
    graph_def = network()
    graph_def.node[0].attr["dtype"].type = tf.uint8.as_datatype_enum
    with pytest.raises(Refused, match=r"takes uint8 \(None, 8, 8, 3\), and would be fed float32"):
        graphs.check_feed(graph_def, "input_tensor", (1, 8, 8, 3))


def test_an_input_that_declares_no_shape_takes_any() -> None:
    graph_def = network()
    del graph_def.node[0].attr["shape"]
    graphs.check_feed(graph_def, "input_tensor", (1, 9, 9, 3))
