"""The real packages of SynapseAI 1.6.1 on a machine without a Gaudi: how far they go, and how they end.

They are in a stack of their own: the Python that CONFORMANCE_HABANA_STACK names, or that of ``tox -e synapse161``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.errors import CannotRun
from conformance.fixtures.device import tried
from conformance.hardware.detect import detect
from conformance.stacks import Stack, probe

ROOT = Path(__file__).parents[1]
MADE = [ROOT / ".tox" / name / "bin" / "python" for name in ("synapse161", "synapse161-tf28")]
STACK = os.environ.get("CONFORMANCE_HABANA_STACK") or next((str(path) for path in MADE if path.exists()), "")

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(not STACK, reason="there is no stack of SynapseAI: `tox -e synapse161 --notest` makes one"),
    pytest.mark.skipif(bool(detect().accelerators), reason="there is an HPU: the module is loaded"),
]

# Everything that works without a driver, in one process: TensorFlow's import takes seconds.
WITHOUT_DRIVER = """
import glob, inspect, json, os, sys
from unittest.mock import MagicMock
import tensorflow as tf
import habana_frameworks.tensorflow as htf
from habana_frameworks.tensorflow import multinode_helpers, sysconfig
from habana_frameworks.tensorflow.media import habana_imagenet_dataset
from conformance.subject.probe_device import missing_media

told = {"tensorflow": tf.__version__, "loads": callable(htf.load_habana_module), "media": missing_media()}
told["dataset"] = list(inspect.signature(habana_imagenet_dataset).parameters)
told["fallback"] = sys.modules["habana_frameworks.tensorflow.media.imagenet_dataset"].force_fallback

