"""What the commands that start a subject show and raise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conformance import wire
from conformance.errors import UsageError
from conformance.fixtures.jobs import Telling, run_job


def told(*events: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    telling = Telling(lines.append)
    for event in events:
        telling.hear(0, event)
    return lines


def progress(done: int, at_s: float, total: int = 0, note: str = "") -> dict[str, Any]:
    return {"event": wire.PROGRESS, "monotonic_s": at_s, "done": done, "total": total, "unit": "images", "note": note}


PHASE = {"event": wire.PHASE, "name": "write shards"}


def test_progress_tells_a_rate_and_the_time_left() -> None:
    assert told(PHASE, progress(0, 10.0, 2000), progress(500, 12.0, 2000)) == [
        "write shards",
        "write shards: 0 of 2,000 images",
        "write shards: 500 of 2,000 images, 250.0/s, 6 s left",
    ]


def test_what_was_done_by_an_earlier_try_is_no_rate() -> None:
    assert told(PHASE, progress(1000, 1.0, 2000), progress(1100, 2.0, 2000))[-1] == (
        "write shards: 1,100 of 2,000 images, 100.0/s, 9 s left"
    )


def test_a_phase_has_a_rate_of_its_own() -> None:
    assert told(PHASE, progress(0, 1.0), progress(9, 2.0), PHASE, progress(10, 3.0))[-1] == "write shards: 10 images"


def test_without_a_total_no_end_is_promised() -> None:
    assert told(progress(0, 0.0), progress(30, 3.0, note="half"))[-1] == ": 30 images, 10.0/s, half"


def test_other_events_show_nothing() -> None:
    assert told({"event": wire.ALIVE}, {"event": wire.STARTED, "tensorflow": "2.21"}) == []


@pytest.mark.tensorflow
def test_what_a_subject_refuses_is_a_usage_error_in_its_words(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    lines: list[str] = []
    arguments = {"arrays": str(tmp_path / "none.npz"), "output": str(tmp_path / "out"), "seed": 0}
    with pytest.raises(UsageError, match=r"none\.npz' cannot be read") as caught:
        run_job(wire.WRITE_DIGITS, arguments, show=lines.append)
    assert caught.value.hint.startswith("Give an .npz")
    assert lines[0] == "import TensorFlow" and not (tmp_path / "out").exists()


def test_a_stack_without_tensorflow_is_told_before_anything_starts(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho \'{"python": [3, 11, 0], "packages": {}}\'\n')
    python.chmod(0o755)
    with pytest.raises(UsageError, match="has no TensorFlow"):
        run_job(wire.WRITE_DIGITS, {}, stack=str(python))
