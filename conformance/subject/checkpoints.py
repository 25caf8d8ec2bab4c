"""Checkpoints of a training run: directories ``step-00000100`` that appear complete or not at all.

A directory is written beside its place and renamed, so that neither kill -9 nor a full disk harms one that is there.
"""

import json
import os
import re
import shutil
from typing import Any, Dict, List, Optional

import tensorflow as tf

from conformance.data import storage
from conformance.models.pretrained import by_name
from conformance.models.resnet import ResNet
from conformance.wire import Refused, WrongAnswer

_NAME = re.compile(r"step-(\d{8,})")
_FACTS = "training.json"
_UNREADABLE = (ValueError, RuntimeError, IndexError, tf.errors.OpError)  # as TensorFlow's reader comes to raise


def path_of(directory: str, step: int) -> str:
    return os.path.join(directory, "step-%08d" % step)


def steps(directory: str) -> List[int]:
    """Return the steps of the checkpoints in a directory, in their order."""
    if not os.path.isdir(directory):
        return []
    return sorted(int(found[1]) for found in map(_NAME.fullmatch, os.listdir(directory)) if found)


def newest(path: str) -> str:
    """Return the newest checkpoint in a directory of a training run; any other path as it is."""
    there = steps(path)
    return path_of(path, there[-1]) if there else path


def make_writable(directory: str) -> None:
    """Make a directory; raises Refused where nothing can be written to it."""
    storage.make_folder(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Refused("%r cannot be written: no permission." % directory, "Name another directory.")


class Checkpoints:
    """The checkpoints of one run: weights, velocities, the number of steps done; the last ``keep`` are kept.

    ``facts`` decide which images a step sees; a run with other ones cannot go on from a checkpoint.
    """

    def __init__(
        self, directory: str, keep: int, network: ResNet, velocities: List[tf.Variable], facts: Dict[str, Any]
    ) -> None:
        self.directory, self._keep, self._facts = directory, keep, facts
        make_writable(directory)
        for name in os.listdir(directory):
            if name.endswith(".part"):  # of a run that was killed
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._saved = {"network": network, "velocities": velocities, "step": self._step}

    @property
    def last(self) -> Optional[int]:
        """The step of the newest checkpoint."""
        return next(reversed(steps(self.directory)), None)

    def told(self, step: int) -> str:
        """Return the words for what is left of a run that ends badly in a step: what that began with is not good."""
        good = [other for other in steps(self.directory) if other < step]
        return "the last good checkpoint is step %d" % good[-1] if good else "there is no good checkpoint"

    def save(self, step: int) -> None:
        """Write the checkpoint after so many steps, and delete the oldest ones.

        Raises Refused where it cannot be written and WrongAnswer for weights that hold NaN or Inf; what was there is
        kept.
        """
        if step == self.last:
            return
        self._check_finite(step)
        self._step.assign(step)
        path = path_of(self.directory, step)
        part = path + ".part"
        try:
            with storage.writing(path):
                os.makedirs(part)
                with open(os.path.join(part, _FACTS), "w", encoding="utf-8") as file:
                    json.dump(self._facts, file, indent=1)
                tf.train.Checkpoint(**self._saved).save(os.path.join(part, "ckpt"))
                for name in os.listdir(part):
                    with open(os.path.join(part, name), "rb") as written:
                        os.fsync(written.fileno())
                os.replace(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for old in steps(self.directory)[: -self._keep]:
            shutil.rmtree(path_of(self.directory, old), ignore_errors=True)

    def load(self, step: int) -> None:
        """Load a checkpoint; raises Refused, and loads nothing, for one that is damaged or of another run."""
        path = path_of(self.directory, step)
        self._check_facts(path)
        try:
            reader = tf.train.load_checkpoint(path)
            saved = reader.get_variable_to_shape_map()
        except _UNREADABLE:
            raise Refused("Checkpoint %r is damaged: its index cannot be read." % path, self._without(step)) from None
        variables = self._variables()
        values = {}
        for name in sorted(set(variables) | {name for name in saved if _is_variable(name)}):
            here = variables[name].shape.as_list() if name in variables else "not there"
            there = saved.get(name, "not there")
            if here != there:
                raise Refused(
                    "Checkpoint %r is of another training: %s is %s in it, and %s here."
                    % (path, name.split("/.")[0], there, here),
                    "Name the directory of the checkpoints of this training, or a new one.",
                )
            try:
                values[name] = reader.get_tensor(name)
            except _UNREADABLE:
                found = "Checkpoint %r is damaged: %s cannot be read." % (path, name.split("/.")[0])
                raise Refused(found, self._without(step)) from None
        for name, variable in variables.items():
            variable.assign(values[name])

    def _check_facts(self, path: str) -> None:
        try:
            with open(os.path.join(path, _FACTS), encoding="utf-8") as file:
                saved = {"world_size": 1, "layout": "records", **json.load(file)}  # the first ones knew no others
        except (OSError, ValueError):
            raise Refused(
                "Checkpoint %r is damaged: its %s cannot be read." % (path, _FACTS), "Delete the checkpoint."
            ) from None
        for name, value in self._facts.items():
            if saved.get(name) != value:
                raise Refused(
                    "Checkpoint %r was written with %s %r, and this run has %r." % (path, name, saved.get(name), value),
                    "Resume with the same data, batch size, ranks and seed, or name a new directory.",
                )

    def _check_finite(self, step: int) -> None:
        for name, variable in self._variables().items():
            if not bool(tf.reduce_all(tf.math.is_finite(tf.cast(variable, tf.float32)))):
                raise WrongAnswer(
                    "%s holds NaN or Inf after step %d; %s." % (name.split("/.")[0], step - 1, self.told(step)),
                    "Lower the learning rate or lengthen its warm-up.",
                )

    def _without(self, step: int) -> str:
        before = [other for other in steps(self.directory) if other < step]
        return "Delete it, and %s." % ("step %d is resumed" % before[-1] if before else "the training begins anew")

    def _variables(self) -> Dict[str, tf.Variable]:
        """Return the variables by their names in a checkpoint, which are the attributes on the way to them."""
        holder = tf.Module()
        for name, value in self._saved.items():
            setattr(holder, name, value)
        return by_name(holder)


def _is_variable(name: str) -> bool:
    return name.split("/")[0] in ("network", "velocities", "step")
