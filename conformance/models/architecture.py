"""Which network a graph is, by its convolutions and not by its name: ResNet v1, v1.5 or ResNeXt.

v1 halves the image in the first 1x1 convolution of a bottleneck (He et al. 2015, arXiv:1512.03385), v1.5 in its 3x3;
both halve it in the 1x1 of the shortcut as well. ResNeXt splits the 3x3 into groups (Xie et al. 2016,
arXiv:1611.05431).
"""

import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from conformance.wire import Refused

# What a case of this name claims to judge.
CLAIMED = {"resnet50_v1_5": "ResNet50 v1.5", "resnext101_32x4d": "ResNeXt101"}

_CONVOLUTION = re.compile(r"(?!.*(Backprop|Depthwise))\w*Conv2D\w*")
_CONSTANTS = ("Const", "HostConst")
# A constant seen through these keeps its shape.
_SAME_SHAPE = re.compile(r"Identity|Snapshot|StopGradient|Cast|QuantizeV2|Dequantize|FakeQuant\w+")
_DEPTHS = {53: 50, 104: 101, 155: 152}  # convolutions of bottlenecks, shortcuts and the first layer


class Convolution(NamedTuple):
    name: str
    size: Tuple[int, int]  # height and width of the kernel
    inputs: int  # channels that one group sees
    outputs: int
    stride: int
    groups: int


class Network(NamedTuple):
    """What a graph is; ``layer`` is the convolution that tells, None where none does."""

    name: str  # for example "ResNet50 v1.5"; "unknown" where the structure is none of those looked for
    reason: str  # a clause
    layer: Optional[str]

    def __str__(self) -> str:
        return "%s: %s" % (self.name, self.reason)


def convolutions(graph_def: Any) -> List[Convolution]:
    """Return the convolutions with constant kernels, in the order of the graph; fused and quantised ones too."""
    nodes = {node.name: node for node in graph_def.node}
    kernels: Dict[str, List[int]] = {}
    for node in graph_def.node:
        shape = _kernel(node, nodes)
        if shape is not None:
            kernels[node.name] = shape
    found = []
    for name, (height, width, inputs, outputs) in kernels.items():
        before = _first(nodes[name].input[0], nodes, lambda node: node.name in kernels)
        groups = kernels[before][3] // inputs if before else 1
        stride = max(nodes[name].attr["strides"].list.i, default=1)
        found.append(Convolution(name, (height, width), inputs, outputs, stride, groups))
    return found


def recognised(graph_def: Any) -> Network:
    """Return which network a graph is, by kernel sizes, strides and groups."""
    found = convolutions(graph_def)
    if not found:
        return Network("unknown", "it has no convolution with a constant kernel", None)
    if len(found) not in _DEPTHS:
        known = ", ".join("%d (ResNet%d)" % pair for pair in _DEPTHS.items())
        return Network("unknown", "its convolutions are %d; looked for are %s" % (len(found), known), None)
    depth = _DEPTHS[len(found)]
    grouped = [c for c in found if c.size == (3, 3) and c.groups > 1]
    if grouped:
        first = grouped[0]
        reason = "3x3 convolution %r has %d groups of %d channels" % (first.name, first.groups, first.inputs)
        return Network("ResNeXt%d" % depth, reason, first.name)
    halving3x3 = [c for c in found if c.size == (3, 3) and c.stride == 2]
    halving1x1 = [c for c in found if c.size == (1, 1) and c.stride == 2]
    narrowing = [c for c in halving1x1 if c.outputs < c.inputs]  # the first of a bottleneck; a shortcut widens
    if len(halving3x3) == 3 and len(halving1x1) == 3 and not narrowing:
        first = halving3x3[0]
        return Network("ResNet%d v1.5" % depth, "3x3 convolution %r has the stride 2" % first.name, first.name)
    if not halving3x3 and len(halving1x1) == 6 and len(narrowing) == 3:
        first = narrowing[0]
        return Network("ResNet%d v1" % depth, "1x1 convolution %r has the stride 2" % first.name, first.name)
    counts = "%d 3x3 and %d 1x1 of its convolutions have the stride 2" % (len(halving3x3), len(halving1x1))
    return Network("unknown", counts + "; v1.5 has 3 and 3, v1 has 0 and 6", None)


def check_network(graph_def: Any, model: Optional[str], allow_other: bool) -> Network:
    """Return which network a graph is; raises Refused where it is known to be another than the model of a case.

    ``model`` is the case's, for example ``resnet50_v1_5``; None claims nothing. An unknown network is let pass.
    """
    network = recognised(graph_def)
    claimed = CLAIMED.get(model or "")
    if claimed is None or allow_other or network.name in (claimed, "unknown"):
        return network
    raise Refused(
        "The case is about %s, and the graph is %s." % (claimed, network),
        "Give a graph of %s, or let another pass with --allow-other-network." % claimed,
    )


def _kernel(node: Any, nodes: Dict[str, Any]) -> Optional[List[int]]:
    """Return the shape [height, width, inputs, outputs] of a convolution's constant kernel, else None."""
    if not _CONVOLUTION.fullmatch(node.op) or len(node.input) < 2:
        return None
    name = _first(node.input[1], nodes, lambda source: _SAME_SHAPE.fullmatch(source.op) is None)
    if name is None or nodes[name].op not in _CONSTANTS:
        return None
    shape = [int(dim.size) for dim in nodes[name].attr["value"].tensor.tensor_shape.dim]
    return shape if len(shape) == 4 and min(shape) > 0 else None


def _first(source: str, nodes: Dict[str, Any], wanted: Callable[[Any], bool]) -> Optional[str]:
    """Return the first node that is wanted, going from first input to first input; None where that ends before."""
    seen: Set[str] = set()
    name = _name(source)
    while name in nodes and name not in seen:
        if wanted(nodes[name]):
            return name
        seen.add(name)
        name = _name(nodes[name].input[0]) if nodes[name].input else ""
    return None


def _name(source: str) -> str:
    return source.lstrip("^").split(":")[0]
