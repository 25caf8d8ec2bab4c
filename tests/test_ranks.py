"""Several ranks of one training: what each sees, that their weights are one, and that they end together."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
datasets = pytest.importorskip("sklearn.datasets")

from ranks_sessions import needs_horovod  # noqa: E402
from test_training_program import ARGUMENTS, SHORT, run  # noqa: E402

from conformance import wire  # noqa: E402
from conformance.data import imagenet  # noqa: E402
from conformance.data.digits import write_digits  # noqa: E402
from conformance.data.preprocessing import digits_eval  # noqa: E402
from conformance.data.shards import find_shards, record_count  # noqa: E402
from conformance.data.training import CROPS, Split, batches, files_suffice, synthetic  # noqa: E402
from conformance.judging.scaling import rank_metrics  # noqa: E402
from conformance.models import resnet  # noqa: E402
from conformance.models.resnet import ResNet, Variant  # noqa: E402
from conformance.subject.events import events_path  # noqa: E402
from conformance.subject.ranks import Alone, joined, parsed  # noqa: E402
from conformance.subject.training_arguments import check  # noqa: E402
from conformance.subject.training_step import Step  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

ENGINE = {"engine": "horovod", "world_size": 2}
MPIRUN = Path(sys.prefix) / "bin" / "mpirun"
PROGRAM = Path(__file__).with_name("ranks_program.py")
# Two epochs of ten steps, of two ranks with eight images each.
GIVEN = {**ARGUMENTS, **SHORT, "network": "tiny", "train_images": 160, "epochs": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("digits")
    digits = datasets.load_digits()
    np.savez(place / "arrays.npz", images=digits.images, labels=digits.target)
    write_digits(str(place / "arrays.npz"), str(place / "set"), 0, 4)
    return str(place / "set")


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "tiny", Variant((1,), (8,)))
        yield


# What each rank sees


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the digits where they are, so that one is known by its bytes."""
    monkeypatch.setitem(CROPS, "digits", lambda encoded, seed, size: digits_eval(encoded))


def seen(data: str, steps: int, skip: int = 0, **changes: Any) -> list[list[bytes]]:
    """Return the images, as bytes, of so many batches of a rank."""
    given = {"dataset": "digits", "epoch_images": 160, "batch_size": 8, "image_size": 32, "crop": "digits"}
    given.update({"seed": 1, "shuffled_labels": False, "threads": 2, **changes})
    made = batches(Split(shards=find_shards(data, "train"), **given), skip)
    return [[image.tobytes() for image in images.numpy()] for images, _ in itertools.islice(made, steps)]


def test_two_ranks_see_in_each_step_what_one_with_the_double_batch_sees(data: str) -> None:
    first, second = (seen(data, 25, rank=rank, ranks=2) for rank in range(2))
    one = seen(data, 25, batch_size=16)
    assert [a + b for a, b in zip(first, second, strict=True)] == one


def test_ranks_that_are_left_see_together_what_all_saw(data: str) -> None:
    one = seen(data, 10, batch_size=24, epoch_images=144)
    first = seen(data, 20, epoch_images=144, rank=0, ranks=2, dealt=3)  # the first and the third of each step
    second = seen(data, 10, epoch_images=144, rank=1, ranks=2, dealt=3)
    assert [first[2 * step] + second[step] + first[2 * step + 1] for step in range(10)] == one
    assert seen(data, 6, 14, epoch_images=144, rank=0, ranks=2, dealt=3) == first[14:]


class Noting(Alone):
    """Ranks that note what they would reduce."""

    joined = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def reduce(self, told: tf.Tensor, gradients: list[tf.Tensor]) -> Any:
        self.sent = [told, *gradients]
        return told, gradients


def sent(batches: list[Any], size: int) -> list[np.ndarray]:
    """Return what a rank of ``size`` sends in a step in which all have three micro-batches."""
    given, ranks = {**GIVEN, "accumulate": len(batches), "dealt": 3}, Noting(size)
    Step(ResNet("tiny", 11, 1), given, ranks)(batches, 0.1, 1.0)
    return [tensor.numpy() for tensor in ranks.sent]


