"""The benchmark of the gate, on pools that are made up: what it must find, and what it must not."""

from __future__ import annotations

import json
import random
import time
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import detection


def write_pools(path: Path, ratio: float, noise: float = 0.01, pairs: int = 30) -> Path:
    """Write pools of equal sides, and of new sides that are slower by ``ratio`` where 5 % is claimed."""
    draw = random.Random(3)

    def side(factor: float) -> list[float]:
        level = 0.1 * factor * draw.lognormvariate(0, noise)
        return [level * draw.lognormvariate(0, 0.01) for _ in range(12)]

    told = [
        {"share": share, "base_s": side(1.0), "slow_s": side(factor)}
        for share, factor in ((0.0, 1.0), (0.05, ratio))
        for _ in range(pairs)
    ]
    path.write_text(json.dumps({"pairs": told}))
    return path


def test_a_slow_down_of_five_percent_is_found_and_equal_sides_are_not_called_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detection.replay(write_pools(tmp_path / "pools.json", 1.05), 40, 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines[2:4]] == ["0.0%", "100.0%"]
    assert lines[-1].endswith("met.")


def test_a_slow_down_that_is_none_misses_the_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not detection.replay(write_pools(tmp_path / "pools.json", 1.0), 20, 1)
    assert capsys.readouterr().out.splitlines()[-1].endswith("missed.")


def test_one_outlier_fails_a_threshold_on_means_and_not_the_gate() -> None:
    calm = [0.1] * 12
    burst = detection.Pair(0.0, calm, [*calm[:-1], 1.0])
    pairs = [burst, *(detection.Pair(0.0, calm, [0.1 + i * 1e-6] * 12) for i in range(30))]
    found = detection.trial(iter(pairs))
    assert found.mean_failed and not found.median_failed and found.verdict == "same"


def test_either_side_of_equal_ones_is_the_base() -> None:
    pool = [detection.Pair(0.0, [1.0], [2.0])]
    seen = {pair.base_s[0] for pair in islice(detection.drawn(pool, random.Random(1)), 50)}
    assert seen == {1.0, 2.0}
    slower = [detection.Pair(0.05, [1.0], [2.0])]
    assert {pair.base_s[0] for pair in islice(detection.drawn(slower, random.Random(1)), 50)} == {1.0}


def test_pools_that_are_missing_are_told_with_the_command_that_takes_them(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="benchmarks.detection measure"):
        detection.pools(tmp_path / "none.json")


def test_those_slow_downs_that_have_a_target_are_measured_most() -> None:
    turns = list(islice(detection._turns(), 11))
    assert {share: turns.count(share) for share in detection.SHARES} == {0.0: 4, 0.01: 1, 0.02: 1, 0.05: 4, 0.1: 1}


@pytest.mark.tensorflow
def test_a_slowed_step_goes_on_for_its_share_and_answers_as_before() -> None:
    pytest.importorskip("tensorflow")
    from benchmarks.slowed import slowed

    inside: list[float] = []

    def step(images: str) -> str:
        begun = time.perf_counter()
        time.sleep(0.01)
        inside.append(time.perf_counter() - begun)
        return images.upper()

    begun = time.perf_counter()
    assert slowed(step, 0.5)("a") == "A"
    assert time.perf_counter() - begun >= 1.5 * inside[0]
