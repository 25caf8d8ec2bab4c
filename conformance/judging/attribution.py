"""Which layers of a network oneDNN runs otherwise on one stack than on another: by another kernel, type or ISA.

A layer is an executed primitive of one step, known by what it computes: its kind and its sizes. Versions of TensorFlow
fuse differently, so that the same layer may have another descriptor (padding that is its own operation in one and part
of the convolution in the other), and may be there on one side only. Layers are therefore matched by their sizes; of
what is left, by the work; of what is left, by their order, where as many of a kind are left on both sides.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import msgspec

from conformance.errors import UsageError
from conformance.records import KernelChange, Record

ARTEFACT = "layers"  # its name among those of a record
COLUMNS = ("order", "layer", "primitive", "direction", "problem", "kernel", "isa", "data_type", "ms", "step_share")
# The sizes that make up the work of a convolution or pooling, whatever the batch and the padding.
WORK = ("g", "ic", "oc", "od", "oh", "ow", "kd", "kh", "kw", "sd", "sh", "sw")
# Of these, order alone tells a layer where as many are left on both sides; conversions come and go with fusion.
ORDERED = ("convolution", "deconvolution", "matmul", "pooling", "batch_normalization")


class Layer(msgspec.Struct, frozen=True, array_like=True):
    """One executed primitive, as oneDNN's log tells it; ``step_share`` is of the time of a step, None if unknown."""

    primitive: str
    direction: str
    problem: str
    kernel: str
    isa: str
    data_type: str
    ms: float
    step_share: float | None = None

    @property
    def ran(self) -> str:
        """How it ran, such as ``brgconv:avx512_core_amx bf16:bf16:bf16``."""
        kernel = self.kernel or self.primitive  # gemm_api names none
        return f"{kernel}:{self.isa} {self.data_type}" if self.isa else f"{kernel} {self.data_type}"


def layers_of(rows: Sequence[Sequence[object]], step_s: float) -> tuple[Layer, ...]:
    """Return the layers of a subject's answer, whose step took ``step_s`` seconds."""
    found = msgspec.convert(rows, tuple[Layer, ...])
    if step_s <= 0:
        return found
    return tuple(msgspec.structs.replace(one, step_share=one.ms / (1000.0 * step_s)) for one in found)


def save_layers(path: Path, layers: Sequence[Layer]) -> None:
    """Write layers as CSV, a line each, with the columns of COLUMNS."""
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS)
        for order, (layer, name) in enumerate(zip(layers, names(layers), strict=True), start=1):
            share = "" if layer.step_share is None else f"{layer.step_share:.6f}"
            told = (layer.primitive, layer.direction, layer.problem, layer.kernel, layer.isa, layer.data_type)
            out.writerow((order, name, *told, layer.ms, share))


