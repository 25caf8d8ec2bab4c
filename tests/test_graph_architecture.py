"""Which network a graph is: told by its convolutions, whatever its file is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from conformance.models import graphs, resnet  # noqa: E402
from conformance.models.architecture import Network, check_network, convolutions, recognised  # noqa: E402
from conformance.subject import accuracy, measure  # noqa: E402
from conformance.subject.freeze import frozen, write_graph  # noqa: E402
from conformance.subject.inspect_graph import inspected  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

NAMES = {"input_name": "input_tensor", "output_name": "softmax_tensor"}
V1_5 = "3x3 convolution 'Conv2D_13' has the stride 2"
V1 = "1x1 convolution 'Conv2D_12' has the stride 2"


def network(change: Callable[[Any], None] = lambda block: None) -> resnet.ResNet:
    """Return all 53 convolutions of ResNet50, with few channels; ``change`` is made to each block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "thin", resnet.Variant((3, 4, 6, 3), (8, 16, 32, 64)))
        made = resnet.ResNet("thin", 11, 0)
    for layer in made.layers:
        for block in layer:
            change(block)
    return made


def halve_in_the_1x1(block: Any) -> None:
    block.reduce.stride, block.spatial.stride = block.spatial.stride, 1


def split_into_groups_of_4(block: Any) -> None:
    outputs = block.spatial.kernel.shape[-1]
    block.spatial.kernel = tf.Variable(tf.zeros([3, 3, 4, outputs]))


@pytest.fixture(scope="module")
def v1_5() -> Any:
    return frozen(network(), 32)


@pytest.fixture(scope="module")
def v1() -> Any:
    return frozen(network(halve_in_the_1x1), 32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, v1_5: Any, v1: Any) -> Path:
    place = tmp_path_factory.mktemp("graphs")
    write_graph(v1_5, str(place / "v1_5.pb"))
    write_graph(v1, str(place / "v1.pb"))
    return place


def changed(graph_def: Any, change: Callable[[Any], None]) -> Any:
    copy = tf.compat.v1.GraphDef()
    copy.CopyFrom(graph_def)
    for node in copy.node:
        change(node)
    return copy


def test_the_layer_with_the_stride_tells_v1_from_v1_5(v1_5: Any, v1: Any) -> None:
    assert recognised(v1_5) == Network("ResNet50 v1.5", V1_5, "Conv2D_13")
    assert recognised(v1) == Network("ResNet50 v1", V1, "Conv2D_12")


def test_folding_the_normalisations_changes_no_network(v1_5: Any, v1: Any) -> None:
    assert recognised(graphs.optimized(v1_5, "input_tensor", "softmax_tensor")).name == "ResNet50 v1.5"
    assert recognised(graphs.optimized(v1, "input_tensor", "softmax_tensor")).name == "ResNet50 v1"


def test_a_network_is_told_in_every_form_that_convolutions_are_written_in(v1: Any) -> None:
    def quantised(node: Any) -> None:
        if node.op == "Conv2D":
            node.op = "QuantizedConv2DWithBiasAndReluAndRequantize"
        elif node.op == "Const" and len(node.attr["value"].tensor.tensor_shape.dim) == 4:
            node.attr["value"].tensor.dtype = tf.qint8.as_datatype_enum

    def fused(node: Any) -> None:
        node.op = {"Conv2D": "_FusedConv2D", "Identity": "Cast"}.get(node.op, node.op)

    def channels_first(node: Any) -> None:
        if node.op == "Conv2D":
            node.attr["strides"].list.i[:] = [1, 1, *node.attr["strides"].list.i[1:3]]

    for form in (quantised, fused, channels_first):
        assert recognised(changed(v1, form)).name == "ResNet50 v1"


def test_a_grouped_3x3_is_resnext() -> None:
    graph_def = frozen(network(split_into_groups_of_4), 32)
    assert recognised(graph_def) == Network(
        "ResNeXt50", "3x3 convolution 'Conv2D_3' has 2 groups of 4 channels", "Conv2D_3"
    )
    assert max(convolution.groups for convolution in convolutions(graph_def)) == 64 // 4


