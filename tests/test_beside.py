"""What a case is compared with, run for real on a network of one layer: it uses the subject's own functions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.tensorflow
ROOT = Path(__file__).parents[1]


def beside(place: Path, **spec: Any) -> dict[str, Any]:
    (place / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "benchmarks.beside", str(place / "spec.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_dummy_data_decoding_and_judging_take_turns_on_the_same_images(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        fed = tf.compat.v1.placeholder(tf.float32, (None, 224, 224, 3), name="input_tensor")
        means = tf.reduce_mean(tf.nn.conv2d(fed, np.ones((3, 3, 3, 8), np.float32), 8, "SAME"), (1, 2))
        tf.nn.softmax(tf.matmul(means, np.ones((8, 1001), np.float32)), name="softmax_tensor")
    (tmp_path / "one.pb").write_bytes(graph.as_graph_def().SerializeToString())
    threads = {"inter_op_threads": 1, "intra_op_threads": 1}
    (tmp_path / "data").mkdir()
    beside(tmp_path, kind="jpegs", directory=str(tmp_path / "data"), images=6)
    answer = beside(
        tmp_path, kind="feed", graph=str(tmp_path / "one.pb"), precision="fp32", data=str(tmp_path / "data"),
        batch_size=4, rounds=2, folder=str(tmp_path), **threads,
    )  # fmt: skip
    assert all(len(answer[name]) == 2 and min(answer[name]) > 0 for name in ("dummy", "decoding", "judging"))
    assert answer["load_s"] > 0 and all(0 < share < 1 for share in answer["compute_share"])
