"""What oneDNN's verbose log proves: which convolution work ran in which data type and kernel.

Line formats differ by version: ``onednn_verbose,exec,...`` (2.x to 3.2), ``onednn_verbose,primitive,exec,...``
(3.3) and ``onednn_verbose,v1,primitive,exec,...`` (3.5 and newer). Each log names its fields in a header line with
``template:``, and lines are read by it.
"""

import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple


class Work(NamedTuple):
    """One executed convolution: ``implementation`` as ``brgconv:avx512_core_vnni``; multiply and add are 2 FLOP."""

    implementation: str
    data_type: str
    flop: int


class Timed(NamedTuple):
    """One executed primitive of any kind; ``types`` are those of its images, weights, results and their gradients.

    ``direction`` is forward_training, backward_data and the like, or undef; ``problem`` holds its sizes.
    """

    primitive: str
    implementation: str
    types: Tuple[str, ...]
    ms: float
    direction: str = ""
    problem: str = ""


class Log(NamedTuple):
    """``version``, ``runtime`` and ``isa`` are empty where the log does not tell them."""

    version: str
    runtime: str
    isa: str
    work: Tuple[Work, ...]
    timed: Tuple[Timed, ...] = ()


CLAIMED = {"fp32": ("f32:f32",), "bf16": ("bf16:bf16",), "int8": ("u8:s8", "s8:s8")}

# Before 2.x printed a template line.
_OLDEST = (
    "operation,engine,primitive,implementation,prop_kind,memory_descriptors,attributes,auxiliary,problem_desc,exec_time"
)


def parse(lines: Iterable[str]) -> Log:
    """Read a log; lines that are not oneDNN's are passed over."""
    info: Dict[str, str] = {}
    fields = _OLDEST.split(",")
    work: List[Work] = []
    timed: List[Timed] = []
    for line in lines:
        parts = line.strip().split(",")
        if parts[0] not in ("onednn_verbose", "dnnl_verbose") or "graph" in parts[:4]:
            continue
        template = re.search(r"template:(.*)", line)
        if template:
            fields = [name.strip() for name in template[1].split(",")]
        elif "info" in parts[:4]:
            _read_info(",".join(parts[parts.index("info") + 1 :]), info)
        elif "exec" in parts[:4]:
            named = dict(zip(fields, parts[parts.index("exec") :]))
            work.extend(filter(None, [_convolution(named)]))
            timed.extend(filter(None, [_timed(named)]))
    return Log(info.get("version", ""), info.get("runtime", ""), info.get("isa", ""), tuple(work), tuple(timed))


def _read_info(text: str, info: Dict[str, str]) -> None:
    version = re.match(r"(?:oneDNN|DNNL) v([\d.]+)", text)
    if version:
        info["version"] = version[1]
    for key in ("runtime", "isa"):
        found = re.match(r"cpu,%s:([^,]*)" % key, text)
        if found:
            info[key] = found[1]


def _convolution(fields: Dict[str, str]) -> Optional[Work]:
    """Return the work of an executed convolution; None for what is no convolution, or a line that is cut short."""
    if fields.get("primitive") != "convolution" or "problem_desc" not in fields:
        return None
    try:
        flop = convolution_flop(fields["problem_desc"])
    except KeyError:
        return None
    source, weights = (_data_type(fields["memory_descriptors"], role) for role in ("src", "wei"))
    # A lower math mode rounds the operands of an f32 convolution: it is not the work of f32.
    mode = re.search(r"fpmath:(\w+)", fields.get("attributes", ""))
    rounded = " as " + mode[1] if mode and mode[1] != "strict" else ""
    return Work(fields["implementation"], source + ":" + weights + rounded, flop)


def _timed(fields: Dict[str, str]) -> Optional[Timed]:
    """Return an executed primitive; None for a line that is cut short or has another's text in it."""
    try:
        ms, tensors = float(fields["exec_time"]), fields["memory_descriptors"]
    except (KeyError, ValueError):
        return None
    types = re.findall(r"\b(?:src|wei|dst|data|diff)[_:](?!undef|src|wei|dst)(\w+?):", tensors)
    sizes = fields.get("problem_desc", "")
    return Timed(fields["primitive"], fields["implementation"], tuple(types), ms, fields.get("prop_kind", ""), sizes)