def test_a_network_like_none_of_these_is_unknown_with_the_reason(v1_5: Any) -> None:
    def also_in_the_last(node: Any) -> None:
        if node.name == "Conv2D_51":  # the 3x3 of the last block
            node.attr["strides"].list.i[:] = [1, 2, 2, 1]

    other = recognised(changed(v1_5, also_in_the_last))
    assert other == Network(
        "unknown", "4 3x3 and 3 1x1 of its convolutions have the stride 2; v1.5 has 3 and 3, v1 has 0 and 6", None
    )
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3])
        tf.nn.conv2d(images, tf.zeros([3, 3, 3, 4]) + 0.0, 1, "SAME")
    assert str(recognised(graph.as_graph_def())) == "unknown: it has no convolution with a constant kernel"
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3])
        tf.nn.conv2d(images, tf.constant(np.zeros([3, 3, 3, 4], np.float32)), 1, "SAME")
    known = "53 (ResNet50), 104 (ResNet101), 155 (ResNet152)"
    assert str(recognised(graph.as_graph_def())) == f"unknown: its convolutions are 1; looked for are {known}"


def test_a_graph_that_goes_round_in_a_circle_is_unknown() -> None:
    graph_def = tf.compat.v1.GraphDef()
    graph_def.node.add(name="a", op="Identity", input=["b"])
    graph_def.node.add(name="b", op="Identity", input=["a"])
    graph_def.node.add(name="c", op="Conv2D", input=["a", "b"])
    assert recognised(graph_def).name == "unknown"


def test_a_case_refuses_a_graph_of_another_network_unless_told(v1: Any, v1_5: Any) -> None:
    with pytest.raises(Refused) as caught:
        check_network(v1, "resnet50_v1_5", allow_other=False)
    assert caught.value.message == f"The case is about ResNet50 v1.5, and the graph is ResNet50 v1: {V1}."
    assert caught.value.hint == "Give a graph of ResNet50 v1.5, or let another pass with --allow-other-network."
    assert check_network(v1, "resnet50_v1_5", allow_other=True).name == "ResNet50 v1"
    assert check_network(v1_5, "resnet50_v1_5", allow_other=False).name == "ResNet50 v1.5"
    assert check_network(v1, None, allow_other=False).name == "ResNet50 v1"


def test_an_unknown_network_passes_and_is_told(v1_5: Any) -> None:
    graph_def = tf.compat.v1.GraphDef()
    graph_def.node.extend(v1_5.node[:40])
    assert check_network(graph_def, "resnet50_v1_5", allow_other=False).name == "unknown"


def test_both_kinds_of_measuring_hold_the_graph_against_the_model_of_the_case(files: Path) -> None:
    def asked(**changes: Any) -> dict[str, Any]:
        common = {"graph": str(files / "v1.pb"), "precision": "fp32", "dataset": "digits", **NAMES}
        return {**common, "model": "resnet50_v1_5", "allow_other_network": False, **changes}

    shape = (2, 32, 32, 3)
    for refusing in (lambda a: accuracy._subject(a, shape), lambda a: measure._subject(a, a, shape)):
        with pytest.raises(Refused, match="the graph is ResNet50 v1: 1x1 convolution 'Conv2D_12'"):
            refusing(asked())
        assert refusing(asked(allow_other_network=True))[-1].name == "ResNet50 v1"
        assert refusing(asked(graph=str(files / "v1_5.pb")))[-1].name == "ResNet50 v1.5"


def test_an_inspected_graph_says_all_that_is_known_of_it(files: Path) -> None:
    found = inspected(str(files / "v1_5.pb"))
    assert found["inputs"] == {"input_tensor": {"dtype": "float32", "shape": [None, 32, 32, 3]}}
    assert found["outputs"] == {"softmax_tensor": {"dtype": "float32", "shape": [None, 11]}}
    assert (found["classes"], found["precision"], found["import_error"]) == (11, "fp32", None)
    parameters = sum(int(np.prod(variable.shape)) for variable in network().variables)
    assert found["parameters"] == parameters and found["parameters_by_type"] == {"float32": parameters}
    assert found["convolutions_by_type"] == {"float32": 53}
    assert found["operations"]["Conv2D"] == found["operations"]["FusedBatchNormV3"] == 53
    assert found["network"] == {"name": "ResNet50 v1.5", "reason": V1_5, "layer": "Conv2D_13"}
    assert found["sha256"] == graphs.file_digest(str(files / "v1_5.pb"))


def test_a_graph_that_this_tensorflow_cannot_import_is_inspected_without_shapes(v1: Any, tmp_path: Path) -> None:
    strange = changed(v1, lambda node: None)
    strange.node.add(name="strange", op="_ITEXConv2D")
    write_graph(strange, str(tmp_path / "itex.pb"))
    found = inspected(str(tmp_path / "itex.pb"))
    assert "_ITEXConv2D" in found["import_error"]
    assert found["inputs"] == {"input_tensor": {"dtype": None, "shape": None}} and found["classes"] is None
    assert found["network"]["name"] == "ResNet50 v1"