ranked = {"OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
os.environ.update(ranked, HABANA_VISIBLE_MODULES="4,6")
multinode_helpers._setup_env_for_multinode()
told["environment"] = {n: os.environ.get(n) for n in ("ID", "HLS_MODULE_ID", "TF_RANK_PREFIX", "HBN_TF_GRAPH_PREFIX")}

# Libraries of SynapseAI that no index has; the reader of class folders is Python, and real.
for name in ("media_pipe_types", "media_pipe_proxy", "media_pipe_api", "media_pipe_params"):
    sys.modules[name] = MagicMock()
from habana_frameworks.mediapipe.operators.reader_nodes import read_image_from_dir as reader
reader.get_numpy_dtype = lambda dtype: "float32"
labels = reader.gen_label_list(reader.gen_image_list(sys.argv[1], "JPEG"), reader.gen_class_list(sys.argv[1]), None)
told["labels"] = labels.tolist()

# The last: from here on, TensorFlow aborts where it lists devices, as it does to run anything.
(library,) = glob.glob(os.path.join(sysconfig.get_lib_dir(), "habana_device.so*"))
ops = tf.load_op_library(library)
told["operations"] = [name for name in dir(ops) if name.startswith(("habana_", "hpu_"))]
with tf.Graph().as_default() as graph:
    images = tf.compat.v1.placeholder(tf.float32, [None, 7, 7, 16])
    made = ops.habana_gelu(images)
told["graph"] = {operation.type: [str(x.shape) for x in operation.outputs] for operation in graph.get_operations()}
print(json.dumps(told))
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "TF_CPP_MIN_LOG_LEVEL": "2", **environment}
    return subprocess.run(
        [STACK, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**env, "PYTHONPATH": str(ROOT)},
        timeout=240,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("tree")
    for synset, images in (("n02000000", 2), ("n01000000", 3), ("n10000000", 1)):
        (place / synset).mkdir()
        for number in range(images):
            (place / synset / f"{number}.JPEG").touch()
    done = run(WITHOUT_DRIVER, str(place), FORCE_HABANA_IMAGENET_LOADER_FALLBACK="0")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def stack() -> Stack:
    return probe("synapse161", STACK)


def reason(stack: Stack, places: dict[str, str] | None = None) -> CannotRun:
    asked: Any = SimpleNamespace(stack=stack, host=detect(), show=lambda line: None)
    found = tried(asked, places)
    assert isinstance(found, CannotRun)
    return found


def test_the_stack_holds_what_the_vendor_releases_together(stack: Stack) -> None:
    assert stack.packages["habana-tensorflow"] == stack.packages["hpu-media-loader"] == "1.6.1.92"
    assert stack.tensorflow in ("2.9.1", "2.8.2") and "tensorflow-cpu" in stack.packages
    assert stack.packages.get("horovod") in (None, "0.28.1") and "habana-horovod" not in stack.packages


def test_operations_are_registered_and_build_graphs_with_shapes(told: dict[str, Any]) -> None:
    assert {"habana_gelu", "habana_fused_batch_norm_v3", "habana_conv2d_with_padding"} <= set(told["operations"])
    assert told["graph"]["HabanaGelu"] == ["(None, 7, 7, 16)", "(None, 7, 7, 16)"]


def test_a_rank_takes_the_module_at_its_place_on_its_server(told: dict[str, Any]) -> None:
    assert told["environment"] == {
        "ID": "1", "HLS_MODULE_ID": "6", "TF_RANK_PREFIX": "rank_9_", "HBN_TF_GRAPH_PREFIX": "rank_9_",
    }  # fmt: skip


def test_the_media_loader_misses_the_libraries_of_synapseai(told: dict[str, Any]) -> None:
    assert told["media"] == "ModuleNotFoundError: No module named 'media_pipe_types'"


def test_habanas_dataset_takes_what_it_is_given_and_falls_back_where_the_variable_is_set_at_all(
    told: dict[str, Any],
) -> None:
    given = (
        "fallback",
        "is_training",
        "tf_data_dir",
        "jpeg_data_dir",
        "batch_size",
        "num_channels",
        "img_size",
        "dtype",
    )
    assert told["dataset"][:9] == [*given, "use_distributed_eval"]
    assert told["fallback"] is True  # FORCE_HABANA_IMAGENET_LOADER_FALLBACK=0


def test_the_media_loaders_own_reader_counts_the_sorted_folders_from_0(told: dict[str, Any]) -> None:
    assert told["labels"] == [0, 0, 0, 1, 1, 2]  # of records and of trees here: from 1


TRAIN = """
from conformance import wire
from conformance.subject import device, train

class Events:
    def send(self, kind, **told): print("sent", kind, flush=True)
    phase = progress = send

device.check = lambda places: print("asked for the device", flush=True)  # as if a driver were here
nothing = "data ranks epochs_between_evals stop_threshold pretrained model_dir profile_steps tensorboard".split()
arguments = dict.fromkeys([*nothing, "export_saved_model", "eval_only", "fine_tune", "resume"])
arguments.update(device="hpu", precision="fp32", dataset="digits", classes=11, image_size=32, crop="digits", keep=1,
                 batch_size=4, accumulate=1, train_images=80, train_offset=0)
train.run(wire.Job(wire.TRAIN, "", 1, 1, arguments), Events())
"""


def test_the_program_loads_the_module_before_anything_of_tensorflow_runs() -> None:
    done = run(TRAIN)
    # Had anything run before, it would be: Attempt to register an AllocatorFactory after call to GetAllocator().
    assert done.returncode == -6 and "/synapse_shim/synapse_api_shim.cpp:31" in done.stderr
    assert done.stdout.splitlines() == ["asked for the device"]


def test_without_a_driver_loading_aborts_and_cannot_be_caught() -> None:
    tries = "try:\n    htf.load_habana_module()\nexcept BaseException:\n    print('caught')\n"
    done = run(f"import habana_frameworks.tensorflow as htf\n{tries}")
    assert done.returncode == -6 and "caught" not in done.stdout
    assert "Unable to read habanalabs driver file - probably driver missing in the system" in done.stderr
    *_, where, last = done.stderr.strip().splitlines()
    assert where.startswith("ERROR: pid = ") and where.rstrip().endswith("/synapse_shim/synapse_api_shim.cpp:31")
    assert last == "terminate called without an active exception"


def test_the_probe_names_the_driver_that_is_missing(stack: Stack) -> None:
    assert reason(stack).message == (
        "The driver of HPUs, habanalabs, is not loaded on this machine, and no device node is there."
    )


def test_a_node_without_synapseai_behind_it_is_told_by_the_abort(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "hl0").touch()
    told = reason(stack, {"dev": str(tmp_path), "sys": str(tmp_path)}).message
    assert told.startswith(
        "Habana's library aborted (SIGABRT) in load_habana_module() of stack 'synapse161', as it does"
    )
    assert told.rstrip("'. ").endswith("/synapse_shim/synapse_api_shim.cpp:31")
