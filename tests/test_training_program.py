"""The training program on a small network and real digits: it learns, goes on after a kill, and says why it ends."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
datasets = pytest.importorskip("sklearn.datasets")

from conformance import wire  # noqa: E402
from conformance.data import imagenet, training  # noqa: E402
from conformance.data.digits import write_digits  # noqa: E402
from conformance.data.shards import find_shards  # noqa: E402
from conformance.data.tree import find_images  # noqa: E402
from conformance.fixtures.datasets import split_images  # noqa: E402
from conformance.models import graphs, resnet  # noqa: E402
from conformance.models.resnet import ResNet, Variant  # noqa: E402
from conformance.subject import export as exporting  # noqa: E402
from conformance.subject import train as program  # noqa: E402
from conformance.subject.checkpoints import Checkpoints, newest, path_of, steps  # noqa: E402
from conformance.subject.profiled import steps as steps_in_profile  # noqa: E402
from conformance.subject.train import explodes, train  # noqa: E402
from conformance.subject.training_arguments import check  # noqa: E402
from conformance.subject.training_proof import shown, step_flop  # noqa: E402
from conformance.wire import Refused, WrongAnswer  # noqa: E402

pytestmark = pytest.mark.tensorflow

SMALL = Variant((1, 1), (8, 16))
ARGUMENTS = {
    "network": "small",
    "classes": 11,
    "precision": "fp32",
    "image_size": 32,
    "dataset": "digits",
    "train_images": 1433,
    "crop": "digits",
    "shuffled_labels": False,
    "max_cpus": 2,
    "batch_size": 32,
    "accumulate": 1,
    "schedule": {"base": 0.4, "warmup_epochs": 0.2, "epochs": 2},
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "label_smoothing": 0.1,
    "mixup_alpha": 0,
    "prove": True,
    "early_check": None,
    "loss_scale": 1,
    "optimizer": "momentum",
    "fine_tune": False,
    "pretrained": None,
    "epochs": 2,
    "train_offset": 0,
    "epochs_between_evals": 1,
    "max_train_steps": None,
    "stop_threshold": None,
    "seed": 1,
    "model_dir": None,
    "checkpoint_steps": None,
    "keep": 2,
    "resume": False,
    "export_saved_model": None,
    "export_graph": None,
    "eval_only": False,
    "profile_steps": None,
    "tensorboard": None,
    "ranks": None,
}
# Ten steps an epoch, and no evaluation.
SHORT = {"train_images": 80, "batch_size": 8, "epochs": 3, "epochs_between_evals": None}


class Heard:
    """Takes what a subject says, and may do something at a step."""

    def __init__(self, at: dict[int, Any] | None = None) -> None:
        self.phases: list[str] = []
        self.told: list[tuple[int, int, str, str]] = []
        self._at = at or {}

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.told.append((done, total, unit, note))
        if unit == "steps":
            self._at.get(done, lambda: None)()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("digits")
    digits = datasets.load_digits()
    np.savez(place / "arrays.npz", images=digits.images, labels=digits.target)
    write_digits(str(place / "arrays.npz"), str(place / "set"), 0, 4, jpeg_tree=True)
    return str(place / "set")


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "small", SMALL)
        patch.setitem(resnet.VARIANTS, "deeper", Variant((1, 2), (8, 16)))
        yield


def run(data: str | None, heard: Heard | None = None, **changes: Any) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        return train({**ARGUMENTS, "data": data, **changes}, heard or Heard(), 2)


def short(data: str | None, place: Path | str | None = None, heard: Heard | None = None, **changes: Any) -> Any:
    return run(data, heard, **{**SHORT, "model_dir": str(place) if place else None, **changes})


class Whole:
    """One run of two epochs that does everything, and what it left."""

    def __init__(self, data: str, place: Path) -> None:
        self.place, self.heard, log = place, Heard(), io.StringIO()
        places = {name: str(place / name) for name in ("model_dir", "export_graph", "export_saved_model")}
        given = {**ARGUMENTS, **places, "data": data, "checkpoint_steps": 20, "tensorboard": str(place / "board")}
        given["profile_steps"] = [5, 8]
        with contextlib.redirect_stdout(log):
            self.result = train(given, self.heard, 2)
        self.log = log.getvalue().splitlines()


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(data, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def checkpoint(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the checkpoint of step 5; to be copied by who changes it."""
    place = tmp_path_factory.mktemp("checkpoint") / "model"
    short(data, place, max_train_steps=5)
    return place