def test_ranks_that_share_a_step_unevenly_take_the_mean_of_its_batches() -> None:
    first, second, third = (synthetic(8, 32, 11, seed, False) for seed in range(3))
    shared = zip(sent([first, third], 2), sent([second], 2), sent([first, second, third], 1), strict=True)
    for here, there, whole in shared:
        np.testing.assert_allclose((here + there) / 2, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize("by_file", [False, True])
def test_the_ranks_of_an_epoch_see_every_image_once_together(data: str, by_file: bool) -> None:
    # 1,433 images in four files: 89 steps of two ranks with eight each, and nine images are left over.
    given = {"epoch_images": 1424, "ranks": 2, "by_file": by_file}
    both = [seen(data, 2 * 89, rank=rank, **given) for rank in range(2)]
    for epoch in (slice(0, 89), slice(89, None)):
        union = [image for batches in both for batch in batches[epoch] for image in batch]
        assert len(union) == 1424 and len(set(union)) == 1424
    assert not set(map(tuple, both[0][:89])) & set(map(tuple, both[0][89:]))


@pytest.mark.parametrize("by_file", [False, True])
def test_a_rank_enters_in_the_middle_of_an_epoch_where_it_left(data: str, by_file: bool) -> None:
    given = {"rank": 1, "ranks": 2, "by_file": by_file}
    assert seen(data, 8, 7, **given) == seen(data, 15, **given)[7:]


def test_by_file_a_rank_reads_its_own_files_only(data: str, tmp_path: Path) -> None:
    for path in find_shards(data, "train"):
        (tmp_path / Path(path).name).write_bytes(Path(path).read_bytes())
    expected = seen(str(tmp_path), 10, rank=1, ranks=2, by_file=True)
    for number in (0, 2):
        (tmp_path / f"train-0000{number}-of-00004").write_bytes(b"no records" * 9)
    assert seen(str(tmp_path), 10, rank=1, ranks=2, by_file=True) == expected
    with pytest.raises(Refused, match="cannot be used"):
        seen(str(tmp_path), 10, rank=0, ranks=2, by_file=True)


def test_files_suffice_where_each_rank_finds_its_share_in_its_own(data: str) -> None:
    shards = find_shards(data, "train")
    counts = [record_count(path) for path in shards]
    assert counts == [sum(1 for _ in imagenet.read_shard(path)) for path in shards]
    least = min(sum(counts[0::2]), sum(counts[1::2]))
    assert files_suffice(shards, 2, 2 * least) and not files_suffice(shards, 2, 2 * least + 2)
    assert not files_suffice(shards, 8, 80)  # fewer files than ranks


def test_a_file_that_is_cut_off_is_not_counted(data: str, tmp_path: Path) -> None:
    content = Path(find_shards(data, "train")[0]).read_bytes()
    (tmp_path / "cut").write_bytes(content[:-7])
    with pytest.raises(Refused, match=r"is cut off after \d+ records"):
        record_count(str(tmp_path / "cut"))


def test_the_ranks_evaluate_each_image_once(data: str) -> None:
    shards = find_shards(data, "validation")
    parts = [list(imagenet.batches(shards, 8, "digits", 2, part=(rank, 3))) for rank in range(3)]
    whole = list(imagenet.batches(shards, 8, "digits", 2))
    turns = [batch for turn in itertools.zip_longest(*parts) for batch in turn if batch is not None]
    assert len(turns) == len(whole) == 46 and sum(len(batch.labels) for batch in turns) == 364
    for found, expected in zip(turns, whole, strict=True):
        np.testing.assert_array_equal(found.images, expected.images)


# What is refused, and what is told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "nccl"}, "The ranks have the engine 'nccl'; known are 'horovod'."),
        ({"compression": "bf16"}, "The ranks have the compression 'bf16'; known are None, 'fp16'."),
        ({"shard": "image"}, "The ranks have the shard 'image'; known are 'record', 'file'."),
        ({"world_size": 0}, "The ranks have the world_size 0; allowed is 1 or more."),
        ({"check_every": 0}, "The ranks have the check_every 0; allowed is 1 or more."),
        (
            {"elastic": True, "shard": "file"},
            "Ranks that go on without one that is lost cannot read the files of that one.",
        ),
        ({"adasum": True, "world_size": 6}, "Adasum was asked for with 6 ranks; allowed are powers of 2."),
    ],
)
def test_ranks_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        parsed({**ENGINE, **given})
    assert caught.value.message == message and caught.value.hint


def test_the_batches_of_all_ranks_count_in_a_step() -> None:
    with pytest.raises(Refused, match="A step takes 240 images, and an epoch has 160"):
        check({**GIVEN, "data": "data", "batch_size": 120, "ranks": ENGINE})


def test_ranks_that_no_launcher_started_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMPI_COMM_WORLD_RANK", raising=False)
    with pytest.raises(Refused) as caught, joined(ENGINE):
        pass
    assert caught.value.message == "2 ranks were asked for, and 1 was started, by no launcher."