def load_layers(path: Path) -> tuple[Layer, ...]:
    """Read what save_layers wrote; raises UsageError for a file that is none of these."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
            if tuple(header) != COLUMNS:
                raise ValueError(f"its columns are {', '.join(header)}")
        told = [(*row[2:-1], row[-1] or None) for row in rows]
        return msgspec.convert(told, tuple[Layer, ...], strict=False)
    except (OSError, ValueError, csv.Error) as error:  # of ValueError are those of msgspec and of decoding
        message = f"{str(path)!r} is no list of layers: {error}."
        raise UsageError(message, "Take an undamaged copy of the run that it belongs to.") from None


def changed_between(
    base: Record, base_run: Path, new: Record, new_run: Path
) -> tuple[tuple[KernelChange, ...], tuple[str, ...]]:
    """Return the layers that changed between two records of runs in these directories, and why they are not known.

    Nothing where one of the two has no list of layers; a list that cannot be read is told, for speeds need none.
    """
    both = [run / record.artefacts[ARTEFACT].path for record, run in ((base, base_run), (new, new_run))
            if ARTEFACT in record.artefacts]  # fmt: skip
    if len(both) < 2 or not all(path.is_file() for path in both):
        return (), ()
    try:
        return changed_layers(load_layers(both[0]), load_layers(both[1])), ()
    except UsageError as error:
        return (), (f"layers are not compared: {error.message}",)


def changed_layers(base: Sequence[Layer], new: Sequence[Layer]) -> tuple[KernelChange, ...]:
    """Return the layers whose kernel, data type or ISA differs, the largest share of a step's time first.

    Layers that compute the same and changed alike are one change, with their number and the sum of their shares. A
    layer that oneDNN ran on one side only has "" on the other, and no share there: TensorFlow fused it into another
    there, or ran it by itself.
    """
    changes: dict[tuple[str, str, str], list[tuple[Layer | None, Layer | None]]] = {}
    for i, j in match(base, new):
        old, now = (None if i is None else base[i]), (None if j is None else new[j])
        before, after = ("" if one is None else one.ran for one in (old, now))
        known = old or now
        if known is not None and before != after:
            changes.setdefault((_name(known), before, after), []).append((old, now))
    found = [_change(*key, pairs) for key, pairs in changes.items()]
    return tuple(sorted(found, key=lambda change: -max(change.base_share or 0.0, change.new_share or 0.0)))


def _change(name: str, old: str, now: str, pairs: list[tuple[Layer | None, Layer | None]]) -> KernelChange:
    shares = [[one.step_share for one in side if one is not None] for side in zip(*pairs, strict=True)]
    sums = [sum(side) if side and None not in side else None for side in shares]
    layer = f"{name} ({len(pairs)} layers)" if len(pairs) > 1 else name
    return KernelChange(layer=layer, base=old, new=now, base_share=sums[0], new_share=sums[1])


def match(base: Sequence[Layer], new: Sequence[Layer]) -> list[tuple[int | None, int | None]]:
    """Return pairs of numbers of layers that are the same layer; None stands for a side that has it not.

    Of several that compute the same, those that ran alike belong together: parallel branches end in any order.
    """
    pairs: list[tuple[int | None, int | None]] = []
    left, right = list(range(len(base))), list(range(len(new)))
    for same in (lambda x: (_exact(x), x.ran), _exact, lambda x: (_work(x), x.ran), _work):
        found = _paired(base, new, left, right, same)
        pairs += found.items()
        taken = set(found.values())
        left, right = [i for i in left if i not in found], [j for j in right if j not in taken]
    for kind in ORDERED:
        old, now = ([i for i in rest if _kind(of[i]) == kind] for rest, of in ((left, base), (right, new)))
        if len(old) == len(now):
            pairs += zip(old, now, strict=True)
            left, right = [i for i in left if i not in old], [j for j in right if j not in now]
    return pairs + [(i, None) for i in left] + [(None, j) for j in right]


def _paired(
    base: Sequence[Layer], new: Sequence[Layer], left: list[int], right: list[int], same: Callable[[Layer], Hashable]
) -> dict[int, int]:
    """Return the first of ``right`` that ``same`` calls the same, for each of ``left`` that has one; each once."""
    waiting: dict[Hashable, list[int]] = {}
    for j in reversed(right):
        waiting.setdefault(same(new[j]), []).append(j)
    return {i: waiting[key].pop() for i in left if waiting.get(key := same(base[i]))}


def _kind(layer: Layer) -> str:
    """Return the kind of a primitive, under one name for what versions of oneDNN name differently."""
    name = re.sub(r"_v\d+$", "", layer.primitive)
    return "matmul" if name in ("inner_product", "gemm_api") else name


def _way(layer: Layer) -> str:
    """Return forward for training, inference and what has no direction alike, else the direction."""
    return layer.direction if layer.direction.startswith("backward") else "forward"


def _exact(layer: Layer) -> Hashable:
    return _kind(layer), _way(layer), layer.problem


def _work(layer: Layer) -> Hashable:
    """Return what a layer computes, without its batch and its padding; its sizes as they are where it is unknown."""
    sizes = dict(re.findall(r"([a-z]+)(\d+)", layer.problem))
    product = re.fullmatch(r"\d+x(\d+):\d+x(\d+)", layer.problem)
    if _kind(layer) == "matmul" and (product or {"ic", "oc"} <= sizes.keys()):
        return "matmul", _way(layer), product.groups() if product else (sizes["ic"], sizes["oc"])
    if "oh" not in sizes:
        return _exact(layer)
    return _kind(layer), _way(layer), tuple(sizes.get(name, "") for name in WORK)


def names(layers: Sequence[Layer]) -> list[str]:
    """Return a name for each layer that says what it computes, with a number where several do the same."""
    told = [_name(layer) for layer in layers]
    count, seen = Counter(told), Counter[str]()
    result = []
    for name in told:
        seen[name] += 1
        result.append(f"{name} #{seen[name]}" if count[name] > 1 else name)
    return result


def _name(layer: Layer) -> str:
    way = "" if _way(layer) == "forward" else f" {layer.direction}"
    return f"{layer.primitive}{way} {short(layer.problem)}".rstrip()


def short(problem: str) -> str:
    """Leave out of a problem what goes without saying, as benchdnn does: widths like the heights, no stride or padding.

    >>> short("mb1_ic64oc64_ih56oh56kh3sh1dh0ph1_iw56ow56kw3sw1dw0pw1")
    'mb1_ic64oc64_ih56oh56kh3ph1'
    """
    height, _, width = problem.partition("_iw")
    if re.findall(r"[a-z]h(\d+)", height) == re.findall(r"[a-z]w(\d+)", f"iw{width}"):
        return re.sub(r"sh1(?!\d)|dh0|ph0", "", height)
    return problem
