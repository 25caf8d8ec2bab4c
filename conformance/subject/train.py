"""Train a network, judge it between epochs, keep checkpoints, export it.

Arguments of the job: network, classes, precision, image_size; data (a directory, or None for synthetic images),
dataset, train_images, crop, shuffled_labels, max_cpus; batch_size, accumulate (micro-batches of that size a step),
schedule, momentum, weight_decay, label_smoothing, mixup_alpha, loss_scale, optimizer, fine_tune, pretrained; epochs,
epochs_between_evals (0 or None: never), max_train_steps, stop_threshold, seed; model_dir, checkpoint_steps, keep,
resume; export_saved_model, export_graph, eval_only, profile_steps, tensorboard.

Steps count from 0; a checkpoint ``step-00000010`` and an evaluation at step 10 are those after ten steps.
"""

import itertools
import math
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import tensorflow as tf

from conformance.data import storage, training
from conformance.data.shards import find_shards
from conformance.models import losses
from conformance.models.pretrained import start_from
from conformance.models.resnet import ResNet
from conformance.models.schedules import plan, rate, schedule
from conformance.models.trainable import check_trainable
from conformance.subject import checkpoints, runtime, training_proof
from conformance.subject.checkpoints import Checkpoints
from conformance.subject.evaluation import Evaluation
from conformance.subject.events import Events
from conformance.subject.freeze import frozen, write_graph
from conformance.subject.training_arguments import check
from conformance.subject.training_log import TrainingLog
from conformance.subject.training_step import COMPUTE, Step
from conformance.wire import Job, Refused, WrongAnswer

STALLED_S = 300.0  # filling the shuffling of an epoch from a slow disk takes a minute or two
SKIPPED_PER_S = 500  # images that are read and not used, where an epoch is entered in its middle
EXPLODED = 10.0  # times the first loss, and rising
RISING_STEPS = 20
CALM = "Lower the learning rate or lengthen its warm-up."


def run(job: Job, events: Events) -> Dict[str, Any]:
    runtime.eager_threads(job)
    runtime.announce(job, events)
    check(job.arguments)
    events.phase("prove the precision")
    threads = job.inter_op_threads, job.intra_op_threads
    proven = training_proof.NOTHING if job.arguments["eval_only"] else training_proof.shown(job.arguments, threads)
    return dict(train(job.arguments, events, job.intra_op_threads), **proven)


def train(a: Dict[str, Any], events: Events, threads: int) -> Dict[str, Any]:
    """Do what the arguments say in this process, and return what came of it."""
    check(a)
    board = a["tensorboard"] and os.path.join(a["tensorboard"], "eval")
    for path in filter(None, (a["export_graph"], a["export_saved_model"], board)):
        checkpoints.make_writable(os.path.dirname(os.path.abspath(path)))  # before the training, not after hours of it
    events.phase("build the network")
    run = Run(a, events, threads)
    stopped_by = None
    with Interruption() as interruption:
        try:
            if a["eval_only"]:
                run.evaluate(interruption.check)
            else:
                stopped_by = run.steps(interruption.check)
                events.phase("export")
                _export(run.network, a)
        except Interrupted as name:
            raise run.interrupted(str(name)) from None
        finally:
            run.close()
    return dict(run.told, stopped_by=stopped_by)


class Interrupted(Exception):
    """A signal asked the run to end; its name."""


