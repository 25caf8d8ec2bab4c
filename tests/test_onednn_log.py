"""What oneDNN's log proves, read from logs that four of its versions really printed."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from conformance.subject import onednn
from conformance.subject.onednn import Work

RECORDINGS = Path(__file__).parent / "recordings"
VERSIONS = {"2.5": "2.5.0", "3.2": "3.2.1", "3.3": "3.3.0", "3.7": "3.7.3"}
BOTH = pytest.mark.parametrize("name", VERSIONS)

# The convolutions of ResNet50 v1.5 on one image of 224 x 224, by hand from its layers.
FLOP = 8_174_272_512
OLD = "onednn_verbose,exec,cpu,convolution,jit:avx2,forward_training,src_f32::blocked:acdb:f0 wei_f32::blocked:a:f0,,,"
HEADER_3_7 = (
    "onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation,prop_kind,"
    "memory_descriptors,attributes,auxiliary,problem_desc,exec_time"
)


def lines(name: str) -> list[str]:
    return (RECORDINGS / f"onednn_{name}.txt").read_text().splitlines()


@BOTH
def test_version_runtime_and_instruction_set_are_read(name: str) -> None:
    log = onednn.parse(lines(name))
    assert log.version == VERSIONS[name]
    assert log.runtime == ("OpenMP" if name == "3.3" else "threadpool")
    assert log.isa == "Intel AVX-512 with Intel DL Boost and bfloat16 support"


@BOTH
def test_every_convolution_is_found_with_its_work(name: str) -> None:
    work = onednn.parse(lines(name)).work
    assert len(work) == 53
    assert sum(item.flop for item in work) == FLOP


@BOTH
def test_the_data_types_are_those_of_images_and_weights(name: str) -> None:
    types = collections.Counter(item.data_type for item in onednn.parse(lines(name)).work)
    assert types == {"s8:s8": 1, "u8:s8": 52}


@BOTH
def test_an_int8_run_is_native_in_int8_and_in_nothing_else(name: str) -> None:
    work = onednn.parse(lines(name)).work
    shares = {precision: onednn.native_share(work, precision, FLOP) for precision in onednn.CLAIMED}
    assert shares == {"int8": 1.0, "bf16": 0.0, "fp32": 0.0}


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("2.5", {"brgconv_1x1": 36, "brgconv": 16, "jit_int8": 1}),
        ("3.2", {"brgconv_1x1": 36, "brgconv": 16, "jit_int8": 1}),
        ("3.3", {"brgconv_1x1": 36, "brgconv": 17}),
        ("3.7", {"brgconv_1x1": 36, "brg_conv_fwd": 17}),
    ],
)
def test_kernels_are_named_with_their_calls_and_share(name: str, calls: dict[str, int]) -> None:
    rows = onednn.kernels(onednn.parse(lines(name)).work)
    found: collections.Counter[str] = collections.Counter()
    for row in rows:
        kernel, isa = row["name"].split(":")
        assert isa == "avx512_core_vnni"
        found[kernel] += row["calls"]
    assert found == calls
    shares = [row["flop_share"] for row in rows]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1.0)


def test_fields_are_read_where_the_template_says_they_are() -> None:
    fields = "operation,engine,implementation,primitive,problem_desc,memory_descriptors"
    header = "onednn_verbose,v1,primitive,info,template:" + fields
    line = "onednn_verbose,v1,primitive,exec,cpu,ref:any,convolution,mb1_ic2oc3_oh1_ow1,src:bf16:: wei:bf16::"
    assert onednn.parse([header, line]).work == (Work("ref:any", "bf16:bf16", 12),)


def test_the_template_of_graphs_does_not_replace_that_of_primitives() -> None:
    shuffled = lines("3.7")
    primitive = next(line for line in shuffled if "primitive,info,template" in line)
    shuffled.remove(primitive)
    graph = next(i for i, line in enumerate(shuffled) if "graph,info,template" in line)
    shuffled.insert(graph, primitive)
    assert sum(item.flop for item in onednn.parse(shuffled).work) == FLOP


def test_a_log_without_a_template_is_read_as_the_oldest() -> None:
    log = onednn.parse(line for line in lines("2.5") if "template" not in line)
    assert len(log.work) == 53 and log.version == "2.5.0"


def test_the_marker_of_releases_before_the_name_onednn_is_known() -> None:
    found = onednn.parse(
        ["dnnl_verbose,info,DNNL v1.4.0 (commit N/A)", OLD.replace("onednn", "dnnl") + "mb1_ic2oc2_oh1_ow1,1"]
    )
    assert found.version == "1.4.0" and [item.flop for item in found.work] == [8]


@pytest.mark.parametrize(
    ("problem", "flop"),
    [
        ("mb1_ic64oc64_ih56oh56kh1sh1dh0ph0_iw56ow56kw1sw1dw0pw0", 2 * 64 * 64 * 56 * 56),
        ("mb4_ic3oc64_ih230oh112kh7sh2dh0ph0_iw230ow112kw7sw2dw0pw0", 4 * 2 * 64 * 3 * 49 * 112 * 112),
        ("mb1_g32ic128oc128_ih56oh56kh3sh1dh0ph1_iw56ow56kw3sw1dw0pw1", 2 * 128 * (128 // 32) * 9 * 56 * 56),
        ("mb1_g96ic96oc96_ih112oh56kh3sh2dh0ph0_iw112ow56kw3sw2dw0pw0", 2 * 96 * 9 * 56 * 56),
        ("mb2_ic3oc8_id4od4kd3sd1dd0pd1_ih8oh8kh3sh1dh0ph1_iw8ow8kw3sw1dw0pw1", 2 * 2 * 8 * 3 * 27 * 4 * 8 * 8),
    ],
    ids=["1x1", "7x7 of a batch", "grouped", "depthwise", "3d"],
)
def test_work_follows_from_the_shape_of_the_problem(problem: str, flop: int) -> None:
    assert onednn.convolution_flop(problem) == flop


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "\x00\ufffd\ufffd",
        "Epoch 1: loss 0.5",
        "onednn_verbose",
        "onednn_verbose,",
        "onednn_verbose,exec,cpu,convolution",
        "onednn_verbose,exec,cpu,convolution,jit:avx2,forward_training,src_f32::blo",
        OLD + "mb1_ic6,0.1",
        OLD + "no problem,0.1",
        "onednn_verbose,v1,primitive,create:cache_miss,cpu,convolution,jit:avx2,forward_training,,,,mb1_ic1oc1,0.1",
        "onednn_verbose,info,gpu,runtime:none",
        "onednn_verbose,info,oneDNN of no version",
    ],
)
def test_a_line_that_tells_nothing_is_passed_over(garbage: str) -> None:
    recorded = lines("3.2")
    mixed = [line for pair in zip([garbage] * len(recorded), recorded, strict=True) for line in pair]
    assert onednn.parse(mixed)._replace(timed=()) == onednn.parse(recorded)._replace(timed=())


@pytest.mark.parametrize("prefix", ["onednn_verbose,graph,exec,cpu,", "onednn_verbose,v1,graph,exec,cpu,"])
def test_lines_of_the_graph_api_are_passed_over(prefix: str) -> None:
    line = prefix + "100002,convolution,conv,,in0_f32:0:strided:undef:1x3x8x8,fpm:strict,larger_partition_kernel,dnnl,2"
    assert onednn.parse([HEADER_3_7, line]).work == ()


def test_a_log_without_onednn_proves_nothing() -> None:
    log = onednn.parse(["something else"])
    assert log == onednn.Log("", "", "", ()) and onednn.kernels(log.work) == []
    assert onednn.native_share(log.work, "fp32", FLOP) == 0.0
    assert onednn.native_share(log.work, "fp32") == 0.0


def test_work_that_ran_outside_onednn_counts_against_the_claim() -> None:
    work = [Work("brgconv", "u8:s8", 300)]
    assert onednn.native_share(work, "int8", 400) == 0.75
    assert onednn.native_share(work, "int8", 300) == 1.0


def test_work_beyond_what_the_shapes_ask_for_is_not_more_than_all() -> None:
    work = [Work("brgconv", "u8:s8", 300), Work("jit", "f32:f32", 100)]
    assert onednn.native_share(work, "int8", 200) == 0.75


@pytest.mark.parametrize(
    ("data_type", "claims"),
    [
        ("f32:f32", ["fp32"]),
        ("bf16:bf16", ["bf16"]),
        ("u8:s8", ["int8"]),
        ("s8:s8", ["int8"]),
        ("f32:s8", []),
        ("f16:f16", []),
        ("bf16:f32", []),
        ("unknown:unknown", []),
    ],
)
def test_each_claim_is_proven_by_its_own_types_only(data_type: str, claims: list[str]) -> None:
    work = [Work("any", data_type, 10)]
    assert [claim for claim in onednn.CLAIMED if onednn.native_share(work, claim) == 1.0] == claims


def test_f32_that_is_rounded_to_bf16_in_the_multiplier_is_not_fp32() -> None:
    line = (
        "onednn_verbose,v1,primitive,exec,cpu,convolution,brgconv:avx10_1_512_amx,forward_inference,"
        "src:f32::blocked:acdb::f0 wei:f32::blocked:acdb::f0 dst:f32::blocked:acdb::f0,attr-fpmath:bf16,"
        "alg:convolution_direct,mb1_ic64oc64_ih56oh56kh1sh1dh0ph0_iw56ow56kw1sw1dw0pw0,0.5"
    )
    work = onednn.parse([HEADER_3_7, line]).work
    assert [item.data_type for item in work] == ["f32:f32 as bf16"]
    assert onednn.native_share(work, "fp32") == 0.0


BF16_LINE = (
    "onednn_verbose,v1,primitive,exec,cpu,{kind},{name},backward,{tensors},attr-scratchpad:user,"
    "alg:convolution_direct,mb1_ic2oc2_oh1_ow1,{ms}"
)


def timed(kind: str, name: str, tensors: str, ms: str = "2") -> tuple[onednn.Timed, ...]:
    return onednn.parse([HEADER_3_7, BF16_LINE.format(kind=kind, name=name, tensors=tensors, ms=ms)]).timed


@BOTH
def test_every_primitive_is_timed_by_onednn_itself(name: str) -> None:
    found = onednn.parse(lines(name)).timed
    assert len(found) == sum(",exec," in line for line in lines(name))
    assert sum(item.primitive == "convolution" for item in found) == 53
    assert all(item.ms > 0 and item.types for item in found)


@BOTH
def test_every_primitive_is_a_layer_with_its_sizes_kernel_isa_and_types(name: str) -> None:
    log = onednn.parse(lines(name))
    rows = onednn.layers(log.timed)
    assert len(rows) == len(log.timed)
    first = next(row for row in rows if row[0] == "convolution")
    assert first[1:3] == ["forward_training", "mb1_ic3oc64_ih230oh112kh7sh2dh0ph0_iw230ow112kw7sw2dw0pw0"]
    assert first[4:6] == ["avx512_core_vnni", "s8:s8:u8"] and first[6] > 0
    assert ":".join(first[3:5]) in {item.implementation for item in log.work}


@pytest.mark.parametrize(
    ("implementation", "kernel", "isa"),
    [("x64:gemm:jit", "x64:gemm", "jit"), ("gemm:ref", "gemm", "ref"), ("simple", "simple", "")],
)
def test_the_isa_of_a_kernel_is_what_stands_last(implementation: str, kernel: str, isa: str) -> None:
    (row,) = onednn.layers(timed("matmul", implementation, "src:f32::blocked:a::f0"))
    assert row == ["matmul", "backward", "mb1_ic2oc2_oh1_ow1", kernel, isa, "f32", 2.0]


@pytest.mark.parametrize(
    ("kind", "name", "tensors", "fell"),
    [
        ("convolution", "brgconv:avx512_core_bf16", "src:bf16::blocked:a::f0 wei:bf16::blocked:a::f0", None),
        ("reorder", "jit:uni", "src:f32::blocked:a::f0 dst:bf16::blocked:a::f0", None),
        ("batch_normalization", "bnorm:avx512_core_bf16", "data:bf16::blocked:a::f0 diff:undef::undef:::", None),
        ("batch_normalization", "bnorm:avx512_core_bf16", "data_f32::blocked:a::f0 diff_f32::blocked:a::f0", "f32"),
        ("convolution", "gemm:ref", "src:bf16::blocked:a::f0 wei:bf16::blocked:a::f0", "bf16"),
        ("convolution", "jit_bf16:avx512_core", "src:bf16::blocked:a::f0 wei:bf16::blocked:a::f0", "bf16"),
        ("convolution", "brg_conv_bwd:avx512_core_amx", "diff_src:bf16::blocked:a::f0 wei:bf16::blocked:a::f0", None),
        ("matmul", "brg:avx512_core", "src:f32:a:blocked:ab::f0 wei:f32:a:blocked:ab::f0", "f32"),
    ],
)
def test_what_ran_without_bf16_is_named_with_its_share_of_the_step(
    kind: str, name: str, tensors: str, fell: str | None
) -> None:
    rows = [{"primitive": kind, "data_type": fell, "name": name, "step_share": 0.25}]
    assert onednn.fallbacks(timed(kind, name, tensors), "bf16", 8.0) == (rows if fell else [])


def test_what_fell_back_is_summed_by_kernel_and_the_longest_comes_first() -> None:
    tensors = "src:f32::blocked:a::f0 dst:f32::blocked:a::f0"
    work = timed("pooling", "jit:uni", tensors) + 2 * timed("eltwise", "jit:uni", tensors)
    found = [(row["primitive"], row["step_share"]) for row in onednn.fallbacks(work, "bf16", 10.0)]
    assert found == [("eltwise", 0.4), ("pooling", 0.2)]


def test_an_fp32_step_of_plain_avx512_kernels_fell_back_in_nothing() -> None:
    assert onednn.fallbacks(timed("matmul", "brg:avx512_core", "src:f32::blocked:a::f0"), "fp32", 10.0) == []


@pytest.mark.parametrize("ms", ["", "0.1onednn_verbose"])
def test_a_line_with_no_time_is_of_no_primitive(ms: str) -> None:
    assert timed("pooling", "jit:uni", "src:f32::blocked:a::f0", ms) == ()
