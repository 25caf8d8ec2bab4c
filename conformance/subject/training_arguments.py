"""Which arguments of a training job contradict each other."""

import os
from typing import Any, Dict

from conformance.data import media
from conformance.data.imagenet import LABELS
from conformance.data.training import EVALUATED_AT, IMAGE_TYPES
from conformance.subject import device
from conformance.subject.ranks import parsed
from conformance.wire import Refused

# What a job may leave out: it then trains by itself on the CPU, and leaves nothing but what it answers.
DEFAULTS: Dict[str, Any] = {
    "device": "cpu", "image_type": "fp32", "bf16_recipe": None, "media": None, "max_cpus": None,
    "shuffled_labels": False, "accumulate": 1, "label_smoothing": 0.0, "mixup_alpha": 0.0, "loss_scale": 1,
    "optimizer": "momentum", "fine_tune": False, "pretrained": None, "train_offset": 0, "epochs_between_evals": None,
    "max_train_steps": None, "stop_threshold": None, "early_check": None, "model_dir": None, "checkpoint_steps": None,
    "keep": 1, "resume": False, "export_saved_model": None, "export_graph": None, "eval_only": False,
    "profile_steps": None, "tensorboard": None, "prove": False, "ranks": None,
}  # fmt: skip


def completed(a: Dict[str, Any]) -> Dict[str, Any]:
    return {**DEFAULTS, **a}


def check(a: Dict[str, Any]) -> None:
    """Raise Refused for what cannot be done, before anything is read or made."""
    a = completed(a)
    _check_device(a)
    _check_data(a)
    _check_course(a)
    _check_places(a)


def _check_device(a: Dict[str, Any]) -> None:
    for name, known in (("device", device.NAMES), ("image_type", IMAGE_TYPES)):
        found = "The %s %r is not known; known are %s." % (name, a[name], " and ".join(known))
        _refuse(a[name] not in known, found, "Name one of them.")
    loaded = (a["media"] or {}).get("path") == media.PATH
    found = "The media loader of an HPU was asked for on the device %r." % a["device"]
    _refuse(loaded and a["device"] != device.HPU, found, "Leave it to tf.data.")
    found = "The media loader of an HPU needs class folders of JPEGs, and there are no data."
    _refuse(loaded and not a["data"], found, "Name their directory.")


def _check_data(a: Dict[str, Any]) -> None:
    needed, side = LABELS[a["dataset"]] + 1, EVALUATED_AT[a["dataset"]]
    if a["data"]:
        found = "The network has %d classes, and %r needs %d with the background."
        found %= a["classes"], a["dataset"], needed
        _refuse(a["classes"] < needed, found, "Train a network of that many classes.")
        found = "Images of %r are evaluated at %d pixels, and would be trained at %d."
        found %= a["dataset"], side, a["image_size"]
        _refuse(a["image_size"] != side, found, "Leave out the image size.")
        found = "The crop %r is none for %r." % (a["crop"], a["dataset"])
        fits = (a["crop"] == "digits") == (a["dataset"] == "digits")
        _refuse(not fits, found, "Allowed are digits for the digits, intel and habana for ImageNet.")
    images = a["batch_size"] * a["accumulate"] * parsed(a["ranks"]).world_size
    found = "A step takes %d images, and an epoch has %d." % (images, a["train_images"])
    _refuse(images > a["train_images"] and not a["eval_only"], found, "Lower the batch size.")


def _check_course(a: Dict[str, Any]) -> None:
    judged = a["data"] and a["epochs_between_evals"]
    found = "The threshold %s would stop a run that is never evaluated." % a["stop_threshold"]
    _refuse(a["stop_threshold"] is not None and not judged, found, "Give data and epochs between evaluations.")
    found = "The offset is %d epochs; allowed is 0 or more." % a["train_offset"]
    _refuse(a["train_offset"] < 0, found, "Leave it out.")
    known = a["pretrained"] or a["model_dir"]
    found = "There is nothing to evaluate: that needs data and a checkpoint."
    _refuse(a["eval_only"] and not (a["data"] and known), found, "Name their directories.")
    found = "Fine-tuning trains the head only, and nothing pretrained is below it."
    _refuse(a["fine_tune"] and not a["pretrained"] and not a["eval_only"], found, "Name a checkpoint to start from.")


def _check_places(a: Dict[str, Any]) -> None:
    place = a["model_dir"]
    found = "%d checkpoints would be kept; allowed is 1 or more." % a["keep"]
    _refuse(place and a["keep"] < 1, found, "Keep one, or name no directory for checkpoints.")
    _refuse(a["resume"] and not place, "There is no directory to resume from.", "Name that of the checkpoints.")
    steps = a["profile_steps"]
    if steps:
        found = "The steps %s cannot be profiled; allowed are a first and a last one." % steps
        _refuse(not 0 <= steps[0] <= steps[-1], found, "Name them as 5,8.")
        found = "There is no directory for the profile of the steps %s." % steps
        _refuse(not (a["tensorboard"] or place), found, "Name one for TensorBoard.")
    saved = a["export_saved_model"]
    found = "%r, which is to hold the SavedModel, is not empty." % saved
    _refuse(saved and os.path.isdir(saved) and os.listdir(saved), found, "Name a new directory.")


def _refuse(wrong: Any, message: str, hint: str) -> None:
    if wrong:
        raise Refused(message, hint)