class Interruption:
    """Takes SIGINT and SIGTERM for the end after the step that is being done."""

    def __init__(self) -> None:
        self._name: Optional[str] = None

    def check(self) -> None:
        if self._name:
            raise Interrupted(self._name)

    def __enter__(self) -> "Interruption":
        def note(number: int, frame: Any) -> None:
            self._name = signal.Signals(number).name

        self._before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Run:
    """One training: its network, how far it is, and in ``told`` what the job returns of it."""

    def __init__(self, a: Dict[str, Any], events: Events, threads: int) -> None:
        self._a, self._events, self._threads = a, events, a["max_cpus"] or threads
        self._global_batch = a["batch_size"] * a["accumulate"]
        self._epoch_steps = a["train_images"] // self._global_batch
        self._plan = plan(schedule(a["schedule"]), self._global_batch, a["train_images"])
        self._total = self._epochs_end = int(a["epochs"] * self._epoch_steps)
        if a["max_train_steps"] is not None:
            self._total = min(self._total, a["max_train_steps"])
        self._shards = find_shards(a["data"], "train") if a["data"] and not a["eval_only"] else []
        judged = a["data"] and (a["eval_only"] or a["epochs_between_evals"])
        validation = find_shards(a["data"], "validation") if judged else []
        self.network = ResNet(a["network"], a["classes"], a["seed"], COMPUTE[a["precision"]])
        self._evaluation = Evaluation(self.network, validation, a["dataset"], a["image_size"], a["batch_size"])
        self._step = Step(self.network, a)
        self._checkpoints = self._kept() if a["model_dir"] and not a["eval_only"] else None
        self._begin()
        self._log = TrainingLog(a, self._total, self._global_batch, events)
        self._done = self.told["first_step"]
        self._judged_every = (a["epochs_between_evals"] or 0) * self._epoch_steps if validation else 0

    def _kept(self) -> Checkpoints:
        a = self._a
        names = ("dataset", "train_images", "batch_size", "accumulate", "seed", "crop", "shuffled_labels")
        facts = {name: a[name] for name in names}
        return Checkpoints(a["model_dir"], a["keep"], self.network, self._step.optimizer.velocities, facts)

    def _begin(self) -> None:
        """Load what the training goes on from, or starts with."""
        a, there = self._a, checkpoints.steps(self._a["model_dir"] or "")
        resumed = there[-1] if there and not (a["eval_only"] and a["pretrained"]) else None
        if resumed is not None and not (a["resume"] or a["eval_only"]):
            raise Refused(
                "%r holds the checkpoint of step %d already." % (a["model_dir"], resumed),
                "Resume it, or name a new directory.",
            )
        if resumed is not None and self._checkpoints:
            self._checkpoints.load(resumed)
        elif a["eval_only"]:
            start_from(self.network, checkpoints.newest(a["pretrained"] or a["model_dir"]), with_head=True)
        elif a["pretrained"]:
            start_from(self.network, checkpoints.newest(a["pretrained"]), with_head=not a["fine_tune"])
        self.told: Dict[str, Any] = {
            "steps": resumed or 0,
            "first_step": resumed or 0,
            "resumed_from": resumed,
            "losses": [],
            "rates": [],
            "step_s": [],
            "wait_s": [],
            "evaluations": [],
            "resident_bytes": [None, None],
        }

    def steps(self, alive: Callable[[], None]) -> str:
        """Train until the steps, the epochs or the threshold end it, and return which did."""
        check_trainable(self.network)
        reader = ThreadPoolExecutor(1)  # so that a batch that never comes can be told
        try:
            return self._steps(reader, self._batches(), alive)
        finally:
            reader.shutdown(wait=False)

    def _batches(self) -> Iterator[training.Batch]:
        a = self._a
        if not a["data"]:
            one = training.synthetic(
                a["batch_size"], a["image_size"], a["classes"], a["seed"], bool(a["shuffled_labels"])
            )
            return itertools.repeat(one)
        split = training.Split(
            shards=self._shards,
            dataset=a["dataset"],
            epoch_images=self._epoch_steps * self._global_batch,
            batch_size=a["batch_size"],
            image_size=a["image_size"],
            crop=a["crop"],
            seed=a["seed"],
            shuffled_labels=a["shuffled_labels"],
            threads=self._threads,
        )
        return training.batches(split, self._done * a["accumulate"])

    def _steps(self, reader: ThreadPoolExecutor, batches: Iterator[Any], alive: Callable[[], None]) -> str:
        a, told = self._a, self.told
        self._events.phase("train")
        if self._done and self._is_enough(alive):  # the run before may have ended before it was judged
            return self._ended("threshold")
        self._log.restart()
        patience_s = STALLED_S + self._done % self._epoch_steps * self._global_batch / SKIPPED_PER_S
        while self._done < self._total:
            alive()
            fed = self._fed(reader, batches, patience_s)
            patience_s = STALLED_S
            now = rate(self._plan, self._done)
            share = losses.mixup_share(a["mixup_alpha"], a["seed"], self._done) if a["mixup_alpha"] else 1.0
            with self._log.profiled(self._done):
                begun = time.perf_counter()
                scalars = self._step(fed, now, share)
                told["step_s"].append(time.perf_counter() - begun)
            self._check_loss(scalars.loss)
            told["rates"].append(now)
            self._log.after(self._done, now, scalars)
            self._done += 1
            told["steps"] = self._done
            if len(told["losses"]) == 10:
                told["resident_bytes"][0] = _resident_bytes()
            if a["checkpoint_steps"] and self._done % a["checkpoint_steps"] == 0:
                self._save()
            if self._is_enough(alive):
                return self._ended("threshold")
        return self._ended("epochs" if self._total == self._epochs_end else "steps")

    def _is_enough(self, alive: Callable[[], None]) -> bool:
        """Judge the network where it is time to, and tell whether it reached the threshold."""
        a, every = self._a, self._judged_every
        if not every or (self._done % every and self._done != self._total):
            return False
        if not a["checkpoint_steps"]:
            self._save()
        top1 = self.evaluate(alive)
        return a["stop_threshold"] is not None and top1 >= a["stop_threshold"]

    def _fed(self, reader: ThreadPoolExecutor, batches: Iterator[Any], patience_s: float) -> List[Any]:
        """Return the micro-batches of a step, and note how long it waited for them."""
        begun = time.perf_counter()
        try:
            fed = [reader.submit(next, batches).result(patience_s) for _ in range(self._a["accumulate"])]
        except NotInTime:
            raise WrongAnswer(
                "No batch came within %g s at step %d; %s." % (patience_s, self._done, self._left()),
                "Look at the disk and at the processes that use it.",
            ) from None
        self.told["wait_s"].append(time.perf_counter() - begun)
        return fed

    def evaluate(self, alive: Callable[[], None]) -> float:
        """Judge the network on the validation split, and return its top-1 accuracy."""
        self._events.phase("evaluate")
        hits = self._evaluation.hits(self._threads, self._events, alive)
        epoch = self._done / self._epoch_steps if self._epoch_steps else 0.0
        self.told["evaluations"].append(dict(hits, step=self._done, epoch=epoch))
        self._log.evaluated(self._done, hits)
        self._events.phase("train")
        self._log.restart()
        return hits["top1_hits"] / hits["images"]

    def interrupted(self, name: str) -> Refused:
        """Write a checkpoint of a run that a signal ends, and return what is to be said."""
        self._save()
        kept = "its checkpoint is step %d" % self._done if self._checkpoints else "it keeps no checkpoints"
        message = "The training was ended by %s after %d steps; %s." % (name, self._done, kept)
        return Refused(message, "Resume it with the same directory." if self._checkpoints else "Start it again.")

    def close(self) -> None:
        self._log.close()

    def _ended(self, by: str) -> str:
        self._save()
        self.told["resident_bytes"][1] = _resident_bytes()
        return by

    def _save(self) -> None:
        if self._checkpoints:
            self._checkpoints.save(self._done)

    def _left(self) -> str:
        return self._checkpoints.told(self._done) if self._checkpoints else "there is no checkpoint"

    def _check_loss(self, loss: float) -> None:
        seen = self.told["losses"]
        if not math.isfinite(loss):
            hint = CALM
            if self._checkpoints and self._checkpoints.last == self._done:
                hint += " Delete the checkpoint of step %d, which makes that loss, before you resume." % self._done
            raise WrongAnswer("The loss is %s at step %d; %s." % (loss, self._done, self._left()), hint)
        seen.append(loss)
        if explodes(seen):
            raise WrongAnswer(
                "The loss explodes: %.4g at the first step, %.4g at step %d and rising; %s."
                % (seen[0], loss, self._done, self._left()),
                CALM,
            )


