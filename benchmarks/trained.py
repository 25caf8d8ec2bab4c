"""The training of a subject, by itself and in turns with ``fit`` of the same network as one writes it with Keras.

Both get the same batch, threads, precision and arithmetic: momentum of 0.9, weight decay in the loss, batch
normalisations with the momentum of the recipe, and the accuracies of the batch.
"""

import ctypes
import os
import time
from typing import Any

import numpy as np
import tensorflow as tf

from conformance.data import training
from conformance.models.resnet import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, VARIANTS, ResNet
from conformance.subject import runtime, train
from conformance.subject.events import Events
from conformance.wire import Job

keras = tf.keras
WARM_UP = 2  # steps of each side before the first turn; they trace and compile
CLASSES, SEED, RATE, MOMENTUM, DECAY = 1001, 1, 1e-3, 0.9, 1e-4

# What a training job must hold, but network, precision, batch_size, image_size and max_train_steps.
ARGUMENTS: dict[str, Any] = {
    "classes": CLASSES, "seed": SEED, "momentum": MOMENTUM, "weight_decay": DECAY, "data": None, "dataset": "imagenet",
    "schedule": {"base": RATE, "warmup_epochs": 0, "epochs": 1}, "train_images": 1_281_167, "crop": "intel",
    "epochs": 1,
}  # fmt: skip
ASKED = ("network", "precision", "batch_size", "image_size")


def steps(spec: dict[str, Any]) -> dict[str, Any]:
    """Train for ``steps``, and return for each of them its seconds, those it waited before, and the memory after it."""
    memory = Memory(os.path.join(spec["folder"], "events"))
    told = _trained(spec, memory, spec["steps"])
    times = {name: told[name] for name in ("step_s", "wait_s")}
    return {**times, "resident_bytes": memory.resident_bytes, "used_bytes": memory.used_bytes}


def beside_fit(spec: dict[str, Any]) -> dict[str, Any]:
    """Take turns, ``rounds`` of ``steps`` each, in the order A B B A, and return what each side told of them.

    That is the number of parameters and, by round, a list of the seconds of each step and the processor's seconds of
    all. A step lasts until the next begins, so that all that the loop does between steps is in it.
    """
    fit = Fit(spec)
    turns = Turns(os.path.join(spec["folder"], "events"), spec, fit)
    _trained(spec, turns, WARM_UP + spec["rounds"] * spec["steps"])
    sides = (turns, ResNet(spec["network"], CLASSES, SEED).trainable_variables), (fit, fit.network.trainable_weights)
    told = [
        {
            "step_s": side.step_s,
            "processor_s": side.processor_s,
            "parameters": sum(int(np.prod(w.shape)) for w in weights),
        }
        for side, weights in sides
    ]
    return {"ours": told[0], "keras": told[1]}


def _trained(spec: dict[str, Any], events: Events, count: int) -> dict[str, Any]:
    asked = {name: spec[name] for name in ASKED}
    return train.train({**ARGUMENTS, **asked, "max_train_steps": count}, events, spec["intra_op_threads"])


def set_threads(spec: dict[str, Any]) -> None:
    """Give TensorFlow the threads of the launch, before anything of it runs."""
    runtime.eager_threads(Job("overhead", os.devnull, spec["inter_op_threads"], spec["intra_op_threads"], {}))


class Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` of <malloc.h>; uordblks is in use in the heaps, hblkhd is mapped by itself."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")
        + ("uordblks", "fordblks", "keepcost")
    ]


class Memory(Events):
    """Hears of each step of a subject's training, and keeps the memory after it: what is resident, and what is in use.

    The C library keeps much of what is freed; ``used_bytes`` has none of that, and stays empty before glibc 2.33.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.resident_bytes: list[int] = []
        self.used_bytes: list[int] = []
        self._ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
        if self._ask:
            self._ask.restype = Mallinfo2

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        super().progress(done, total, unit, note)
        with open("/proc/self/statm") as file:
            self.resident_bytes.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        if self._ask:
            told = self._ask()
            self.used_bytes.append(told.uordblks + told.hblkhd)


class Turns(Events):
    """Hears of each step of a subject's training, keeps how long it took, and lets Keras take its turns."""

    def __init__(self, path: str, spec: dict[str, Any], fit: "Fit") -> None:
        super().__init__(path)
        self._steps, self._rounds, self._fit = spec["steps"], spec["rounds"], fit
        self.step_s: list[list[float]] = []
        self.processor_s: list[float] = []
        self._seconds: list[float] = []

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        super().progress(done, total, unit, note)
        now = time.perf_counter()
        if done == WARM_UP:
            self._fit.warm_up()
        elif done > WARM_UP:
            self._seconds.append(now - self._since)
            if (done - WARM_UP) % self._steps == 0:
                self._take_turns()
        if not self._seconds:
            self._processor = time.process_time()
        self._since = time.perf_counter()

    def _take_turns(self) -> None:
        self.step_s.append(self._seconds)
        self.processor_s.append(time.process_time() - self._processor)
        self._seconds = []
        number = len(self.step_s)
        if number % 2:
            for _ in range(min(2, self._rounds - number + 1)):
                self._fit.turn()


class Fit:
    """``fit`` of a Keras network on the batch that a subject makes; the seconds of its steps are kept."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._steps = spec["steps"]
        batch = training.synthetic(spec["batch_size"], spec["image_size"], CLASSES, SEED, False)
        self._images = tf.data.Dataset.from_tensors(batch).repeat()
        self.network = keras_network(spec["network"], spec["image_size"], spec["precision"])
        self.step_s: list[list[float]] = []
        self.processor_s: list[float] = []

    def warm_up(self) -> None:
        self._run(WARM_UP)

    def turn(self) -> None:
        clock = self._run(self._steps)
        self.step_s.append([after - before for before, after in zip(clock.begun_s, clock.begun_s[1:], strict=False)])
        self.processor_s.append(clock.processor_s[-1] - clock.processor_s[0])

    def _run(self, count: int) -> "Clock":
        clock = Clock()
        # One step more than is asked for: the beginning of the last ends the one before it.
        self.network.fit(self._images, steps_per_epoch=count + 1, epochs=1, verbose=0, callbacks=[clock])
        return clock


class Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes when each step begins."""

    def __init__(self) -> None:
        super().__init__()
        self.begun_s: list[float] = []
        self.processor_s: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.begun_s.append(time.perf_counter())
        self.processor_s.append(time.process_time())


def keras_network(name: str, image_size: int, precision: str) -> Any:
    """Return a variant without groups, of Keras' layers and compiled for ``fit``."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if precision == "bf16" else "float32")
    try:
        images = keras.Input((image_size, image_size, 3))
        network = keras.Model(images, _logits(name, images))
    finally:
        keras.mixed_precision.set_global_policy(before)
    metrics = [keras.metrics.SparseCategoricalAccuracy(), keras.metrics.SparseTopKCategoricalAccuracy(5)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.SGD(RATE, momentum=MOMENTUM), loss=loss, metrics=metrics)
    return network


def _logits(name: str, images: Any) -> Any:
    variant = VARIANTS[name]
    x = keras.layers.MaxPooling2D(3, 2, "same")(_relu(_convolution(images, 64, 7, 2)))
    for stage, (blocks, filters) in enumerate(zip(variant.blocks, variant.filters, strict=True)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = x if block else _convolution(x, 4 * filters, 1, stride)
            x = _relu(_convolution(x, filters, 1, 1))
            x = _relu(_convolution(x, filters, 3, stride))
            x = _relu(keras.layers.Add()([_convolution(x, 4 * filters, 1, 1), shortcut]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(CLASSES, kernel_regularizer=_decay(), bias_regularizer=_decay())(x)
    return keras.layers.Activation("linear", dtype="float32")(x)


def _convolution(x: Any, filters: int, size: int, stride: int) -> Any:
    if stride > 1 and size > 1:
        sides = (size - 1) // 2, size - 1 - (size - 1) // 2
        x = keras.layers.ZeroPadding2D((sides, sides))(x)
    padding = "same" if stride == 1 else "valid"
    x = keras.layers.Conv2D(filters, size, stride, padding, use_bias=False, kernel_regularizer=_decay())(x)
    return keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON)(x)


def _relu(x: Any) -> Any:
    return keras.layers.ReLU()(x)


def _decay() -> Any:
    return keras.regularizers.L2(DECAY / 2)  # of which Keras does not take the half
