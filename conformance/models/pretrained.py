"""Weights of a checkpoint that was written as ``tf.train.Checkpoint(network=...)``, put into a network."""

from typing import Any, Dict

import tensorflow as tf

from conformance.models.resnet import ResNet
from conformance.wire import Refused


def start_from(network: ResNet, checkpoint: str, with_head: bool) -> None:
    """Load a checkpoint, given by its path without ``.index`` or by the directory of the newest.

    Without its head (other classes), the dense layer stays as it was made. What is saved besides the network, as
    optimisers and steps, is left alone. Raises Refused, and loads nothing, for what is no checkpoint of this network.
    """
    try:
        reader = tf.train.load_checkpoint(checkpoint)
    except (ValueError, tf.errors.OpError):
        raise Refused(
            "%r is no checkpoint." % checkpoint, "Give the path of a checkpoint without .index, or its directory."
        ) from None
    saved = reader.get_variable_to_shape_map()
    variables = by_name(network, "network")
    if not with_head:
        variables = {name: variable for name, variable in variables.items() if "dense" not in variable.name}
    others = {name for name in saved if name.startswith("network/")} - set(by_name(network, "network"))
    for name in sorted(set(variables) | others):
        here = variables[name].shape.as_list() if name in variables else "not there"
        there = saved.get(name, "not there")
        if here != there:
            raise Refused(
                "Checkpoint %r is of another network: %s is %s in it, and %s in %s with %d classes."
                % (checkpoint, name.split("/.")[0], there, here, network.name, network.dense_bias.shape[0]),
                "Give a checkpoint of this network, or start without its head where only the classes differ.",
            )
    for name, variable in variables.items():
        variable.assign(reader.get_tensor(name))


def by_name(module: tf.Module, *above: str) -> Dict[str, Any]:
    """Return the variables by their names in a checkpoint: the attributes on the way to them, below ``above``."""
    found = module._flatten(predicate=lambda x: isinstance(x, tf.Variable), with_path=True)
    return {"/".join(map(str, (*above, *path))) + "/.ATTRIBUTES/VARIABLE_VALUE": variable for path, variable in found}
