"""What the README of ResNeXt starts for a row: ``imagenet_main.py`` with its flags, and mpirun before it.

Source: TensorFlow/computer_vision/Resnets/ResNeXt of HabanaAI/Model-References 1.6.1, README.md and defaults of flags.
A command has the flags that those of the README have, also where they say what is the default, and of others those in
which the row is not the default.
"""

from __future__ import annotations

from conformance.cases import Case
from conformance.hardware.host import Host
from conformance.launch.habana import PASSED_ON, HpuLaunch, mpirun_words, processing_elements
from conformance.launch.layout import Ranks, machine_list, ranks_here

RECORDS = "/data/tensorflow/imagenet/tf_records/"
JPEGS = "/data/tensorflow/imagenet"
_LOGS = "/root/tmp/resnext_log"
_DEFAULTS = {"weight_decay": 6.103515625e-05, "momentum": 0.875, "label_smoothing": 0.1}
_WARMUP_EPOCHS = 8


def told(
    case: Case, host: Host, hpu: HpuLaunch, ranks: Ranks | None, data: str | None, interface: str | None
) -> tuple[str, ...]:
    """Return in a sentence what the README starts for a row, and what of the row its script has no flag for.

    Nothing for a row of this project's own, which is not on ImageNet.
    """
    if case.training is None or case.model != "resnext101_32x4d" or case.dataset != "imagenet":
        return ()
    sentence = f"The recipe starts `{' '.join(command(case, host, hpu, ranks, data, interface))}`."
    if case.training.mixup_alpha:
        return sentence, "The README has MixUp for this; its script has no flag and no code for it."
    return (sentence,)


def command(
    case: Case, host: Host, hpu: HpuLaunch, ranks: Ranks | None, data: str | None = None, interface: str | None = None
) -> tuple[str, ...]:
    """Return the words of a command of the README for a row, ``$PYTHON`` and ``$MPI_ROOT`` as they stand there.

    ``data`` is where the images are, the README's directory where it is None, ``interface`` the beginning of the names
    of interfaces for HCCL.
    """
    script = imagenet_main(case, ranks is not None, data)
    if ranks is None:
        return script
    cores = len({cpu.core for cpu in host.cpus})
    each, _ = processing_elements(len(host.cpus), cores, ranks_here(ranks), hpu.devices)
    several = bool(ranks.machines)
    words = mpirun_words(
        root=True,
        world_size=ranks.world_size,
        mapping=("--bind-to", "core", "--map-by", f"socket:PE={each}"),
        servers=machine_list(ranks.machines),
        interface=ranks.network_interface,
        ssh_port=ranks.ssh_port,
        prefix="$MPI_ROOT",
        output=_LOGS,
    )
    names = (*PASSED_ON[:-1], f"{PASSED_ON[-1]}={interface or '<interface_name>'}") if several else ()
    return ("mpirun", *words, *(word for name in names for word in ("-x", name)), *script)


def imagenet_main(case: Case, joined: bool, data: str | None) -> tuple[str, ...]:
    """Return how the script is called for a row of training; ``joined`` for ranks that Horovod joins."""
    recipe = case.training
    assert recipe is not None
    words = ["$PYTHON", "imagenet_main.py", *(("--use_horovod",) if joined else ())]
    words += ["-dt", case.precision, "-dlit", recipe.image_type, "-bs", str(case.batch_size)]
    words += ["-te", str(recipe.epochs), "-ebe", str(recipe.epochs_between_evals)]
    for name, default in _DEFAULTS.items():
        value = getattr(recipe, name)
        words += [f"--{name}", repr(value).upper()] if value != default else []
    if recipe.schedule.warmup_epochs != _WARMUP_EPOCHS:
        words += ["--warmup_epochs", f"{recipe.schedule.warmup_epochs:g}"]
    if recipe.layout == "jpeg":
        words += ["--jpeg_data_dir", data or JPEGS]
    else:
        words += ["--data_dir", data or RECORDS]
    if recipe.profile_steps:
        words += ["--hooks", "ProfilerHook", "--profile_steps", ",".join(map(str, recipe.profile_steps))]
    if recipe.max_train_steps:
        words += ["--max_train_steps", str(recipe.max_train_steps)]
    if recipe.stop_threshold:
        words += ["--stop_threshold", f"{recipe.stop_threshold:g}"]
    if recipe.export_saved_model:
        words += ["--export_dir", "DIRECTORY"]
    switches = {"--fine_tune": recipe.fine_tune, "--disable_checkpoints": recipe.disable_checkpoints}
    return (*words, *(name for name, wanted in switches.items() if wanted))
