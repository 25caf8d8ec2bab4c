"""Train a network, judge it between epochs, keep checkpoints, export it.

Arguments of the job: network, classes, precision, image_size; data (a directory, or None for synthetic images),
dataset, train_images, crop, shuffled_labels, max_cpus; batch_size, accumulate (micro-batches of that size a step),
schedule, momentum, weight_decay, label_smoothing, mixup_alpha, loss_scale, optimizer, fine_tune, pretrained; epochs,
train_offset (epochs that are trained before these, and not evaluated), epochs_between_evals (0 or None: never),
max_train_steps, stop_threshold, seed; model_dir, checkpoint_steps, keep, resume; export_saved_model, export_graph,
eval_only, profile_steps, tensorboard; prove (whether the precision is proven first); early_check (a band, see
early_check.py, or None); ranks (fields of ``ranks.Wanted``, or None for one process; sizes of batches are
those of a rank). What ``training_arguments.DEFAULTS`` names may be left out: device ("cpu" or "hpu"), image_type
("fp32" or "bf16", of images on their way to the network), bf16_recipe (which the launch has put into the environment),
and media, by which way images come: path, ``media.PATH`` for an HPU's own loader or other words for tf.data, and
reason.

Steps count from 0; a checkpoint ``step-00000010`` and an evaluation at step 10 are those after ten steps.
"""

import hashlib
import itertools
import math
import os
import socket
import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import numpy as np
import tensorflow as tf

from conformance import wire
from conformance.data import media, training
from conformance.data.tree import Tree, find_images
from conformance.models import losses
from conformance.models.pretrained import by_name, start_from
from conformance.models.resnet import ResNet
from conformance.models.trainable import check_trainable
from conformance.schedules import plan, rate, schedule
from conformance.subject import checkpoints, device, machine, profiled, runtime, training_proof
from conformance.subject.checkpoints import Checkpoints
from conformance.subject.early_check import hopeless
from conformance.subject.evaluation import Evaluation
from conformance.subject.events import Events
from conformance.subject.export import export
from conformance.subject.interruption import Interrupted, Interruption
from conformance.subject.ranks import Alone, Ranks, joined
from conformance.subject.training_arguments import check, completed
from conformance.subject.training_log import TrainingLog
from conformance.subject.training_step import COMPUTE, Step
from conformance.wire import Job, Refused, WrongAnswer

STALLED_S = 300.0  # filling the shuffling of an epoch from a slow disk takes a minute or two
WAITING_TOLD_S = 5.0
KEPT_EVERY = 10  # steps between two copies in memory, where ranks are to go on without one that is lost
SKIPPED_PER_S = 500  # images that are read and not used, where an epoch is entered in its middle
EXPLODED = 10.0  # times the first loss, and rising
RISING_STEPS = 20
LAST_STEPS = 1000  # of which each rank tells its times
WARMUP_STEPS = 10  # trace and compile; the host counts them for no speed either
CALM = "Lower the learning rate or lengthen its warm-up."


def run(job: Job, events: Events) -> Dict[str, Any]:
    a, threads = completed(job.arguments), (job.inter_op_threads, job.intra_op_threads)
    check(a)
    device.check_conversion(a["device"], a["precision"])
    runtime.eager_threads(job)
    device.load(a["device"])  # before anything runs: it registers an allocator
    runtime.announce(job, events)
    with joined(a["ranks"], a["device"]) as ranks:
        events.phase("prove the precision")
        asked = a["prove"] and not a["eval_only"] and a["device"] == device.CPU  # oneDNN's log tells of CPUs only
        proven = ranks.once(lambda: training_proof.shown(a, threads) if asked else training_proof.NOTHING)
        return dict(train(a, events, job.intra_op_threads, ranks), **proven)