def test_a_stack_without_horovod_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setitem(sys.modules, "horovod", None)
    with pytest.raises(Refused) as caught, joined(ENGINE):
        pass
    assert caught.value.message.startswith("Horovod is not installed in this stack") and caught.value.hint


def test_a_rank_but_the_first_has_events_of_its_own() -> None:
    assert events_path("e", {}) == events_path("e", {"OMPI_COMM_WORLD_RANK": "0"}) == "e"
    inside_slurm = {"SLURM_PROCID": "0", "OMPI_COMM_WORLD_RANK": "3"}
    assert events_path("e", inside_slurm) == "e.rank3" and events_path("e", {"SLURM_PROCID": "2"}) == "e.rank2"


def test_a_checkpoint_of_other_ranks_is_not_resumed(data: str, tmp_path: Path) -> None:
    run(data, **{**GIVEN, "model_dir": str(tmp_path / "model"), "max_train_steps": 1})
    facts = next(tmp_path.glob("model/*/training.json"))
    facts.write_text(facts.read_text().replace('"world_size": 1', '"world_size": 2'))
    with pytest.raises(Refused, match="was written with world_size 2, and this run has 1"):
        run(data, **{**GIVEN, "model_dir": str(tmp_path / "model"), "resume": True})


def test_a_process_by_itself_changes_nothing() -> None:
    told, gradients = tf.zeros([5]), [tf.ones([2])]
    with joined(None) as alone:
        assert isinstance(alone, Alone) and alone.reduce(told, gradients) == (told, gradients)
        assert (alone.once(lambda: 3), alone.gather(3), alone.sum([3])) == (3, [3], [3])
        assert alone.different({}) is None and not alone.agreed


# Two ranks of Horovod