def _data_type(descriptors: str, role: str) -> str:
    found = re.search(r"\b%s[_:](\w+?):" % role, descriptors)
    return found[1] if found else "unknown"


def convolution_flop(problem: str) -> int:
    """Return 2 x mb x oc x oh x ow x (ic / groups) x kh x kw of a problem such as ``mb1_ic64oc64_ih56oh56kh1...``.

    Raises KeyError when it does not tell batch and channels.
    """
    size = {key: int(value) for key, value in re.findall(r"(mb|g|ic|oc|od|oh|ow|kd|kh|kw)(\d+)", problem)}
    flop = 2 * size["mb"] * size["oc"] * size["ic"] // size.get("g", 1)
    for key in ("od", "oh", "ow", "kd", "kh", "kw"):
        flop *= size.get(key, 1)
    return flop


def kernels(work: Iterable[Work]) -> List[Dict[str, Any]]:
    """Return calls and share of the convolution FLOPs by kernel and data type, largest first."""
    work = list(work)
    total = sum(item.flop for item in work)
    grouped: Dict[Tuple[str, str], List[int]] = {}
    for item in work:
        entry = grouped.setdefault((item.implementation, item.data_type), [0, 0])
        entry[0] += 1
        entry[1] += item.flop
    rows = [
        {"name": name, "data_type": data_type, "calls": calls, "flop_share": flop / total}
        for (name, data_type), (calls, flop) in grouped.items()
    ]
    return sorted(rows, key=lambda row: -row["flop_share"])


def layers(timed: Iterable[Timed]) -> List[List[Any]]:
    """Return primitive, direction, problem, kernel, instruction set, data types and milliseconds of each, in order.

    The kernel of ``brgconv:avx512_core_vnni`` is brgconv, and its instruction set avx512_core_vnni.
    """
    rows: List[List[Any]] = []
    for item in timed:
        kernel, _, isa = item.implementation.rpartition(":")
        name, types = kernel or item.implementation, ":".join(item.types)
        rows.append([item.primitive, item.direction, item.problem, name, isa if kernel else "", types, item.ms])
    return rows


def native_share(work: Iterable[Work], precision: str, expected_flop: int = 0) -> float:
    """Return the share of convolution FLOPs that ran in the claimed type.

    ``expected_flop`` is what the graph's shapes ask for: work that ran outside oneDNN is in no
    log, and must not shrink the denominator.
    """
    work = list(work)
    total = max(expected_flop, sum(item.flop for item in work))
    claimed = sum(item.flop for item in work if item.data_type in CLAIMED[precision])
    return claimed / total if total else 0.0


def fallbacks(timed: Iterable[Timed], precision: str, step_ms: float) -> List[Dict[str, Any]]:
    """Return what did not run as fp32 or bf16 asks for, with its share of a step's time, the longest first.

    That is what had no tensor of the claimed type, ran by reference code, or computed bf16 without instructions for it.
    A primitive that has tensors of the claimed type beside others, as a conversion has, is none.
    """
    claimed = CLAIMED[precision][0].split(":")[0]
    grouped: Dict[Tuple[str, str, str], float] = {}
    for item in timed:
        # oneDNN's plain avx512_core has no bf16; every later name of an instruction set has.
        emulated = precision == "bf16" and item.implementation.endswith(":avx512_core")
        if claimed not in item.types or emulated or "ref" in re.split("[:_]", item.implementation):
            key = item.primitive, ":".join(sorted(set(item.types))), item.implementation
            grouped[key] = grouped.get(key, 0.0) + item.ms
    rows = [
        {"primitive": primitive, "data_type": data_type, "name": name, "step_share": ms / step_ms}
        for (primitive, data_type, name), ms in grouped.items()
    ]
    return sorted(rows, key=lambda row: -row["step_share"])
