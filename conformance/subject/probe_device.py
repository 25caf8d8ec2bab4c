"""Try an HPU in a process of its own, which Habana's library may abort, and tell what was found.

No arguments, but for tests: ``places``, fields of ``device.Places``.

The result has device_type, as Habana's library tells it; devices, how many nodes there are; sum, of 16 products that
the HPU computed; media_missing, why the media loader cannot be imported, empty where it can.
"""

import importlib
from typing import Any, Dict

from conformance.subject import device
from conformance.subject.events import Events
from conformance.wire import Job, WrongAnswer

# What habana-tensorflow 1.6.1 imports of the package hpu-media-loader, which needs libraries of SynapseAI.
MEDIA = ("habana_frameworks.medialoaders.tensorflow.media_resnet_pipe", "habana_frameworks.mediapipe.media_types")
SIDE = 4


def run(job: Job, events: Events) -> Dict[str, Any]:
    places = device.Places(**job.arguments.get("places", {}))
    device.check(places)  # before TensorFlow is imported, which takes seconds
    events.phase(device.LOADING)
    device.load(device.HPU, places)
    events.phase("compute on the HPU")
    computed = _computed()
    if computed != SIDE**3:
        told = "The HPU computed %r where %d is right." % (computed, SIDE**3)
        raise WrongAnswer(told, "See with `hl-smi` how the device is.")
    from habana_frameworks.tensorflow import habana_device

    return {
        "device_type": str(habana_device.get_type()),
        "devices": len(device.nodes(places)),
        "sum": computed,
        "media_missing": missing_media(),
    }


def _computed() -> float:
    import tensorflow as tf

    with device.placed(device.HPU):
        ones = tf.ones([SIDE, SIDE])
        return float(tf.reduce_sum(tf.matmul(ones, ones)).numpy())


def missing_media() -> str:
    """Return in words why the media loader cannot be imported; empty where it can."""
    for name in MEDIA:
        try:
            importlib.import_module(name)
        except Exception as error:  # a missing package, or a library of SynapseAI that does not load
            return "%s: %s" % (type(error).__name__, (str(error).splitlines() or ["?"])[0])
    return ""