def train(a: Dict[str, Any], events: Events, threads: int, ranks: Optional[Ranks] = None) -> Dict[str, Any]:
    """Do what the arguments say in this process, and return what came of it."""
    a = completed(a)
    check(a)
    ranks, kept = ranks or Alone(), Kept()
    while True:
        try:
            return _train(ranks.own(a), events, threads, ranks, kept)
        except Exception as error:
            if not ranks.regrouped(error):
                raise
        events.send(wire.LEFT, ranks=ranks.left)


def _train(a: Dict[str, Any], events: Events, threads: int, ranks: Ranks, kept: "Kept") -> Dict[str, Any]:
    board = a["tensorboard"] and os.path.join(a["tensorboard"], "eval")
    for path in filter(None, (a["export_graph"], a["export_saved_model"], board)):
        checkpoints.make_writable(os.path.dirname(os.path.abspath(path)))  # before the training, not after hours of it
    clock = Clock()
    init_start_ms = clock.now_ms()
    events.phase("build the network")
    with device.placed(a["device"]):
        run = Run(a, events, threads, ranks, clock, kept)
    times = {"init_start_ms": init_start_ms, "init_stop_ms": clock.now_ms(), "run_start_ms": clock.now_ms()}
    stopped_by = None
    with Interruption(ranks, run.fault) as interruption:
        try:
            with device.placed(a["device"]):
                if a["eval_only"]:
                    run.evaluate(interruption.check)
                else:
                    stopped_by = run.steps(interruption.check)
            if not a["eval_only"]:
                times["run_stop_ms"] = clock.now_ms()
                events.phase("export")
                run.export()
        except Interrupted as name:
            raise run.interrupted(str(name)) from None
        finally:
            run.close()
    run.check_log()
    if a["profile_steps"]:
        run.told["profiled"] = profiled.steps(a["tensorboard"] or a["model_dir"])
    return dict(run.told, stopped_by=stopped_by, times=dict(times, evaluations=run.evaluated_ms))


class Clock:
    """Milliseconds since 1970, by one reading of the time of day and a clock that only goes forwards."""

    def __init__(self) -> None:
        self._since_ms = 1000 * (time.time() - time.perf_counter())

    def now_ms(self) -> int:
        return int(self._since_ms + 1000 * time.perf_counter())


class Kept:
    """What a rank keeps in memory of a training, to go on from where another rank is lost; ``told`` is None at first.

    The last steps before a loss are done again, with what one rank had kept: others may be a step ahead of it.
    """

    def __init__(self) -> None:
        self.told: Optional[Dict[str, Any]] = None
        self.values: List[np.ndarray] = []

    def take(self, told: Dict[str, Any], variables: Sequence[tf.Variable]) -> None:
        self.told = {name: list(value) if isinstance(value, list) else value for name, value in told.items()}
        self.values = [variable.numpy() for variable in variables]


