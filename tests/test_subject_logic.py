"""The arithmetic of a subject: steadiness, learning rate, ranks, calibration batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from conformance import wire
from conformance.subject import measure, runtime
from conformance.subject.accuracy import ranks
from conformance.subject.events import Events
from conformance.subject.quantize import Calibration

pytestmark = pytest.mark.tensorflow


def jittered(count: int, share: float) -> list[float]:
    """Return steps of 50 ms that scatter evenly by up to this share."""
    return list(0.05 * np.random.default_rng(0).uniform(1 - share, 1 + share, count))


@pytest.mark.parametrize(
    ("step_s", "steady"),
    [
        ([0.05] * 22, True),
        ([0.05] * 19, False),
        ([0.05] * 10 + [0.0530] * 10, False),
        ([0.05] * 10 + [0.0520] * 10, True),
        ([0.0530] * 10 + [0.05] * 10, False),
        ([0.2] * 30 + [0.05] * 20, True),
        ([0.05] * 30 + [0.2] * 20, True),
        ([0.05] * 30 + [0.2] * 3, False),
        ([0.05 * 1.01**i for i in range(40)], False),
        ([0.05 * 0.99**i for i in range(60)], False),
        ([0.05 * 1.001**i for i in range(40)], True),
        (jittered(40, 0.04), True),
        ([0.05] * 15 + [5.0] + [0.05] * 15, True),
        ([2.0] * 5, False),
        ([2.0] * 6, True),
        ([2.0] * 3 + [3.0] * 3, False),
        ([], False),
        ([0.1], False),
    ],
    ids=[
        "level",
        "level but shorter than two windows",
        "a step up",
        "a step up of less than 5 %",
        "a step down",
        "fast again since two windows",
        "slow since two windows",
        "slow since less",
        "rising",
        "falling",
        "rising slowly",
        "jitter",
        "one hiccup",
        "long steps, too few",
        "long steps",
        "long steps, a step up",
        "nothing",
        "one step",
    ],
)
def test_a_series_is_steady_when_its_last_two_windows_agree(step_s: list[float], steady: bool) -> None:
    assert measure.is_steady(step_s) is steady


def warmed_up(tmp_path: Path, step: Any, steps: int) -> tuple[measure.Arm, list[dict[str, Any]]]:
    arm = measure.Arm.__new__(measure.Arm)
    arm.name, arm.step, arm.images = "fp32", step, np.zeros(1)
    arm.warmup, arm.steady = [], False
    measure.warm_up(arm, steps, Events(str(tmp_path / "events")))
    return arm, wire.parse_events((tmp_path / "events").read_bytes())


def test_warm_up_of_short_steps_ends_steady_and_says_little(tmp_path: Path) -> None:
    arm, said = warmed_up(tmp_path, lambda images: math.factorial(500), 10)
    assert arm.steady and sum(arm.warmup) >= measure.BLOCK_S
    assert len(said) <= 2 + sum(arm.warmup) / 0.5


def test_warm_up_that_never_gets_steady_ends_at_its_limit_with_the_given_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "WARMUP_LIMIT_S", 0.1)
    slower = iter(range(1, 10_000))
    arm, _ = warmed_up(tmp_path, lambda images: math.factorial(100 * next(slower)), 60)
    assert not arm.steady and len(arm.warmup) >= 60


def test_the_time_between_steps_is_exact_on_a_machine_that_runs_for_years(monkeypatch: pytest.MonkeyPatch) -> None:
    step_s, pause_s = 5 * 2**-20, 2**-20
    clock = iter(2**30 + i * (step_s + pause_s) + ended for i in range(1000) for ended in (0.0, step_s))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    arm = measure.Arm.__new__(measure.Arm)
    arm.step, arm.images = (lambda images: None), np.zeros(1)
    arm.begun, arm.ended, arm.block_sizes, arm.gap_s = [], [], [], 0.0
    arm.run_block(1000)
    assert arm.gap_s == pytest.approx(999 * pause_s) and arm.step_s == [step_s] * 1000


@pytest.mark.parametrize(
    ("outputs", "label", "rank"),
    [
        ([0.1, 0.7, 0.2], 1, 0),
        ([0.1, 0.7, 0.2], 2, 1),
        ([0.1, 0.7, 0.2], 0, 2),
        ([0.4, 0.4, 0.2], 0, 0),
        ([0.4, 0.4, 0.2], 1, 1),
        ([0.3, 0.4, 0.3], 0, 1),
        ([0.3, 0.4, 0.3], 2, 2),
        ([-3.0, -1.0, -2.0], 2, 1),
    ],
)
def test_a_rank_counts_the_classes_that_stand_before(outputs: list[float], label: int, rank: int) -> None:
    assert ranks(np.array([outputs]), np.array([label])).tolist() == [rank]


def test_rank_0_is_what_argmax_answers_ties_included() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.integers(0, 4, (500, 6)).astype(np.float32)
    labels = rng.integers(0, 6, 500)
    np.testing.assert_array_equal(ranks(outputs, labels) == 0, outputs.argmax(axis=1) == labels)
    ordered = np.argsort(-outputs, axis=1, kind="stable")
    np.testing.assert_array_equal(ranks(outputs, labels), (ordered == labels[:, None]).argmax(axis=1))


def test_a_graph_that_answers_everything_alike_is_right_for_one_class_only() -> None:
    labels = np.arange(11)
    found = ranks(np.full((11, 11), 1 / 11, np.float32), labels)
    assert (found == 0).sum() == 1 and (found < 5).sum() == 5
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 20, [3])])
def test_calibration_gives_every_image_once(count: int, batch_size: int, sizes: list[int]) -> None:
    images = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    calibration = Calibration(images, batch_size)
    for _ in range(2):  # Neural Compressor goes through it more than once
        batches = list(calibration)
        assert [len(batch) for batch, _ in batches] == sizes
        np.testing.assert_array_equal(np.concatenate([batch for batch, _ in batches]), images)
        assert [len(labels) for _, labels in batches] == sizes
    assert len(calibration) == len(sizes) and calibration.batch_size == batch_size


def test_dummy_images_are_those_of_their_seed_and_aligned() -> None:
    images = runtime.dummy_images(3, 5, 7, 1)
    assert images.shape == (3, 5, 7, 3) and images.dtype == np.float32
    assert images.ctypes.data % 64 == 0 and images.flags.c_contiguous
    assert images.min() >= 0 and 200 < images.max() <= 255
    np.testing.assert_array_equal(images, runtime.dummy_images(3, 5, 7, 1))
    assert (images != runtime.dummy_images(3, 5, 7, 2)).any()