@pytest.fixture
def model_dir(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def test_the_loss_falls_and_the_digits_are_learnt(whole: Whole) -> None:
    told = whole.result
    assert (told["steps"], told["first_step"], told["stopped_by"], told["resumed_from"]) == (88, 0, "epochs", None)
    assert [len(told[name]) for name in ("losses", "rates", "step_s", "wait_s")] == [88] * 4
    assert np.median(told["losses"][-9:]) < 0.8 * np.median(told["losses"][:9])
    first, last = told["evaluations"]
    assert (first["step"], first["epoch"], last["step"], last["epoch"], last["images"]) == (44, 1, 88, 2, 364)
    assert 0.5 < last["top1_hits"] / 364 < last["top5_hits"] / 364 <= 1
    assert all(1e6 < size < 1e11 for size in told["resident_bytes"])
    wire.event_line(wire.RESULT, {"result": told})


def test_with_shuffled_labels_nothing_is_learnt_about_the_validation_split(data: str) -> None:
    (last,) = run(data, shuffled_labels=True, epochs_between_evals=2)["evaluations"]
    assert last["top1_hits"] / last["images"] < 0.3


def test_the_rates_are_those_of_the_schedule(whole: Whole) -> None:
    rates = whole.result["rates"]
    assert rates[0] == 0 and max(rates) == rates[8] == pytest.approx(0.05)  # 0.4 x 32 / 256 after a fifth of an epoch
    assert rates[-1] == pytest.approx(0, abs=1e-4)


def test_the_log_has_the_lines_of_the_recipes(whole: Whole) -> None:
    losses = whole.result["losses"]
    expected = [f"loss = {losses[step]:.6f}, step = {step}" for step in range(0, 88, 10)]
    assert [line for line in whole.log if line.startswith("loss")] == expected


def test_progress_tells_loss_and_speed(whole: Whole) -> None:
    done, total, unit, note = [told for told in whole.heard.told if told[2] == "steps"][-1]
    assert (done, total, unit) == (88, 88, "steps")
    assert note.startswith(f"loss {whole.result['losses'][-1]:.4f}, ") and note.endswith(" images/s")


def test_the_speed_is_logged_every_100_steps(capsys: pytest.CaptureFixture[str]) -> None:
    train({**ARGUMENTS, **SHORT, "data": None, "train_images": 8, "batch_size": 2, "epochs": 25}, Heard(), 2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "examples/sec" in line]
    (every, own), speed = lines, float(lines[1].split(": ")[1])
    assert (every, own) == (f"global_examples/sec: {speed:.1f}", f"examples/sec: {speed:.1f}") and speed > 1


def test_the_frozen_graph_and_the_saved_model_answer_as_the_network_did(whole: Whole, data: str) -> None:
    (batch,) = imagenet.batches(find_shards(data, "validation"), 364, "digits", 2)
    for name in ("export_graph", "export_saved_model"):
        graph_def = graphs.read_graph(str(whole.place / name))
        fed, fetched = graphs.placeholders(graph_def), graphs.last_nodes(graph_def)
        with tf.compat.v1.Session(graph=graphs.imported(graph_def)) as session:
            outputs = session.run(fetched[0].name + ":0", {fed[0] + ":0": batch.images})
        assert fed == ["input_tensor"] and outputs.shape == (364, 11)
        assert (outputs.argmax(1) == batch.labels).sum() == whole.result["evaluations"][-1]["top1_hits"]
        packed = np.frombuffer(bytes.fromhex(whole.result["correct"]), np.uint8)
        assert (np.unpackbits(packed, count=364).astype(bool) == (outputs.argmax(1) == batch.labels)).all()


def test_what_else_the_machine_did_is_read_from_the_first_step_that_counts_to_the_last(whole: Whole) -> None:
    read, counted_s = whole.result["reading"], sum(whole.result["step_s"][10:])
    assert counted_s <= read["elapsed_s"] and 0 < read["own_s"] <= read["elapsed_s"] * read["cpus"] * 1.1
    assert short(None, max_train_steps=9)["reading"] is None


def test_checkpoints_can_be_left_to_the_end(data: str, tmp_path: Path) -> None:
    given = {"epochs": 2, "epochs_between_evals": 1}
    short(data, tmp_path / "end", checkpoint_steps=0, **given)
    short(data, tmp_path / "evaluated", **given)
    assert (steps(str(tmp_path / "end")), steps(str(tmp_path / "evaluated"))) == ([20], [10, 20])


def test_the_serving_signature_takes_input_tensor(whole: Whole) -> None:
    signature = tf.saved_model.load(str(whole.place / "export_saved_model")).signatures["serving_default"]
    (taken,) = signature.structured_input_signature[1].values()
    assert (taken.name, taken.shape.as_list()) == ("input_tensor", [None, 32, 32, 3])
    assert list(signature.structured_outputs) == ["softmax_tensor"]


def scalars(directory: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    (path,) = directory.glob("events.out.*.v2")
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_tensorboard_has_the_names_of_the_recipe(whole: Whole) -> None:
    found = scalars(whole.place / "board")
    names = {"cross_entropy", "l2_loss", "learning_rate", "accuracy", "accuracy_top_5", "loss"}
    assert set(found) == names and all(list(found[name]) == list(range(0, 88, 10)) for name in names)
    for step, loss in found["loss"].items():
        assert loss == pytest.approx(whole.result["losses"][step], rel=1e-6)
        assert loss == pytest.approx(found["cross_entropy"][step] + found["l2_loss"][step], rel=1e-6)
    judged = scalars(whole.place / "board" / "eval")
    last = whole.result["evaluations"][-1]
    assert judged["accuracy"][88] == pytest.approx(last["top1_hits"] / 364)


def test_the_profile_is_that_of_the_steps_asked_for(whole: Whole) -> None:
    xplane = pytest.importorskip("tensorflow.tsl.profiler.protobuf.xplane_pb2")
    (trace,) = (whole.place / "board" / "plugins" / "profile").glob("*/*.xplane.pb")
    profiled = []
    for plane in xplane.XSpace.FromString(trace.read_bytes()).planes:
        events = [event for line in plane.lines for event in line.events]
        for event in events:
            if plane.event_metadata[event.metadata_id].name == "train":
                stats = {plane.stat_metadata[stat.metadata_id].name: stat.int64_value for stat in event.stats}
                profiled.append(stats["step_num"])
    assert sorted(profiled) == whole.result["profiled"] == [5, 6, 7, 8]


def test_a_profile_that_ends_with_the_training_is_whole(data: str, tmp_path: Path) -> None:
    told = short(data, max_train_steps=9, profile_steps=[5, 8], tensorboard=str(tmp_path / "board"))
    assert (told["steps"], told["profiled"]) == (9, [5, 6, 7, 8])
    assert steps_in_profile(str(tmp_path)) == []


def test_the_saved_model_is_asked_what_the_network_was_asked(
    whole: Whole, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert whole.result["exported"] == {"images": 364, "same": 364}
    real = exporting._export_saved_model

    def of_another_network(network: ResNet, *given: Any) -> None:
        network.dense_kernel.assign(-network.dense_kernel)
        real(network, *given)

    monkeypatch.setattr(exporting, "_export_saved_model", of_another_network)
    told = short(data, max_train_steps=2, epochs_between_evals=1, export_saved_model=str(tmp_path / "saved"))
    assert told["exported"]["images"] == 364 and told["exported"]["same"] < 182
    assert short(data, max_train_steps=1)["exported"] is None


def test_the_last_checkpoints_are_kept(whole: Whole) -> None:
    assert steps(str(whole.place / "model_dir")) == [80, 88]
    assert sorted(os.listdir(whole.place / "model_dir")) == ["step-00000080", "step-00000088"]


def test_a_checkpoint_is_evaluated_by_itself(whole: Whole, data: str) -> None:
    told = run(data, eval_only=True, model_dir=str(whole.place / "model_dir"))
    assert told["evaluations"] == whole.result["evaluations"][-1:]
    assert (told["losses"], told["resumed_from"]) == ([], 88)


def test_class_folders_are_evaluated_as_the_records_of_the_same_images(whole: Whole, data: str) -> None:
    (found,) = run(data + "/jpeg", eval_only=True, model_dir=str(whole.place / "model_dir"))["evaluations"]
    assert found == whole.result["evaluations"][-1]


def test_the_host_counts_the_images_that_a_run_sees(data: str) -> None:
    for subset, images in (("train", 1433), ("validation", 364)):
        assert (
            split_images(Path(data) / "jpeg", subset) == images == find_images(data + "/jpeg", subset, "digits").images
        )


def test_training_on_class_folders_goes_on_in_the_middle_of_an_epoch(data: str, tmp_path: Path) -> None:
    given = {"epochs_between_evals": 1, "train_images": 1433, "batch_size": 128, "image_size": 32, "epochs": 2}
    one = short(data + "/jpeg", **given)
    short(data + "/jpeg", tmp_path, max_train_steps=14, **given)
    rest = short(data + "/jpeg", tmp_path, resume=True, **given)
    assert (rest["resumed_from"], one["steps"], rest["steps"]) == (14, 22, 22)
    np.testing.assert_allclose(rest["losses"], one["losses"][14:], rtol=1e-5)
    assert one["losses"][-1] < one["losses"][0] and one["evaluations"][-1]["images"] == 364
    with pytest.raises(Refused, match="was written with layout 'tree', and this run has 'records'"):
        short(data, tmp_path, resume=True, **given)


def test_the_epochs_of_the_offset_are_trained_and_not_evaluated(data: str) -> None:
    told = short(data, epochs=3, train_offset=2, epochs_between_evals=2)
    assert (told["steps"], told["stopped_by"]) == (50, "epochs")
    assert [(judged["step"], judged["epoch"]) for judged in told["evaluations"]] == [(40, 4), (50, 5)]


@pytest.mark.parametrize("given", [None, 1])
def test_the_input_takes_as_many_threads_as_it_may(
    given: int | None, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = training.batches, []
    monkeypatch.setattr(training, "batches", lambda split, *skip: seen.append(split.threads) or real(split, *skip))
    short(data, max_cpus=given, max_train_steps=1)
    assert seen == [given or 2]


def test_synthetic_images_are_one_batch_on_the_device_and_no_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = training.synthetic, []
    fed: list[int] = []
    stepped = program.Step.__call__
    monkeypatch.setattr(training, "batches", lambda *_: pytest.fail("a pipeline"))
    monkeypatch.setattr(training, "synthetic", lambda *given: made.append(real(*given)) or made[-1])
    monkeypatch.setattr(
        program.Step,
        "__call__",
        lambda step, batches, *rest: fed.append(id(batches[0][0])) or stepped(step, batches, *rest),
    )
    short(None, max_train_steps=3)
    ((images, labels),) = made
    assert fed == [id(images)] * 3
    device = tf.config.list_logical_devices()[-1].name  # the fastest one is listed last
    assert images.device.endswith(device) and labels.device.endswith(device)


def test_a_run_stops_at_its_threshold(whole: Whole, data: str) -> None:
    place = whole.place / "model_dir"
    reached = run(data, model_dir=str(place), resume=True, epochs=9, stop_threshold=0.4)
    assert (reached["stopped_by"], reached["steps"], reached["losses"]) == ("threshold", 88, [])


@pytest.fixture(scope="module")
def uninterrupted(data: str) -> list[float]:
    return list(short(data, mixup_alpha=0.2)["losses"])


KILLED = """if True:
    import sys, time
    import test_training_program as tests
    from conformance.models import resnet
    resnet.VARIANTS["small"] = tests.SMALL
    slowly = {step: lambda: time.sleep(0.05) for step in range(99)}
    tests.short(sys.argv[1], sys.argv[2], tests.Heard(slowly), mixup_alpha=0.2, checkpoint_steps=4)
"""


def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(
    data: str, uninterrupted: list[float], tmp_path: Path
) -> None:
    model_dir = tmp_path / "model"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    child = subprocess.Popen([sys.executable, "-c", KILLED, data, str(model_dir)], env=environment)
    try:
        until = time.monotonic() + 60
        while not [step for step in steps(str(model_dir)) if step >= 12] and time.monotonic() < until:
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    (model_dir / "step-00000099.part").mkdir()  # as of a run that was killed while it wrote
    told = short(data, model_dir, mixup_alpha=0.2, checkpoint_steps=4, resume=True)
    first = told["first_step"]
    assert first == told["resumed_from"] and first >= 12 and first % 4 == 0
    assert (told["steps"], len(told["losses"])) == (30, 30 - first)
    np.testing.assert_allclose(told["losses"], uninterrupted[first:], rtol=1e-5)
    assert sorted(os.listdir(model_dir)) == ["step-00000028", "step-00000030"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_after_its_step_and_its_checkpoint(data: str, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    heard = Heard({3: lambda: os.kill(os.getpid(), number)})
    with pytest.raises(Refused) as caught:
        short(data, tmp_path / "model", heard)
    name = signal.Signals(number).name
    assert caught.value.message == f"The training was ended by {name} after 3 steps; its checkpoint is step 3."
    assert steps(str(tmp_path / "model")) == [3] and signal.getsignal(number) is before


def test_a_loss_that_is_nan_ends_the_run_with_its_step_and_the_last_good_checkpoint(data: str, tmp_path: Path) -> None:
    blown = {"base": 0.1, "decay": "steps", "warmup_epochs": 0, "epochs": 3, "boundaries": [1], "factors": [1, 1e30]}
    with pytest.raises(WrongAnswer) as caught:
        short(data, tmp_path / "model", schedule=blown, checkpoint_steps=4)
    # The weights of step 12 are finite, and what made the loss nan.
    assert caught.value.message == "The loss is nan at step 12; the last good checkpoint is step 8."
    assert "learning rate" in caught.value.hint and "Delete the checkpoint of step 12" in caught.value.hint
    assert steps(str(tmp_path / "model")) == [8, 12]


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    network = ResNet("small", 11, 0)
    made = Checkpoints(str(tmp_path), 1, network, [], {})
    made.save(3)
    network.dense_bias.assign([np.nan] * 11)
    with pytest.raises(WrongAnswer, match="network/dense_bias holds NaN or Inf after step 3; the last good checkpoint"):
        made.save(4)
    assert os.listdir(tmp_path) == ["step-00000003"]


def test_a_loss_that_rises_far_above_the_first_explodes() -> None:
    rising = [1.0, *np.linspace(9, 20, 30).tolist()]
    assert explodes(rising)
    assert not explodes([2.0, *rising[1:]]) and not explodes([1.0, *rising[:0:-1]]) and not explodes(rising[:20])


def test_an_input_that_stalls_ends_the_run(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training.batches

    def stalling(*given: Any) -> Iterator[Any]:
        yield next(real(*given))
        time.sleep(4.0)

    monkeypatch.setattr(program, "STALLED_S", 2.0)
    monkeypatch.setattr(training, "batches", stalling)
    with pytest.raises(WrongAnswer, match="No batch came within 2 s at step 1; there is no checkpoint"):
        short(data)


def test_a_full_disk_keeps_the_checkpoint_that_is_there(model_dir: Path, data: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(Refused) as caught:
            short(data, model_dir, resume=True, max_train_steps=7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.message.startswith(f"'{model_dir}/step-00000007' cannot be written: File too large")
    assert os.listdir(model_dir) == ["step-00000005"]
    assert short(data, model_dir, resume=True, max_train_steps=7)["resumed_from"] == 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory of 200 KiB and nothing more."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    with contextlib.suppress(OSError), open(place / "filling", "wb", buffering=0) as file:
        while file.write(bytes(512)):
            pass


FULL = "cannot be written: No space left on device; 0 bytes are free there"


@pytest.mark.parametrize(("profile", "ended"), [(None, None), ([4, 5], 6)])
def test_a_full_disk_under_the_log_ends_a_run_with_a_checkpoint(
    small_disk: Path, tmp_path: Path, profile: list[int] | None, ended: int | None
) -> None:
    board, heard = small_disk / "board", Heard({3: lambda: fill(small_disk)})
    given = {"train_images": 1600, "image_size": 32, "tensorboard": str(board), "profile_steps": profile}
    with pytest.raises(Refused) as caught:
        short(None, tmp_path / "model", heard, **given)
    (kept,) = steps(str(tmp_path / "model"))
    because = f"The training was ended by a failed write ('{board}' {FULL})"
    assert caught.value.message == f"{because} after {kept} steps; its checkpoint is step {kept}."
    assert kept in ([ended] if ended else range(11, 200)) and kept == heard.told[-1][0]


def test_a_disk_that_is_full_for_log_and_checkpoints_leaves_the_checkpoint_before(
    small_disk: Path, model_dir: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise Refused("the disk is full", "")

    monkeypatch.setattr(Checkpoints, "save", full)
    given = {"resume": True, "tensorboard": str(small_disk / "board"), "profile_steps": [7, 7]}
    with pytest.raises(Refused, match=f"{FULL}.* after 8 steps; its checkpoint is step 5"):
        short(data, model_dir, Heard({6: lambda: fill(small_disk)}), **given)


@pytest.mark.parametrize(("at", "ended"), [(2, 11), (20, 21)])
def test_a_log_that_vanished_is_told(tmp_path: Path, at: int, ended: int) -> None:
    board = tmp_path / "board"
    heard = Heard({at: lambda: shutil.rmtree(board)})
    with pytest.raises(Refused) as caught:
        short(None, tmp_path / "model", heard, max_train_steps=21, tensorboard=str(board))
    assert f"'{board}' cannot be written: No such file or directory; " in caught.value.message
    assert caught.value.message.endswith(f" its checkpoint is step {ended}.")
    assert steps(str(tmp_path / "model")) == [ended] and caught.value.hint


def loaded(model_dir: Path, network: str = "small", classes: int = 11, velocities: int | None = None) -> Refused:
    """Return the refusal of loading the newest checkpoint, after which the network is what it was."""
    made = ResNet(network, classes, 7)
    before = [variable.numpy() for variable in made.variables]
    state = [tf.Variable(tf.zeros(v.shape)) for v in made.trainable_variables[:velocities]]
    facts = {"dataset": "digits", "batch_size": 8, "seed": 1}
    with pytest.raises(Refused) as caught:
        Checkpoints(str(model_dir), 2, made, state, facts).load(steps(str(model_dir))[-1])
    for number, variable in enumerate(made.variables):
        np.testing.assert_array_equal(variable, before[number])
    return caught.value


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"classes": 21}, "network/dense_bias is [11] in it, and [21] here."),
        ({"network": "deeper"}, "network/layers/1/1/expand/beta is not there in it, and [64] here."),
        ({"velocities": 2}, "velocities/10 is [1, 1, 64, 8] in it, and not there here."),
    ],
)
def test_a_checkpoint_of_another_training_names_the_first_variable_that_differs(
    checkpoint: Path, given: dict[str, Any], said: str
) -> None:
    path = path_of(str(checkpoint), 5)
    assert loaded(checkpoint, **given).message == f"Checkpoint {path!r} is of another training: {said}"


def test_a_damaged_checkpoint_names_the_first_variable_that_cannot_be_read(model_dir: Path) -> None:
    (path,) = model_dir.glob("*/*.data-*")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused = loaded(model_dir)
    assert "is damaged: network/" in refused.message and refused.message.endswith(" cannot be read.")
    assert refused.hint == "Delete it, and the training begins anew."
    (index,) = model_dir.glob("*/*.index")
    index.write_bytes(b"")
    assert "its index cannot be read" in loaded(model_dir).message


def test_a_run_with_another_batch_size_is_not_resumed(model_dir: Path, data: str) -> None:
    with pytest.raises(Refused, match="was written with batch_size 8, and this run has 16"):
        short(data, model_dir, batch_size=16, resume=True)


def test_a_directory_with_checkpoints_is_resumed_only_when_that_is_asked_for(model_dir: Path, data: str) -> None:
    with pytest.raises(Refused, match="holds the checkpoint of step 5 already") as caught:
        short(data, model_dir)
    assert caught.value.hint == "Resume it, or name a new directory."


@pytest.mark.parametrize("name", ["model_dir", "tensorboard", "export_graph", "export_saved_model"])
def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(name: str, data: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    heard = Heard()
    with pytest.raises(Refused, match="cannot be written: Not a directory"):
        short(data, None, heard, **{name: str(tmp_path / "file" / "place" / "name")})
    assert not heard.told


def test_fine_tuning_starts_from_a_checkpoint_and_changes_the_head_only(
    checkpoint: Path, data: str, tmp_path: Path
) -> None:
    place = tmp_path / "tuned"
    short(data, place, pretrained=str(checkpoint), fine_tune=True, max_train_steps=3)
    before, after = (tf.train.load_checkpoint(newest(str(path))) for path in (checkpoint, place))
    for name in before.get_variable_to_shape_map():
        if name.endswith(("kernel/.ATTRIBUTES/VARIABLE_VALUE", "gamma/.ATTRIBUTES/VARIABLE_VALUE")):
            same = (before.get_tensor(name) == after.get_tensor(name)).all()
            assert same == ("dense" not in name), name


def test_weights_below_the_head_that_fine_tuning_changed_are_counted(
    checkpoint: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = {"pretrained": str(checkpoint), "fine_tune": True, "max_train_steps": 2}
    assert short(data, **tuned)["frozen_changed"] == 0
    assert "frozen_changed" not in short(data, max_train_steps=1)
    monkeypatch.setattr(program.Step, "frozen", property(lambda step: list(step.network.trainable_variables)))
    assert short(data, **tuned)["frozen_changed"] == 2  # kernel and bias of the head, taken for frozen


def test_images_come_in_the_type_that_was_asked_for(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[Any] = []
    stepped = program.Step.__call__
    monkeypatch.setattr(
        program.Step,
        "__call__",
        lambda step, batches, *rest: fed.append(batches[0][0]) or stepped(step, batches, *rest),
    )
    judged = {"max_train_steps": 1, "epochs_between_evals": 1}
    rounded, whole = (short(data, image_type=kind, **judged) for kind in ("bf16", "fp32"))
    assert [images.dtype for images in fed] == [tf.bfloat16, tf.float32]
    assert (fed[0].numpy() == tf.cast(fed[1], tf.bfloat16).numpy()).all()
    assert rounded["losses"][0] != whole["losses"][0] == pytest.approx(rounded["losses"][0], rel=0.02)
    assert rounded["evaluations"][0]["images"] == 364
    mixed = short(None, image_type="bf16", mixup_alpha=0.2, max_train_steps=1)
    assert fed[-1].dtype == tf.bfloat16 and np.isfinite(mixed["losses"]).all()


@pytest.fixture(scope="module")
def without_decay(data: str) -> float:
    return float(short(data, max_train_steps=1, weight_decay=0.0)["losses"][0])


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16", "weight_decay": 0.0},
        {"accumulate": 2, "batch_size": 4, "weight_decay": 0.0},
        {"optimizer": "lars", "weight_decay": 1.0},
        {"loss_scale": 128.0, "weight_decay": 0.0},
    ],
)
def test_another_way_to_compute_begins_with_the_same_loss(
    data: str, without_decay: float, changes: dict[str, Any], tmp_path: Path
) -> None:
    graph = str(tmp_path / "graph.pb")
    other = short(data, max_train_steps=2, export_graph=graph, **changes)
    assert other["losses"][0] == pytest.approx(without_decay, rel=0.05)
    assert len(other["losses"]) == 2 and np.isfinite(other["losses"]).all() and other["stopped_by"] == "steps"
    assert graphs.precision_of(graphs.read_graph(graph)) == "fp32"


def test_synthetic_images_are_learnt_without_any_evaluation() -> None:
    told = short(None, train_images=160, classes=21, network="small", image_size=64, epochs=1)
    assert told["losses"][-1] < 0.7 * told["losses"][0] and told["evaluations"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 10}, "The network has 10 classes, and 'digits' needs 11 with the background."),
        ({"image_size": 64}, "Images of 'digits' are evaluated at 32 pixels, and would be trained at 64."),
        ({"crop": "intel"}, "The crop 'intel' is none for 'digits'."),
        ({"batch_size": 800, "accumulate": 2}, "A step takes 1600 images, and an epoch has 1433."),
        ({"data": None, "stop_threshold": 0.9}, "The threshold 0.9 would stop a run that is never evaluated."),
        ({"train_offset": -1}, "The offset is -1 epochs; allowed is 0 or more."),
        ({"eval_only": True}, "There is nothing to evaluate: that needs data and a checkpoint."),
        ({"fine_tune": True}, "Fine-tuning trains the head only, and nothing pretrained is below it."),
        ({"model_dir": "model", "keep": 0}, "0 checkpoints would be kept; allowed is 1 or more."),
        ({"resume": True}, "There is no directory to resume from."),
        ({"profile_steps": [8, 5]}, "The steps [8, 5] cannot be profiled; allowed are a first and a last one."),
        ({"profile_steps": [5, 8]}, "There is no directory for the profile of the steps [5, 8]."),
        ({"export_saved_model": "/"}, "'/', which is to hold the SavedModel, is not empty."),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        check({**ARGUMENTS, "data": "data", **changes})
    assert caught.value.message == message and caught.value.hint


def test_the_log_of_onednn_proves_the_convolutions_forwards_and_backwards() -> None:
    arguments = {**ARGUMENTS, "network": "resnet50_v1_5", "precision": "fp32", "batch_size": 2}
    found = shown(arguments, (1, 2))
    assert 0.99 < found["native_share"] <= 1.0
    assert sum(row["calls"] for row in found["kernels"]) == 3 * 53 - 1  # all, and their two gradients but the first's
    assert {row["data_type"] for row in found["kernels"]} == {"f32:f32"}
    assert sum(row[0] == "convolution" for row in found["layers"]) == 3 * 53 - 1
    assert {row[1] for row in found["layers"] if row[0] == "convolution"} >= {"backward_data", "backward_weights"}
    assert found["onednn"]["version"] and found["onednn"]["isa"]
    fell = found["fallbacks"]
    assert 0 < fell["onednn_s"] <= fell["step_s"] and not any("f32" not in row["data_type"] for row in fell["largest"])


def test_the_work_of_a_step_is_three_times_that_of_its_convolutions() -> None:
    # By hand, for 32 x 32: 7x7 to 16 x 16 x 64, then four convolutions of 8 x 8 and four of 8 x 8 and 4 x 4.
    initial = 16 * 16 * 64 * 49 * 3
    first = 8 * 8 * (64 * 32 + 64 * 8 + 9 * 8 * 8 + 8 * 32)
    second = 8 * 8 * 32 * 16 + 4 * 4 * (32 * 64 + 9 * 16 * 16 + 16 * 64)
    assert step_flop(ResNet("small", 11, 0), 5, 32) == 5 * 2 * (3 * (initial + first + second) - initial)
    assert step_flop(ResNet("small", 11, 0), 5, 32, head_only=True) == 5 * 2 * (initial + first + second)
