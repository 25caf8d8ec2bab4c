"""Runs made up for the tests of run files and reports: plausible, and nobody's measurements."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from conformance.records import (
    Artefact,
    Footer,
    Header,
    Judgement,
    Kernel,
    Launched,
    Noise,
    Record,
    Run,
    Scaling,
    ScalingPoint,
    Series,
)

STARTED = "2026-11-21T12:03:01+00:00"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
RECIPE = "recipe 003, table of accuracies"
KERNELS = {
    "fp32": (Kernel(name="brgconv:avx512_core", data_type="f32:f32", calls=53, flop_share=1.0),),
    "bf16": (
        Kernel(name="brgconv:avx512_core_amx", data_type="bf16:bf16", calls=49, flop_share=0.962),
        Kernel(name="brgconv:avx512_core", data_type="f32:f32", calls=4, flop_share=0.038),
    ),
    "int8": (
        Kernel(name="brgconv:avx512_core_amx", data_type="u8:s8", calls=52, flop_share=0.983),
        Kernel(name="jit:avx512_core_vnni", data_type="s8:s8", calls=1, flop_share=0.017),
    ),
}


def header(**changes: Any) -> Header:
    fields: dict[str, Any] = {
        "run": "run-20261121-120301-4f2a",
        "started_at": STARTED,
        "harness": "0.1.0 (test data)",
        "command": ("pytest", "suites/inference", "--hw", "xeon-8s", "--stack", "tf=/opt/tf/bin/python"),
        "profile": "xeon-8s",
        "host": {
            "architecture": "x86_64",
            "vendor": "GenuineIntel",
            "model_name": "Example Xeon 8380H (test data)",
            "sockets": 8,
            "cores_per_socket": 28,
            "threads_per_core": 2,
            "memory_bytes": 1_649_267_441_664,
            "governor": "performance",
            "hypervisor": None,
            "flags": ["avx512_bf16", "avx512_vnni", "avx512f"],
        },
        "stacks": {"tf": {"python": "3.11.9", "tensorflow": "2.21.0", "onednn": "3.7.1", "plugins": []}},
        "environment": {"TF_ENABLE_ONEDNN_OPTS": "1"},
    }
    return Header(**{**fields, **changes})


def footer(records: tuple[Record, ...]) -> Footer:
    counts: dict[str, int] = {}
    for record in records:
        counts[record.verdict] = counts.get(record.verdict, 0) + 1
    return Footer(ended_at="2026-11-21T12:41:40+00:00", counts=counts, exit_status=1)


def judgement(metric: str, verdict: Any, text: str, value: float | None, band: str | None) -> Judgement:
    source = RECIPE if band else None
    return Judgement(metric=metric, verdict=verdict, text=text, value=value, band=band, source=source)


def record(case: str, **changes: Any) -> Record:
    precision, mode, *_ = [*case.split("-"), "accuracy"]
    fields: dict[str, Any] = {
        "case": case,
        "suite": "inference",
        "model": "resnet50_v1_5",
        "mode": mode,
        "precision": precision,
        "dataset": "imagenet" if mode == "accuracy" else "dummy",
        "source": RECIPE,
        "stack": "tf",
        "profile": "xeon-8s",
        "verdict": "inside",
        "reason": "",
        "started_at": STARTED,
        "duration_s": 61.25,
        "batch_size": 100,
        "launched": (launched(precision),),
        "kernels": KERNELS.get(precision, ()),
        "inputs": {"graph": Artefact(path=f"graphs/{precision}.pb", sha256=DIGEST, bytes=102_536_550)},
        "artefacts": {
            "log": Artefact(path=f"logs/{case}.log"),
            "events": Artefact(path=f"logs/{case}.events.jsonl"),
        },
    }
    return Record(**{**fields, **changes})


def launched(precision: str) -> Launched:
    script = ("python", "-m", "conformance.subject", f"jobs/{precision} job.json")
    return Launched(
        argv=("numactl", "--cpunodebind=0", "--membind=0", *script),
        env={"OMP_NUM_THREADS": "28", "KMP_AFFINITY": "granularity=fine,compact,1,0", "LD_PRELOAD": None},
        cpus=tuple(range(28)),
        memory_nodes=(0,),
        inter_op_threads=1,
        intra_op_threads=28,
    )


def accuracy(precision: str, top1: float, top5: float, verdict: Any = "inside") -> Record:
    side = "lies inside" if verdict == "inside" else f"misses by {0.757 - top1:.4f}"
    metrics = {"top1": top1, "top5": top5, "images": 50_000.0}
    if precision != "fp32":
        metrics |= {"top1_of_fp32": top1 / 0.7651, "mcnemar_p": 0.0312}
    return record(
        f"{precision}-accuracy-imagenet",
        verdict=verdict,
        metrics=metrics,
        intervals={"top1": (top1 - 0.0037, top1 + 0.0037)},
        judgements=(
            judgement("top1", verdict, f"top-1 {top1:.4f} {side}: at least 0.7570.", top1, "at least 0.7570"),
            judgement("top5", "unjudged", f"top-5 {top5:.4f}; no band for it.", top5, None),
        ),
        published=(
            {
                "metric": "top1",
                "value": {"fp32": 0.7651, "bf16": 0.7674}.get(precision, 0.7623),
                "machine": "8 sockets x 28 cores",
                "source": RECIPE,
            },
        ),
    )


def steps(median_s: float, count: int = 200, spread: float = 0.03) -> tuple[float, ...]:
    draw = random.Random(count * median_s)
    return tuple(median_s * (1 + abs(draw.gauss(0, spread)) + (0.25 if i % 61 == 60 else 0)) for i in range(count))


def speed(precision: str, mode: str, batch_size: int, median_s: float, **changes: Any) -> Record:
    step_s = steps(median_s, spread=changes.pop("spread", 0.03))
    in_order = sorted(step_s)
    mean = sum(step_s) / len(step_s)
    flop_per_s = 8.2e9 * batch_size / mean
    ceiling = {"fp32": 5.2e12, "bf16": 11.0e12, "int8": 21.0e12}[precision] * (0.5 if batch_size == 1 else 1)
    metrics = {
        "throughput_images_per_s": batch_size / mean,
        "latency_mean_s": mean,
        **{f"latency_p{p}_s": in_order[int(len(in_order) * p / 100)] for p in (50, 90, 95, 99)},
        "spread": 0.034,
        "gap_share": 0.011,
        "achieved_flop_per_s": flop_per_s,
        "ceiling_flop_per_s": ceiling,
        "ceiling_share": flop_per_s / ceiling,
        "native_share": max(kernel.flop_share for kernel in KERNELS[precision]),
    }
    verdict = changes.pop("verdict", "inside")
    limit = metrics["throughput_images_per_s"] * 0.9
    text = f"throughput {metrics['throughput_images_per_s']:,.1f} images/s: at least {limit:,.1f} images/s."
    fields: dict[str, Any] = {
        "batch_size": batch_size,
        "verdict": verdict,
        "metrics": metrics,
        "series": (Series(warmup_steps=10, step_s=step_s, steady=verdict != "unstable"),),
        "noise": Noise(steal_share=0.0012, foreign_share=0.004, throttle_events=0, spread=0.034, ceiling_drift=0.011),
        "judgements": (
            judgement(
                "throughput_images_per_s",
                verdict,
                text,
                metrics["throughput_images_per_s"],
                f"at least {limit:,.1f} images/s",
            ),
        ),
    }
    return record(f"{precision}-{mode}-b{batch_size}", **{**fields, **changes})


def speedup(precision: str, ratio: float) -> Record:
    text = f"speed-up over fp32 {ratio:.3f}: at least 1.500."
    return record(
        f"{precision}-speedup-b128",
        mode="speedup",
        batch_size=128,
        metrics={"speedup_over_fp32": ratio},
        intervals={"speedup_over_fp32": (ratio * 0.97, ratio * 1.03)},
        judgements=(judgement("speedup_over_fp32", "inside", text, ratio, "at least 1.500"),),
    )


def scaled(precision: str = "bf16", kind: Any = "weak", predicted: bool = True, **changes: Any) -> Record:
    """Return a training on two ranks, with what is predicted of eight where that is wanted."""

    def point(ranks: int, efficiency: float, **more: Any) -> ScalingPoint:
        speed = 80 * ranks * efficiency
        return ScalingPoint(ranks=ranks, step_s=32 * ranks / speed, images_per_s=speed, efficiency=efficiency, **more)

    scaling = Scaling(
        kind=kind,
        measured=(point(1, 1.0), point(2, 0.928, interval=(0.901, 0.955))),
        predicted=(point(8, 0.799, bytes_per_host=17 * 1024**3, fits=False),) if predicted else (),
        model="ring of a test" if predicted else "",
        assumptions=("Nothing is in the way.", "Memory is cheap.") if predicted else (),
    )
    fields: dict[str, Any] = {
        "mode": "training",
        "metrics": {"global_images_per_s": 148.5, "scaling_efficiency": 0.928, "allreduce_share": 0.12},
        "intervals": {"scaling_efficiency": (0.901, 0.955)},
        "scaling": scaling,
    }
    return record(f"{precision}-training-{kind}", **{**fields, **changes})


def not_run(case: str, reason: str) -> Record:
    nothing: dict[str, Any] = {"launched": (), "kernels": (), "inputs": {}, "artefacts": {}}
    return record(case, verdict="not run", reason=reason, duration_s=0.0, **nothing)


def _measured() -> tuple[Record, ...]:
    published = {
        "metric": "throughput_images_per_s",
        "value": 239.509,
        "machine": "2 sockets x 28 cores, AVX512",
        "source": "recipe 003, sample output",
    }
    noisy = Noise(
        steal_share=0.081,
        foreign_share=0.02,
        throttle_events=None,
        spread=0.194,
        ceiling_drift=None,
        reasons=(
            "steal 8.1 % of the bound cores' time, at most 2.0 % allowed",
            "spread 19.4 %, at most 10.0 % allowed",
        ),
    )
    return (
        accuracy("fp32", 0.7651, 0.9307),
        accuracy("bf16", 0.7648, 0.9305),
        accuracy("int8", 0.7512, 0.9241, "outside"),
        speed("fp32", "throughput", 128, 0.5344, published=(published,)),
        speed("bf16", "throughput", 128, 0.2312),
        speed("int8", "throughput", 128, 0.1297),
        speed("fp32", "latency", 1, 0.009481),
        speed("bf16", "latency", 1, 0.006120),
        speed(
            "int8",
            "latency",
            1,
            0.003905,
            verdict="unstable",
            noise=noisy,
            spread=0.12,
            reason="Measured, but the machine was not quiet.",
        ),
        speedup("bf16", 2.312),
        speedup("int8", 4.120),
    )


def _unmeasured() -> tuple[Record, ...]:
    return (
        speed(
            "bf16",
            "throughput",
            16,
            0.0331,
            verdict="unjudged",
            judgements=(),
            reason="No band for this machine.",
        ),
        record(
            "int8-accuracy-digits",
            dataset="digits",
            verdict="invalid",
            reason="top1 is NaN.",
            metrics={"images": 1797.0},
            judgements=(
                judgement("top1", "invalid", "top-1 is NaN: no number was measured.", None, "at least 0.9700"),
            ),
        ),
        not_run("fp32-throughput-b1024", "Needs 96 GiB of memory, this machine has 62 GiB."),
        not_run("bf16-itex-accuracy", "The stack 'tf' has no ITEX plugin."),
        not_run("bf16-gaudi-accuracy", "No HPU here: hl-smi is not installed."),
    )


def full_run(**changes: Any) -> Run:
    """Return a run with every verdict in it."""
    records = _measured() + _unmeasured()
    run = Run(directory="results/run-20261121-120301-4f2a", header=header(), records=records, footer=footer(records))
    return msgspec.structs.replace(run, **changes)


def second_run() -> Run:
    """Return the same cases on another stack, some five percent faster."""
    records = tuple(
        msgspec.structs.replace(
            record,
            stack="tf215",
            metrics={n: v * 1.05 if n.startswith("throughput") else v for n, v in record.metrics.items()},
        )
        for record in _measured()
    )
    name = "run-20261122-080000-77aa"
    stacks = {
        "tf215": {
            "python": "3.10.14",
            "tensorflow": "2.15.1",
            "onednn": "3.2.0",
            "plugins": ["itex 2.15.0.1"],
        }
    }
    head = header(run=name, started_at="2026-11-22T08:00:00+00:00", stacks=stacks)
    return Run(directory=f"results/{name}", header=head, records=records, footer=footer(records))


def large_run(count: int) -> Run:
    """Return ``count`` records of short latency cases."""
    template = speed("fp32", "latency", 1, 0.009481)
    short = Series(warmup_steps=1, step_s=template.series[0].step_s[:20], steady=True)
    records = tuple(
        msgspec.structs.replace(template, case=f"fp32-latency-{i:04}", series=(short,)) for i in range(count)
    )
    return Run(directory="results/large", header=header(), records=records, footer=footer(records))