def mpirun(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    options = [
        "-np",
        "2",
        "--oversubscribe",
        "-bind-to",
        "none",
        *(["--allow-run-as-root"] if not os.geteuid() else []),
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    env.update({"OMP_NUM_THREADS": "1", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "120"})
    env.update({"HOROVOD_STALL_CHECK_TIME_SECONDS": "60"})
    given = [str(MPIRUN), *options, sys.executable, str(PROGRAM), *command]
    return subprocess.run(given, env=env, capture_output=True, text=True, timeout=400, check=False)


class Together:
    """What two ranks told of many trainings in one session."""

    def __init__(self, data: str, place: Path) -> None:
        self.place, self.data = place, data
        (place / "arguments.json").write_text(json.dumps({**GIVEN, "data": data}))
        ended = mpirun("together", str(place))
        assert (place / "found1.json").exists(), ended.stderr[-3000:]
        self.status = ended.returncode
        self.found = [json.loads((place / f"found{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def together(data: str, tmp_path_factory: pytest.TempPathFactory) -> Together:
    return Together(data, tmp_path_factory.mktemp("together"))


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(checkpoint))
    moving = ("mean/.ATTRIBUTES", "variance/.ATTRIBUTES")
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("network/")]
    return {name: reader.get_tensor(name) for name in names if not any(part in name for part in moving)}


@needs_horovod
def test_two_ranks_train_as_one_that_accumulates_their_batches(together: Together, tmp_path: Path) -> None:
    # Statistics of batch normalisation are those of a rank's own batch, so that one process with the double batch
    # computes something else; one that accumulates two batches normalises the same images together. It averages its
    # moving statistics otherwise (one after the other), which are no part of this and not used in training.
    alone = run(together.data, **{**GIVEN, "accumulate": 2, "model_dir": str(tmp_path / "model")})
    both = [found["trained"] for found in together.found]
    assert both[0]["losses"] == both[1]["losses"] and len(alone["losses"]) == 20
    np.testing.assert_allclose(both[0]["losses"], alone["losses"], rtol=1e-5)
    ours, theirs = weights(together.place / "last"), weights(tmp_path / "model" / "step-00000020")
    assert list(ours) == list(theirs) and len(ours) == 3 * 5 + 2
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert both[0]["rates"] == alone["rates"]  # of the batch of all


@needs_horovod
def test_ranks_that_do_not_communicate_are_found(together: Together) -> None:
    first, second = (found["control"] for found in together.found)
    said = "The weights differ after step 4: network/"
    assert first["message"].startswith(said) and first["message"].endswith(" on rank 1 is not that of rank 0.")
    assert (first["consequence"], second["consequence"]) == (False, True)


@needs_horovod
def test_files_are_shared_out_and_gradients_compressed_where_that_is_asked_for(together: Together) -> None:
    # Their weights were compared at the end, too.
    trained, other = (together.found[0][name] for name in ("trained", "other"))
    assert (trained["shard"], other["shard"]) == ("record", "file")
    assert len(other["losses"]) == 4 and not set(other["losses"]) & set(trained["losses"])


@needs_horovod
def test_an_evaluation_of_two_ranks_counts_every_image_once(together: Together) -> None:
    alone = run(together.data, **{**GIVEN, "eval_only": True, "pretrained": str(together.place / "last")})
    (expected,) = alone["evaluations"]
    hits = [{name: told[name] for name in ("top1_hits", "top5_hits", "images")} for told in
            (expected, *(found["trained"]["evaluations"][0] for found in together.found))]  # fmt: skip
    assert hits[0] == hits[1] == hits[2] and hits[0]["images"] == 364
    assert [found["trained"]["correct"] for found in together.found] == [alone["correct"]] * 2  # in order, bit for bit


@needs_horovod
def test_ranks_go_on_from_a_checkpoint_as_if_they_had_not_ended(together: Together) -> None:
    for found in together.found:
        resumed, whole = found["resumed"], found["trained"]
        assert (resumed["resumed_from"], resumed["first_step"], resumed["steps"]) == (10, 10, 20)
        np.testing.assert_allclose(resumed["losses"], whole["losses"][10:], rtol=1e-5)


@needs_horovod
def test_a_signal_to_one_rank_ends_all_after_the_same_step(together: Together) -> None:
    first, second = (found["interrupted"] for found in together.found)
    assert first["message"].startswith("The training was ended by SIGTERM after 4 steps; its checkpoint is step 4.")
    assert "after 4 steps" in second["message"]
    assert (first["consequence"], second["consequence"]) == (False, True)
    assert os.listdir(together.place / "interrupted") == ["step-00000004"]


@needs_horovod
def test_a_loss_that_is_nan_on_one_rank_ends_all(together: Together) -> None:
    first, second = (found["nan"] for found in together.found)
    assert first["message"].startswith("The loss is nan at step ") and first["message"] == second["message"]
    assert (first["consequence"], second["consequence"]) == (False, True)


@needs_horovod
def test_the_first_rank_tells_of_all_what_they_took_and_where_they_were(together: Together) -> None:
    told = together.found[0]["trained"]
    assert (told["world_size"], [rank["rank"] for rank in told["ranks"]]) == (2, [0, 1])
    assert len({rank["pid"] for rank in told["ranks"]}) == 2
    for rank, found in zip(told["ranks"], together.found, strict=True):
        assert rank["affinity"] == found["affinity"] and rank["resident_bytes"] > 1e8
        assert [len(rank[name]) for name in ("step_s", "wait_s", "compute_s", "reduce_s")] == [20] * 4
        parts = np.add(rank["compute_s"], rank["reduce_s"])
        assert (parts <= rank["step_s"]).all() and rank["examples_per_s"] > 0
    found = rank_metrics(told["ranks"], 2, 8, told["allreduce_s"], warmup=0)
    assert told["allreduce_s"] > 0 and found["allreduce_share"] > 0 and found["rank_skew"] >= 0


@needs_horovod
def test_the_log_has_its_lines_once(together: Together) -> None:
    first, second = (found["trained"]["log"] for found in together.found)
    assert "loss = " in first and "accuracy = " in first and second == ""


@needs_horovod
def test_other_ranks_than_were_asked_for_are_refused(together: Together) -> None:
    for rank in range(2):
        assert (together.place / f"three{rank}").read_text() == "3 ranks were asked for, and Horovod found 2."
    assert together.status == 0


@needs_horovod
def test_the_timeline_names_the_reduction_of_the_gradients(together: Together) -> None:
    assert "ALLREDUCE" in (together.place / "timeline.json").read_text()


@needs_horovod
def test_a_rank_that_raises_ends_all_and_is_told_as_the_cause(data: str, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    arguments = {**GIVEN, "data": data, "ranks": ENGINE, "prove": False}
    wire.write_job(wire.Job(wire.TRAIN, str(tmp_path / "events"), 1, 1, arguments), str(job))
    assert mpirun("raising", str(job)).returncode == 1
    ended = []
    for name in ("events", "events.rank1"):
        events = wire.parse_events((tmp_path / name).read_bytes())
        ended.append(next(event for event in events if event["event"] == wire.FAILED))
    first, second = ended
    assert (second["message"], second["consequence"]) == ("The disk of rank 1 is gone.", False)
    assert (first["message"], first["consequence"]) == ("Rank 0 ended because another rank did.", True)