def explodes(losses: Sequence[float]) -> bool:
    """Tell whether the last losses are far above the first and rise: by the means of two halves of the last 20."""
    if len(losses) <= RISING_STEPS:
        return False
    half = RISING_STEPS // 2
    last, before = sum(losses[-half:]) / half, sum(losses[-RISING_STEPS:-half]) / half
    return last > before > EXPLODED * losses[0]


def _export(network: ResNet, a: Dict[str, Any]) -> None:
    """Write the network, which then computes in float32, as a frozen graph and as a SavedModel."""
    network.compute = tf.float32
    if a["export_graph"]:
        graph_def = frozen(network, a["image_size"])
        with storage.writing(a["export_graph"]):
            write_graph(graph_def, a["export_graph"])
    if a["export_saved_model"]:
        _export_saved_model(network, a["image_size"], a["export_saved_model"])


def _export_saved_model(network: ResNet, image_size: int, path: str) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, image_size, image_size, 3], tf.float32, name="input_tensor")])
    def predict(input_tensor: tf.Tensor) -> Dict[str, tf.Tensor]:
        return {"softmax_tensor": tf.nn.softmax(network(input_tensor))}

    part = path.rstrip("/") + ".part"
    try:
        with storage.writing(path):
            tf.saved_model.save(network, part, signatures={"serving_default": predict})
            os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
