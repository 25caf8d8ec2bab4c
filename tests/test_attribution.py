"""Which layers changed: by real logs of four versions of oneDNN, and by layers that are wrong on purpose."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from conformance.errors import UsageError
from conformance.judging.attribution import (
    Layer,
    changed_between,
    changed_layers,
    layers_of,
    load_layers,
    names,
    save_layers,
    short,
)
from conformance.records import Artefact, Record
from conformance.subject import onednn

RECORDINGS = Path(__file__).parent / "recordings"
CONV = Layer("convolution", "forward_training", "mb1_ic64oc64_ih56oh56kh3sh1dh0ph1_iw56ow56kw3sw1dw0pw1",
             "brgconv", "avx512_core_amx", "bf16:bf16:bf16", 2.0, 0.2)  # fmt: skip
RECORD = Record(
    case="resnet50-int8", suite="inference", model="resnet50v1_5", mode="throughput", precision="int8", dataset="none",
    source="", stack="mine", profile="any", verdict="inside", reason="", started_at="", duration_s=1.0,
)  # fmt: skip


def recorded(version: str) -> tuple[Layer, ...]:
    lines = (RECORDINGS / f"onednn_{version}.txt").read_text().splitlines()
    return layers_of(onednn.layers(onednn.parse(lines).timed), 0.1)


def like(layer: Layer, **changed: Any) -> Layer:
    return msgspec.structs.replace(layer, **changed)


def told(base: list[Layer], new: list[Layer]) -> list[tuple[str, str]]:
    return [(change.base, change.new) for change in changed_layers(base, new)]


@pytest.mark.parametrize("version", ["2.5", "3.2", "3.3", "3.7"])
def test_the_same_log_twice_has_no_change(version: str) -> None:
    layers = recorded(version)
    assert len(layers) > 55 and changed_layers(layers, layers) == ()


@pytest.mark.parametrize("version", ["2.5", "3.7"])
def test_layers_that_ended_in_another_order_and_took_other_times_did_not_change(version: str) -> None:
    layers = list(recorded(version))
    shuffled = [like(one, ms=2 * one.ms, step_share=None) for one in layers]
    random.Random(1).shuffle(shuffled)
    assert changed_layers(layers, shuffled) == ()


def test_between_two_versions_of_tensorflow_the_kernels_that_changed_are_told_the_longest_first() -> None:
    changes = changed_layers(recorded("2.5"), recorded("3.7"))
    first = changes[0]
    assert first.layer == "convolution mb1_ic64oc64_ih56oh56kh3ph1 (3 layers)"
    assert first.base == "brgconv:avx512_core_vnni u8:s8:u8" and first.new == "brg_conv_fwd:avx512_core_vnni u8:s8:u8"
    shares = [max(change.base_share or 0.0, change.new_share or 0.0) for change in changes]
    assert shares == sorted(shares, reverse=True) and first.new_share == shares[0]
    assert ("softmax 1x1001", "") in [(change.layer, change.base) for change in changes]  # one runs it elsewhere


def test_every_convolution_of_another_isa_is_told() -> None:
    layers = recorded("3.7")
    slower = [like(one, kernel="jit", isa="avx2") if one.primitive == "convolution" else one for one in layers]
    changes = changed_layers(layers, slower)
    assert all(change.new == "jit:avx2 " + change.base.split()[1] for change in changes)
    counted = [int(change.layer.split("(")[1].split()[0]) if "(" in change.layer else 1 for change in changes]
    assert sum(counted) == 53


@pytest.mark.parametrize(
    ("changed", "now"),
    [
        ({"kernel": "gemm", "isa": "ref"}, "gemm:ref bf16:bf16:bf16"),
        ({"isa": "avx512_core"}, "brgconv:avx512_core bf16:bf16:bf16"),
        ({"data_type": "f32:f32:f32"}, "brgconv:avx512_core_amx f32:f32:f32"),
        ({"kernel": "ref", "isa": ""}, "ref bf16:bf16:bf16"),
    ],
)
def test_a_changed_kernel_isa_or_type_is_told(changed: dict[str, str], now: str) -> None:
    assert told([CONV], [like(CONV, **changed)]) == [("brgconv:avx512_core_amx bf16:bf16:bf16", now)]


def test_of_layers_that_compute_the_same_only_those_that_changed_are_told() -> None:
    slow = like(CONV, kernel="gemm", isa="ref", step_share=0.5)
    (change,) = changed_layers([CONV, CONV, CONV], [slow, CONV, CONV])
    assert (change.layer, change.base_share, change.new_share) == (
        "convolution mb1_ic64oc64_ih56oh56kh3ph1", 0.2, 0.5,
    )  # fmt: skip


def test_layers_that_changed_alike_are_one_change_with_the_sum_of_their_shares() -> None:
    slow = like(CONV, kernel="gemm", isa="ref", step_share=0.25)
    (change,) = changed_layers([CONV] * 3, [slow] * 3)
    assert change.layer.endswith(" (3 layers)")
    assert (change.base_share, change.new_share) == (pytest.approx(0.6), pytest.approx(0.75))


def test_padding_that_is_fused_in_one_version_hides_no_layer() -> None:
    fused = like(CONV, problem="mb1_ic3oc64_ih224oh112kh7sh2dh0ph3_iw224ow112kw7sw2dw0pw3")
    apart = like(fused, problem="mb1_ic3oc64_ih230oh112kh7sh2dh0ph0_iw230ow112kw7sw2dw0pw0")
    assert changed_layers([CONV, fused], [apart, CONV]) == ()
    assert told([fused], [like(apart, isa="avx2")]) == [(fused.ran, "brgconv:avx2 bf16:bf16:bf16")]


def test_a_product_is_the_same_layer_as_inner_product_and_as_matmul() -> None:
    inner = Layer("inner_product", "forward_inference", "mb8ic2048oc1001", "brgemm", "avx512_core", "f32:f32:f32", 1.0)
    product = like(inner, primitive="matmul", direction="undef", problem="8x2048:2048x1001")
    assert changed_layers([inner], [product]) == ()
    assert told([product], [like(product, primitive="gemm_api", direction="", kernel="", isa="")]) == [
        ("brgemm:avx512_core f32:f32:f32", "gemm_api f32:f32:f32")
    ]


def test_pooling_is_the_same_layer_under_its_older_name_and_in_training() -> None:
    old = like(CONV, primitive="pooling_v2", direction="forward_inference")
    assert changed_layers([old], [like(old, primitive="pooling", direction="forward_training")]) == ()


def test_forwards_and_backwards_are_two_layers() -> None:
    back = like(CONV, direction="backward_data", isa="avx2")
    changes = changed_layers([CONV, back], [CONV, like(back, isa="avx512_core")])
    assert [change.layer for change in changes] == ["convolution backward_data mb1_ic64oc64_ih56oh56kh3ph1"]


def test_a_layer_of_one_side_only_has_nothing_on_the_other() -> None:
    reorder = Layer("reorder", "undef", "8x64x56x56", "jit", "uni", "f32:bf16", 1.0, 0.1)
    (gone,) = changed_layers([CONV, reorder], [CONV])
    assert (gone.layer, gone.base, gone.new) == ("reorder 8x64x56x56", "jit:uni f32:bf16", "")
    assert (gone.base_share, gone.new_share) == (0.1, None)
    (come,) = changed_layers([CONV], [CONV, reorder])
    assert (come.base, come.new, come.base_share, come.new_share) == ("", "jit:uni f32:bf16", None, 0.1)


def test_layers_of_unknown_sizes_are_matched_by_order_only_where_as_many_are_left() -> None:
    one, two = like(CONV, problem="first"), like(CONV, problem="second")
    assert changed_layers([one, two], [like(one, problem="a"), like(two, problem="b")]) == ()
    left = changed_layers([one, two], [like(one, problem="a")])
    assert sorted(change.layer for change in left) == ["convolution a", "convolution first", "convolution second"]


def test_without_the_time_of_a_step_there_are_no_shares() -> None:
    rows = [["convolution", "forward", "mb1", "jit", "avx2", "f32:f32", 2.0]]
    assert layers_of(rows, 0.0)[0].step_share is None
    assert layers_of(rows, 0.01)[0].step_share == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("problem", "shown"),
    [
        ("mb1_ic64oc64_ih56oh56kh1sh1dh0ph0_iw56ow56kw1sw1dw0pw0", "mb1_ic64oc64_ih56oh56kh1"),
        ("mb1_ic3oc64_ih230oh112kh7sh12dh0ph0_iw230ow112kw7sw12dw0pw0", "mb1_ic3oc64_ih230oh112kh7sh12"),
        ("mb1_ic3oc64_ih9oh7kh3sh1dh0ph0_iw8ow6kw3sw1dw0pw0", "mb1_ic3oc64_ih9oh7kh3sh1dh0ph0_iw8ow6kw3sw1dw0pw0"),
        ("mb1_ic3oc64_ih9oh9kh1sh1dh0ph0_iw9ow9kw7sw1dw0pw3", "mb1_ic3oc64_ih9oh9kh1sh1dh0ph0_iw9ow9kw7sw1dw0pw3"),
        ("1x2048:1x1", "1x2048:1x1"),
        ("", ""),
    ],
)
def test_a_problem_is_shortened_only_where_width_and_height_agree(problem: str, shown: str) -> None:
    assert short(problem) == shown


def test_layers_that_compute_the_same_are_numbered() -> None:
    other = like(CONV, problem="mb1")
    assert names([CONV, other, CONV]) == [
        "convolution mb1_ic64oc64_ih56oh56kh3ph1 #1", "convolution mb1", "convolution mb1_ic64oc64_ih56oh56kh3ph1 #2",
    ]  # fmt: skip


def test_layers_are_read_as_they_were_written(tmp_path: Path) -> None:
    layers = (*recorded("3.7"), like(CONV, isa="", step_share=None))
    save_layers(tmp_path / "layers.csv", layers)
    read = load_layers(tmp_path / "layers.csv")
    assert [like(one, step_share=None) for one in read] == [like(one, step_share=None) for one in layers]
    assert read[0].step_share == pytest.approx(layers[0].step_share, abs=1e-6) and read[-1].step_share is None


@pytest.mark.parametrize("content", [b"", b"order,layer\n1,2\n", b"\xff\xfe", None])
def test_a_file_that_is_no_list_of_layers_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "layers.csv"
    if content is None:  # cut in the middle of a line
        save_layers(path, [CONV])
        content = path.read_bytes()[:-40]
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"'{path}' is no list of layers: "):
        load_layers(path)


def test_two_records_are_compared_by_their_artefacts_and_not_where_one_has_none(tmp_path: Path) -> None:
    save_layers(tmp_path / "base.csv", [CONV])
    save_layers(tmp_path / "new.csv", [like(CONV, isa="avx2")])
    base, new, lost = (
        msgspec.structs.replace(RECORD, artefacts={"layers": Artefact(path=f"{name}.csv")})
        for name in ("base", "new", "lost")
    )
    changes, unread = changed_between(base, tmp_path, new, tmp_path)
    assert (len(changes), unread) == (1, ())
    assert changed_between(base, tmp_path, RECORD, tmp_path) == ((), ())
    assert changed_between(lost, tmp_path, new, tmp_path) == ((), ())
    (tmp_path / "lost.csv").write_bytes(b"")
    changes, (told,) = changed_between(lost, tmp_path, new, tmp_path)
    assert changes == () and "layers are not compared: " in told and "lost.csv' is no list of layers: " in told