class Run:
    """One training: its network, how far it is, and in ``told`` what the job returns of it."""

    def __init__(self, a: Dict[str, Any], events: Events, threads: int, ranks: Ranks, clock: Clock, kept: Kept) -> None:
        self._a, self._events, self._threads, self._ranks = a, events, a["max_cpus"] or threads, ranks
        self._clock, self._kept_here = clock, kept
        self.evaluated_ms: List[List[int]] = []  # begin and end of each evaluation
        self._global_batch = a["batch_size"] * a["dealt"]
        self._epoch_steps = a["train_images"] // self._global_batch
        self._plan = plan(schedule(a["schedule"]), self._global_batch, a["train_images"])
        self._total = self._epochs_end = int((a["epochs"] + a["train_offset"]) * self._epoch_steps)
        if a["max_train_steps"] is not None:
            self._total = min(self._total, a["max_train_steps"])
        self._shards = find_images(a["data"], "train", a["dataset"]) if a["data"] and not a["eval_only"] else []
        judged = a["data"] and (a["eval_only"] or a["epochs_between_evals"])
        validation = find_images(a["data"], "validation", a["dataset"]) if judged else []
        self.network = ResNet(a["network"], a["classes"], a["seed"], compute_type(a))
        self._evaluation = Evaluation(
            self.network, validation, a["dataset"], a["image_size"], a["batch_size"], ranks, a["image_type"]
        )
        self._step = Step(self.network, a, ranks)
        device.check_variables(a["device"], self.network.variables)
        self._placement = device.Placement(a["device"])
        self._checkpoints = self._kept() if a["model_dir"] and not a["eval_only"] else None
        self._begin()
        self._log = TrainingLog(a, self._total, self._global_batch, events, ranks)
        self._done = self.told["steps"]
        self._judged_every = (a["epochs_between_evals"] or 0) * self._epoch_steps if validation else 0

    def _kept(self) -> Checkpoints:
        a = self._a
        names = ("dataset", "train_images", "batch_size", "accumulate", "seed", "crop", "shuffled_labels")
        layout = "tree" if isinstance(self._shards, Tree) else "records"
        facts = {**{name: a[name] for name in names}, "layout": layout, "world_size": self._ranks.wanted.world_size}
        facts["accumulate"] = a["dealt"] // self._ranks.wanted.world_size
        return Checkpoints(a["model_dir"], a["keep"], self.network, self._step.optimizer.velocities, facts)

    def _begin(self) -> None:
        """Give all ranks what the training goes on from, or starts with."""
        kept = self._kept_here
        going_on = self._ranks.once(lambda: kept.told)
        resumed = None if going_on else self._ranks.once(self._load)
        self._state = [*self.network.variables, *self._step.optimizer.velocities]
        for variable, value in zip(self._state, kept.values):
            variable.assign(value)
        self._ranks.broadcast(self._state)
        self.told: Dict[str, Any] = going_on or {
            "steps": resumed or 0,
            "first_step": resumed or 0,
            "resumed_from": resumed,
            "losses": [],
            "rates": [],
            "step_s": [],
            "wait_s": [],
            "evaluations": [],
            "resident_bytes": [None, None],
            "correct": None,
            "reading": None,
            "hopeless": None,
            "world_size": self._ranks.size,
            "ranks": [],
            "left": [],  # step from which ranks went on without others, and their numbers at the start
            "device": self._a["device"],
            "placement": None,  # numbers of operations of a step by kind of device, where that is not the CPU
            "bf16_conversion": os.environ.get(device.CONVERSION) if self._a["device"] == device.HPU else None,
            "media": self._a["media"],
        }
        if going_on:
            self.told["left"].append([self.told["steps"], self._ranks.left])
        self._cpus = sorted(os.sched_getaffinity(0))
        self._first_reading: Optional[machine.Reading] = None

    def _load(self) -> Optional[int]:
        """Load a checkpoint where there is one to start from, and return the step of one that is resumed."""
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
        return resumed

    def steps(self, alive: Callable[[], None]) -> str:
        """Train until the steps, the epochs or the threshold end it, and return which did."""
        check_trainable(self.network)
        self._check_weights()
        begun = [digest([variable]) for variable in self._step.frozen]
        reader = ThreadPoolExecutor(1)  # so that a batch that never comes can be told
        try:
            ended = self._steps(reader, self._batches(), alive)
        finally:
            reader.shutdown(wait=False)
        if begun:
            self.told["frozen_changed"] = sum(digest([v]) != one for v, one in zip(self._step.frozen, begun))
        return ended

    def _batches(self) -> Iterator[training.Batch]:
        a = self._a
        if not a["data"]:
            seed = a["seed"] + 65_537 * self._ranks.rank
            labels = bool(a["shuffled_labels"])
            images, of_them = training.synthetic(a["batch_size"], a["image_size"], a["classes"], seed, labels)
            return itertools.repeat((tf.cast(images, training.IMAGE_TYPES[a["image_type"]]), of_them))
        if a["media"]:
            self._ranks.say("Images by %s: %s" % (a["media"]["path"], a["media"]["reason"]))
            if a["media"]["path"] == media.PATH:
                return media.batches(a["data"], a["batch_size"], a["image_size"], a["image_type"], a["dataset"])
        epoch_images = self._epoch_steps * self._global_batch
        by_file = self._ranks.wanted.shard == "file" and not isinstance(self._shards, Tree)
        by_file = by_file and self._ranks.once(
            lambda: training.files_suffice(self._shards, self._ranks.size, epoch_images)
        )
        self.told["shard"] = "file" if by_file else "record"
        split = training.Split(
            shards=self._shards,
            dataset=a["dataset"],
            epoch_images=epoch_images,
            batch_size=a["batch_size"],
            image_size=a["image_size"],
            crop=a["crop"],
            seed=a["seed"],
            shuffled_labels=a["shuffled_labels"],
            threads=self._threads,
            rank=self._ranks.rank,
            ranks=self._ranks.size,
            by_file=by_file,
            dealt=self._ranks.wanted.world_size,
            image_type=a["image_type"],
        )
        return training.batches(split, self._done * a["accumulate"])

    def _steps(self, reader: ThreadPoolExecutor, batches: Iterator[Any], alive: Callable[[], None]) -> str:
        a, told = self._a, self.told
        self._events.phase("train")
        enough = self._enough(alive) if self._done else None  # the run before may have ended before it was judged
        if enough:
            return self._ended(enough)
        self._log.restart()
        patience_s = STALLED_S + self._done % self._epoch_steps * self._global_batch / SKIPPED_PER_S
        while self._done < self._total:
            alive()
            if self._ranks.wanted.elastic and self._done % KEPT_EVERY == 0:
                self._kept_here.take(told, self._state)
            fed = self._fed(reader, batches, patience_s)
            patience_s = STALLED_S
            now = rate(self._plan, self._done)
            share = losses.mixup_share(a["mixup_alpha"], a["seed"], self._done) if a["mixup_alpha"] else 1.0
            with self._placement.watched(), self._log.profiled(self._done):
                begun = time.perf_counter()
                scalars = self._step(fed, now, share)
                told["step_s"].append(time.perf_counter() - begun)
            told["placement"] = self._placement.told
            self._check_loss(scalars.loss)
            told["rates"].append(now)
            self._log.after(self._done, now, scalars)
            self._done += 1
            told["steps"] = self._done
            if len(told["losses"]) == WARMUP_STEPS:
                told["resident_bytes"][0] = _resident_bytes()
                self._first_reading = machine.read(self._cpus)
            if self._done % self._ranks.wanted.check_every == 0:
                self._check_weights()
            if a["checkpoint_steps"] and self._done % a["checkpoint_steps"] == 0:
                self._save()
            enough = self._enough(alive)
            if enough:
                return self._ended(enough)
        return self._ended("epochs" if self._total == self._epochs_end else "steps")

    def _enough(self, alive: Callable[[], None]) -> Optional[str]:
        """Judge the network where it is time to, and tell what of that ends the training."""
        a, every = self._a, self._judged_every
        counted = self._done - self._a["train_offset"] * self._epoch_steps
        if not every or ((counted <= 0 or counted % every) and self._done != self._total):
            return None
        if a["checkpoint_steps"] is None:
            self._save()
        top1 = self.evaluate(alive)
        if a["stop_threshold"] is not None and top1 >= a["stop_threshold"]:
            return "threshold"
        self.told["hopeless"] = a["early_check"] and hopeless(self.told["evaluations"], a["early_check"])
        return "early check" if self.told["hopeless"] else None

    def _fed(self, reader: ThreadPoolExecutor, batches: Iterator[Any], patience_s: float) -> List[Any]:
        """Return the micro-batches of a step, and note how long it waited for them."""
        begun = time.perf_counter()
        fed = [self._coming(reader.submit(next, batches), patience_s) for _ in range(self._a["accumulate"])]
        self.told["wait_s"].append(time.perf_counter() - begun)
        return fed

    def _coming(self, batch: "Future[training.Batch]", patience_s: float) -> training.Batch:
        """Wait for a batch, and tell so after the first step: a rank that the others wait for is no rank that hangs."""
        deadline = time.perf_counter() + patience_s
        while True:
            left_s = deadline - time.perf_counter()
            try:
                return batch.result(min(left_s, WAITING_TOLD_S))
            except NotInTime:
                if batch.done():
                    return batch.result()
            if left_s <= WAITING_TOLD_S:
                raise WrongAnswer(
                    "No batch came within %g s at step %d; %s." % (patience_s, self._done, self._left()),
                    "Look at the disk and at the processes that use it.",
                )
            if self.told["step_s"]:
                self._events.progress(self._done, self._total, "steps", "waiting for images")

    def evaluate(self, alive: Callable[[], None]) -> float:
        """Judge the network on the validation split, and return its top-1 accuracy."""
        self._events.phase("evaluate")
        alive()
        self._average_statistics()
        begun_ms = self._clock.now_ms()
        hits = self._evaluation.hits(self._threads, self._events, alive)
        self.evaluated_ms.append([begun_ms, self._clock.now_ms()])
        epoch = self._done / self._epoch_steps if self._epoch_steps else 0.0
        self.told["correct"] = hits.pop("correct")  # of the last evaluation; one for each would fill the result
        self.told["evaluations"].append(dict(hits, step=self._done, epoch=epoch))
        self._log.evaluated(self._done, hits)
        self._events.phase("train")
        self._log.restart()
        return hits["top1_hits"] / hits["images"]

    def export(self) -> None:
        """Write the network where that is asked for; it computes in float32 from then on."""
        self.told["exported"] = export(self.network, self._a, self._evaluation, self._threads)

    def interrupted(self, name: str) -> Refused:
        """Write a checkpoint of a run that is asked to end, and return what is to be said."""
        try:
            self._save()
        except Refused as unsaved:
            if not self._log.fault or isinstance(unsaved, WrongAnswer):
                raise  # else the disk is full for both, which is told already
        message = "The training was ended by %s after %d steps; %s." % (name, self._done, self._kept_told())
        hint = "Resume it with the same directory." if self._checkpoints else "Start it again."
        hint = self._log.fault.hint if self._log.fault else hint
        return self._ranks.by_all(Refused(message, hint))

    def fault(self) -> str:
        """Return what in the log could not be written, in words; empty for nothing."""
        return "a failed write (%s)" % self._log.fault.message.rstrip(".") if self._log.fault else ""

    def check_log(self) -> None:
        """Raise Refused for what could not be written of a run that did everything else."""
        if self._log.fault:
            told = self._log.fault.message.rstrip(".")
            raise Refused("%s; all else was done, and %s." % (told, self._kept_told()), self._log.fault.hint)

    def close(self) -> None:
        self._log.close()

    def _kept_told(self) -> str:
        if not self._checkpoints:
            return "it keeps no checkpoints"
        last = self._checkpoints.last
        return "there is no checkpoint" if last is None else "its checkpoint is step %d" % last

    def _ended(self, by: str) -> str:
        if self._first_reading:
            self.told["reading"] = machine.between(self._first_reading, machine.read(self._cpus), self._cpus)
        self._save()
        self.told["resident_bytes"][1] = _resident_bytes()
        reduction_s = self._step.reduction_s()
        self.told.update(ranks=self._ranks.gather(self._own()), allreduce_s=reduction_s)
        self.told["reductions"] = self._reductions(reduction_s)
        return by

    def _own(self) -> Dict[str, Any]:
        """Return what this rank has to tell of itself."""
        a, told, last = self._a, self.told, slice(-LAST_STEPS, None)
        taken = [sum(both) for both in zip(told["step_s"], told["wait_s"])]
        return {
            "rank": self._ranks.rank,
            "local_rank": self._ranks.local_rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "affinity": self._cpus,
            "examples_per_s": a["batch_size"] * a["accumulate"] / statistics.median(taken) if taken else None,
            "resident_bytes": told["resident_bytes"][1],
            **{name: told[name][last] for name in ("step_s", "wait_s")},
            "weights_sha256": digest(self.network.trainable_variables),
            "compute_s": self._step.compute_s[last],
            "reduce_s": self._step.reduce_s[last],
        }

    def _reductions(self, of_gradients_s: Optional[float]) -> List[List[float]]:
        """Return bytes and seconds of reductions with nothing else to do: of the sizes asked for, and the gradients."""
        if of_gradients_s is None:
            return []
        sizes = self._ranks.wanted.timed_bytes
        timed = [[size, self._ranks.reduction_s([tf.TensorSpec([size // 4])])] for size in sizes]
        elements = sum(variable.shape.num_elements() for variable in self.network.trainable_variables)
        return [*timed, [4 * elements, of_gradients_s]]

    def _check_weights(self) -> None:
        """Raise WrongAnswer for weights that are not the same on all ranks."""
        named = by_name(self.network, "network").items()
        weights = {name.split("/.")[0]: variable for name, variable in named if variable.trainable}
        found = self._ranks.different(weights)
        if found:
            raise self._ranks.by_all(
                WrongAnswer(
                    "The weights differ after step %d: %s." % (self.told["steps"], found),
                    "The gradients were not reduced over all ranks, or a rank computed them wrongly.",
                )
            )

    def _average_statistics(self) -> None:
        """Give all ranks the mean of their statistics of batch normalisation, which training does not use."""
        self._ranks.average([variable for variable in self.network.variables if not variable.trainable])

    def _save(self) -> None:
        self._check_weights()
        self._average_statistics()
        if self._checkpoints:  # on the first rank: the others wait, for as long as its disk takes
            self._events.phase("write a checkpoint")
            self._checkpoints.save(self._done)
            self._events.phase("train")

    def _left(self) -> str:
        return self._checkpoints.told(self._done) if self._checkpoints else "there is no checkpoint"

    def _check_loss(self, loss: float) -> None:
        seen = self.told["losses"]
        if not math.isfinite(loss):
            hint = CALM
            if self._checkpoints and self._checkpoints.last == self._done:
                hint += " Delete the checkpoint of step %d, which makes that loss, before you resume." % self._done
            found = "The loss is %s at step %d; %s." % (loss, self._done, self._left())
            raise self._ranks.by_all(WrongAnswer(found, hint))
        seen.append(loss)
        if explodes(seen):
            found = "The loss explodes: %.4g at the first step, %.4g at step %d and rising; %s."
            found %= seen[0], loss, self._done, self._left()
            raise self._ranks.by_all(WrongAnswer(found, CALM))


def compute_type(a: Dict[str, Any]) -> tf.DType:
    """Return the type that the network is built with: float32 on an HPU, where the graph is converted for bf16."""
    return tf.float32 if a["device"] == device.HPU else COMPUTE[a["precision"]]


def digest(variables: Sequence[tf.Variable]) -> str:
    """Return the SHA-256 of the values of variables, one after the other."""
    found = hashlib.sha256()
    for variable in variables:
        found.update(variable.numpy().tobytes())
    return found.hexdigest()


def explodes(losses: Sequence[float]) -> bool:
    """Tell whether the last losses are far above the first and rise: by the means of two halves of the last 20."""
    if len(losses) <= RISING_STEPS:
        return False
    half = RISING_STEPS // 2
    last, before = sum(losses[-half:]) / half, sum(losses[-RISING_STEPS:-half]) / half
    return last > before > EXPLODED * losses[0]


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
