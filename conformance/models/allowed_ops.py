"""The operations that a graph under test may hold: arithmetic on tensors, nothing that leaves the process.

A list of what is allowed and not of what is forbidden, because every TensorFlow release and
every plugin adds operations that read files, open sockets or run Python.
"""

import re
from typing import FrozenSet

_ALLOWED = frozenset(
    """
    Const HostConst Placeholder PlaceholderWithDefault Identity IdentityN NoOp Snapshot StopGradient PreventGradient
    CheckNumerics Assert
    Switch Merge Enter Exit NextIteration LoopCond If StatelessIf While StatelessWhile Case StatelessCase
    PartitionedCall StatefulPartitionedCall

    Abs Acos Acosh Add AddN AddV2 Asin Asinh Atan Atan2 Atanh BesselI0e BesselI1e Ceil ClipByValue Cos Cosh
    Cumprod Cumsum Digamma Div DivNoNan Erf Erfc Exp Expm1 Floor FloorDiv FloorMod Inv IsFinite IsInf IsNan
    Lgamma Log Log1p Maximum Minimum Mod Mul MulNoNan Neg Pow RealDiv Reciprocal Rint Round Rsqrt Sigmoid Sign
    Sin Sinh Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlogy
    Equal NotEqual Greater GreaterEqual Less LessEqual ApproximateEqual LogicalAnd LogicalNot LogicalOr
    All Any ArgMax ArgMin Max Mean Min Prod Sum EuclideanNorm L2Loss
    BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum MatMul

    BatchToSpace BatchToSpaceND Bitcast BroadcastArgs BroadcastTo Cast Concat ConcatV2 ConcatOffset
    DepthToSpace EnsureShape ExpandDims Fill Gather GatherNd GatherV2 InvertPermutation LinSpace MirrorPad OneHot
    OnesLike Pack Pad PadV2 ParallelConcat Range Rank Reshape Reverse ReverseV2 Roll ScatterNd Select SelectV2
    Shape ShapeN Size Slice SpaceToBatch SpaceToBatchND SpaceToDepth Split SplitV Squeeze StridedSlice TensorScatterAdd
    TensorScatterUpdate Tile TopK TopKV2 InTopK InTopKV2 Transpose Unpack Where ZerosLike
    DataFormatDimMap DataFormatVecPermute CropAndResize ResizeArea ResizeBicubic ResizeBilinear
    ResizeNearestNeighbor

    AvgPool AvgPool3D BatchNormWithGlobalNormalization BiasAdd BiasAddV1 Conv2D Conv2DBackpropInput Conv3D
    DepthwiseConv2dNative Elu FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 FusedPadConv2D
    FusedResizeAndPadConv2D LRN LeakyRelu LogSoftmax MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax Relu Relu6
    Selu Softmax Softplus Softsign

    Dequantize FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
    QuantizeAndDequantize QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
    QuantizeDownAndShrinkRange QuantizeV2 RequantizationRange RequantizationRangePerChannel Requantize
    RequantizePerChannel
    """.split()  # noqa: SIM905  (a list would take a line for each)
)

# Fused, quantised and oneDNN forms of the above, of TensorFlow and of its Intel plugin.
_FAMILIES = re.compile(r"(_Fused|_?Quantized|_FusedQuantized|__?Mkl|_ITEX|_OneDnn)[A-Z]\w*")

# What makes, saves and restores the variables of a SavedModel before they are folded into constants.
VARIABLES: FrozenSet[str] = frozenset(
    """
    VarHandleOp VarIsInitializedOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp
    DisableCopyOnRead ResourceGather Variable VariableV2 Assign IsVariableInitialized
    RandomUniform RandomStandardNormal TruncatedNormal StatelessRandomUniform StatelessRandomUniformV2
    StatelessRandomNormal StatelessRandomNormalV2 StatelessTruncatedNormal StatelessTruncatedNormalV2
    StatelessRandomGetKeyCounter StatelessRandomGetAlg
    SaveV2 RestoreV2 MergeV2Checkpoints ShardedFilename StringJoin StaticRegexFullMatch
    """.split()  # noqa: SIM905  (a list would take a line for each)
)

_REASONS = (
    (r"(Eager)?PyFunc\w*|NumpyFunction", "it runs Python code"),
    (
        r"Var.*|.*Variable.*|Assign.*|ResourceGather",
        "it holds or reads a variable, and the graph is not frozen",
    ),
    (
        r"ReadFile|WriteFile|MatchingFiles|ImmutableConst|Print.*|.*(Save|Restore|Checkpoints|Dataset|Reader|Iterator"
        r"|Summary|FromTextFile|Filename|Dump).*",
        "it touches files",
    ),
    (
        r"_?(Host)?(Send|Recv)|RemoteCall|Debug.*|.*(Collective|Rpc|Tpu|TPU|DTensor|Horovod).*",
        "it talks to others",
    ),
)


def is_allowed(op: str) -> bool:
    return op in _ALLOWED or _FAMILIES.fullmatch(op) is not None


def why_refused(op: str) -> str:
    """Return the reason why an operation is refused, as a clause."""
    for pattern, reason in _REASONS:
        if re.fullmatch(pattern, op):
            return reason
    return "it is not among the operations that image models need"
