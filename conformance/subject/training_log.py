"""What a training run shows while it works: the recipes' log lines, TensorBoard's scalars, a profile of some steps."""

import errno
import glob
import os
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import tensorflow as tf

from conformance.data import storage
from conformance.subject.events import Events
from conformance.subject.ranks import Ranks
from conformance.subject.training_step import Scalars
from conformance.wire import Refused

LOSS_EVERY = 10  # steps, also of TensorBoard's scalars
SPEED_EVERY = 100  # steps
SPEED_EVERY_S = 10.0


class TrainingLog:
    """Tells of each step; ``total`` steps will be done, of ``global_batch`` images each.

    What cannot be written any more is kept as ``fault``, and asks all ranks to end after the step that is being done.
    """

    def __init__(self, a: Dict[str, Any], total: int, global_batch: int, events: Events, ranks: Ranks) -> None:
        self._total, self._global_batch, self._events, self._ranks = total, global_batch, events, ranks
        self._profiled, self._profiling = a["profile_steps"], False
        self._place = a["tensorboard"] or a["model_dir"]
        self.fault: Optional[Refused] = None
        self._train: Optional[Any] = None
        self._files: List[str] = []
        if a["tensorboard"]:
            places = a["tensorboard"], os.path.join(a["tensorboard"], "eval")
            with storage.writing(a["tensorboard"]):
                self._train, self._eval = map(tf.summary.create_file_writer, places)
                with self._train.as_default():
                    _write_hparams(a, ranks.size)
            own = "events.out.tfevents.*.%d.*" % os.getpid()
            self._files = [path for place in places for path in glob.glob(os.path.join(glob.escape(place), own))]
        self._speed, self._since, self._counted = 0.0, time.perf_counter(), 0

    @contextmanager
    def profiled(self, step: int) -> Iterator[None]:
        """Profile what runs inside, if the profile is to hold this step."""
        first, last = self._profiled or (-1, -1)
        if step == first:
            with self._writing():
                tf.profiler.experimental.start(self._place)
                self._profiling = True
        if not self._profiling:
            yield
            return
        with tf.profiler.experimental.Trace("train", step_num=step, _r=1):
            yield
        if step == last:  # no step, and takes as long as it takes
            self._events.phase("write the profile")
            self._end_profile()
            self._events.phase("train")

    def after(self, step: int, rate: float, told: Scalars) -> None:
        """Show what a step told."""
        self._count(step)
        if step % LOSS_EVERY == 0:
            self._ranks.say("loss = %.6f, step = %d" % (told.loss, step))
            if self._train:
                with self._writing():
                    _write_scalars(self._train, step, dict(told._asdict(), learning_rate=rate))
        self._events.progress(
            step + 1, self._total, "steps", "loss %.4f, %.4g images/s" % (told.loss, self._speed or self._running())
        )

    def evaluated(self, step: int, hits: Dict[str, int]) -> None:
        """Show an evaluation after so many steps; what it took counts for no speed."""
        top1, top5 = (hits[name] / hits["images"] for name in ("top1_hits", "top5_hits"))
        self._ranks.say("accuracy = %.6f, accuracy_top_5 = %.6f, step = %d" % (top1, top5, step))
        if self._train:
            with self._writing():
                _write_scalars(self._eval, step, {"accuracy": top1, "accuracy_top_5": top5})

    def restart(self) -> None:
        """Count speed from now on."""
        self._since, self._counted = time.perf_counter(), 0

    def close(self) -> None:
        if self._profiling:
            self._end_profile()
        if self._train:
            for writer in (self._train, self._eval):
                with self._writing():
                    writer.close()

    def _end_profile(self) -> None:
        self._profiling = False
        with self._writing():
            tf.profiler.experimental.stop()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep the first fault of a write; TensorFlow goes on in silence with a file that was deleted."""
        try:
            with storage.writing(self._place):
                yield
                for path in self._files:
                    if not os.path.exists(path):
                        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        except Refused as fault:
            self.fault = self.fault or fault
            self._ranks.asked = True

    def _count(self, step: int) -> None:
        self._counted += 1
        if (step + 1) % SPEED_EVERY == 0 or time.perf_counter() - self._since >= SPEED_EVERY_S:
            self._speed = self._running()
            own = self._speed / self._ranks.size  # all take the same time for a step: they wait for each other
            self._ranks.say("global_examples/sec: %.1f\nexamples/sec: %.1f" % (self._speed, own))
            self.restart()

    def _running(self) -> float:
        return self._counted * self._global_batch / (time.perf_counter() - self._since)


def _write_scalars(writer: Any, step: int, values: Dict[str, float]) -> None:
    """Write what tf.summary.scalar would, which newer TensorFlow has only beside an installed TensorBoard."""
    metadata = tf.compat.v1.SummaryMetadata(data_class=1)  # DATA_CLASS_SCALAR
    metadata.plugin_data.plugin_name = "scalars"
    with writer.as_default():
        for name, value in values.items():
            tf.summary.write(name, tf.constant(value, tf.float32), step, metadata)


def _write_hparams(a: Dict[str, Any], workers: int) -> None:
    """Write the parameters under Habana's names, where the plugin is there."""
    try:
        from tensorboard.plugins.hparams import api
    except ImportError:
        return
    api.hparams(
        {
            "model_type": a["network"].split("_")[0].rstrip("0123456789"),
            "resnet_size": 101 if "101" in a["network"] else 50,
            "data_format": "channels_last",
            "batch_size": a["batch_size"],
            "loss_scale": a["loss_scale"],
            "dtype": a["precision"],
            "precision": a["precision"],
            "fine_tune": a["fine_tune"],
            "num_workers": workers,
            "train_epochs": a["epochs"],
            "warmup_epochs": a["schedule"]["warmup_epochs"],
            "use_cosine_lr": a["schedule"].get("decay", "cosine").startswith("cosine"),
        }
    )
