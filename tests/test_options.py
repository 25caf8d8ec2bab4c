"""Every option of a run has its effect, or is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conformance.errors import UsageError
from conformance.fixtures.options import OPTIONS, Options, parsed
from conformance.plugin import pytest_addoption


class Values:
    """What pytest's own parser made of a command line."""

    def __init__(self, *argv: str) -> None:
        parser = pytest.Parser(_ispytest=True)
        pytest_addoption(parser)
        self.namespace = parser.parse(argv)

    def getoption(self, name: str) -> Any:
        return getattr(self.namespace, name)


EFFECTS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--hw", "xeon-8s"), {"hw": "xeon-8s"}),
    (("--hw-mismatch=run",), {"hw_mismatch": "run"}),
    (("--stack", "tf215"), {"stack": ("tf215",)}),
    (("--stack", "base=tf215", "--stack", "tf221"), {"stack": ("base=tf215", "tf221")}),
    (("--plan",), {"plan": True}),
    (("--require-all",), {"require_all": True}),
    (("--in-graph", "a.pb"), {"in_graph": ("a.pb",)}),
    (("--in-graph", "int8=a.pb", "--in-graph", "fp32=b.pb"), {"in_graph": ("int8=a.pb", "fp32=b.pb")}),
    (("--input-tensor", "images"), {"input_tensor": "images"}),
    (("--output-tensor", "classes"), {"output_tensor": "classes"}),
    (("--allow-other-network",), {"allow_other_network": True}),
    (("--data-location", "/data"), {"data_location": "/data"}),
    (("--jpeg-data-dir", "/jpegs"), {"jpeg_data_dir": "/jpegs"}),
    (("--images", "1000"), {"images": 1000}),
    (("--batch-size", "7"), {"batch_size": 7}),
    (("--warmup-steps", "3"), {"warmup_steps": 3}),
    (("--steps=5",), {"steps": 5}),
    (("--repeats", "3"), {"repeats": 3}),
    (("--max-repeats=20", "--baseline=a", "--repeats=3"), {"repeats": 3, "max_repeats": 20, "baseline": "a"}),
    (("--baseline", "runs/a"), {"baseline": "runs/a"}),
    (("--max-slowdown", "5%"), {"max_slowdown": 0.05}),
    (("--max-slowdown=0.01",), {"max_slowdown": 0.01}),
    (("--order-seed=7", "--stack=a", "--stack=b"), {"stack": ("a", "b"), "order_seed": 7}),
    (("--train-epochs", "3"), {"train_epochs": 3}),
    (("--epochs-between-evals", "4"), {"epochs_between_evals": 4}),
    (("--max-train-steps", "100"), {"max_train_steps": 100}),
    (("--stop-threshold", "0.759"), {"stop_threshold": 0.759}),
    (("--train-offset", "2"), {"train_offset": 2}),
    (("--train-seed", "7"), {"train_seed": 7}),
    (("--max-cpus", "16"), {"max_cpus": 16}),
    (("--device", "cpu"), {"device": "cpu"}),
    (("--data-loader-image-type", "bf16"), {"data_loader_image_type": "bf16"}),
    (("--bf16-config", "full"), {"bf16_config": "full"}),
    (("--disable-checkpoints",), {"disable_checkpoints": True}),
    (("--model-dir", "checkpoints"), {"model_dir": "checkpoints"}),
    (("--checkpoint-steps", "0", "--model-dir", "kept"), {"checkpoint_steps": 0, "model_dir": "kept"}),
    (("--pretrained-checkpoint", "kept"), {"pretrained_checkpoint": "kept"}),
    (("--fine-tune", "--pretrained-checkpoint", "kept"), {"fine_tune": True, "pretrained_checkpoint": "kept"}),
    (("--eval-only", "--model-dir", "kept", "--repeats=2"), {"eval_only": True, "model_dir": "kept", "repeats": 2}),
    (("--eval-only", "--pretrained-checkpoint", "kept"), {"eval_only": True, "pretrained_checkpoint": "kept"}),
    (("--export-saved-model",), {"export_saved_model": True}),
    (("--tensorboard",), {"tensorboard": True}),
    (("--profile-steps", "5,8"), {"profile_steps": (5, 8)}),
    (("--num-inter-threads", "2"), {"num_inter_threads": 2}),
    (("--num-intra-threads", "28"), {"num_intra_threads": 28}),
    (("--num-cores", "14"), {"num_cores": 14}),
    (("--socket-id", "0"), {"socket_id": 0}),
    (("--num-instances", "4"), {"num_instances": 4}),
    (("--mpi-num-processes=2",), {"mpi_num_processes": 2}),
    (("--mpi-num-processes-per-socket", "4"), {"mpi_num_processes_per_socket": 4}),
    (("--launcher", "horovodrun"), {"launcher": "horovodrun"}),
    (("--hosts", "h1:8,h2:8"), {"hosts": "h1:8,h2:8"}),
    (("--network-interface", "eth0"), {"network_interface": "eth0"}),
    (("--ssh-port", "3022"), {"ssh_port": 3022}),
    (("--oversubscribe",), {"oversubscribe": True}),
    (("--elastic",), {"elastic": True}),
    (("--reserve-cores", "0"), {"reserve_cores": 0}),
    (("--scaling", "strong"), {"scaling": "strong"}),
    (("--disable-tcmalloc", "True"), {"tcmalloc": False}),
    (("--disable-tcmalloc=False",), {"tcmalloc": True}),
    (("--output-dir", "out"), {"output_dir": "out"}),
    (("--output-results",), {"output_results": True}),
    (("--report", "report.html"), {"report": "report.html"}),
)


@pytest.mark.parametrize(("argv", "changed"), EFFECTS, ids=" ".join)
def test_an_option_changes_its_value_and_no_other(argv: tuple[str, ...], changed: dict[str, Any]) -> None:
    assert parsed(Values(*argv)) == Options(**changed)


def test_every_option_has_its_effect_listed_here() -> None:
    assert {option.flag for option in OPTIONS} == {argv[0].partition("=")[0] for argv, _ in EFFECTS}


def test_without_options_all_is_left_to_profile_and_row() -> None:
    assert parsed(Values()) == Options()


WHOLE = "give a whole number of 1 or more"
SHARE = "give a share from 0 to 1, such as 0.759"
PERCENTAGE = "give a percentage above 0, such as 3%"
STEPS = "give the first and the last step, such as 5,8"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("--images", "0"), f"argument --images: '0' is not allowed; {WHOLE}"),
        (("--batch-size", "0"), f"argument --batch-size: '0' is not allowed; {WHOLE}"),
        (("--batch-size", "-1"), f"argument --batch-size: '-1' is not allowed; {WHOLE}"),
        (("--batch-size", "1.5"), f"argument --batch-size: '1.5' is not allowed; {WHOLE}"),
        (("--batch-size", "many"), f"argument --batch-size: 'many' is not allowed; {WHOLE}"),
        (("--steps", "0"), f"argument --steps: '0' is not allowed; {WHOLE}"),
        (("--steps", "-1"), f"argument --steps: '-1' is not allowed; {WHOLE}"),
        (("--warmup-steps", "0"), f"argument --warmup-steps: '0' is not allowed; {WHOLE}"),
        (("--max-train-steps", "0"), f"argument --max-train-steps: '0' is not allowed; {WHOLE}"),
        (("--repeats", "0"), f"argument --repeats: '0' is not allowed; {WHOLE}"),
        (("--max-repeats", "0"), f"argument --max-repeats: '0' is not allowed; {WHOLE}"),
        (("--max-slowdown", "0%"), f"argument --max-slowdown: '0%' is not allowed; {PERCENTAGE}"),
        (("--max-slowdown", "3"), f"argument --max-slowdown: '3' is not allowed; {PERCENTAGE}"),
        (("--max-slowdown=-1%",), f"argument --max-slowdown: '-1%' is not allowed; {PERCENTAGE}"),
        (("--max-slowdown", "nan"), f"argument --max-slowdown: 'nan' is not allowed; {PERCENTAGE}"),
        (("--max-slowdown", "a little"), f"argument --max-slowdown: 'a little' is not allowed; {PERCENTAGE}"),
        (("--train-offset", "0"), f"argument --train-offset: '0' is not allowed; {WHOLE}"),
        (("--checkpoint-steps", "-1"), "--checkpoint-steps: '-1' is not allowed; give a whole number, 0 or more"),
        (("--stop-threshold", "75.9"), f"argument --stop-threshold: '75.9' is not allowed; {SHARE}"),
        (("--stop-threshold", "nan"), f"argument --stop-threshold: 'nan' is not allowed; {SHARE}"),
        (("--stop-threshold", "high"), f"argument --stop-threshold: 'high' is not allowed; {SHARE}"),
        (("--profile-steps", "5"), f"argument --profile-steps: '5' is not allowed; {STEPS}"),
        (("--profile-steps", "8,5"), f"argument --profile-steps: '8,5' is not allowed; {STEPS}"),
        (("--num-inter-threads", "0"), f"argument --num-inter-threads: '0' is not allowed; {WHOLE}"),
        (("--num-intra-threads", "0"), f"argument --num-intra-threads: '0' is not allowed; {WHOLE}"),
        (("--num-cores", "0"), f"argument --num-cores: '0' is not allowed; {WHOLE}"),
        (("--mpi-num-processes", "0"), f"argument --mpi-num-processes: '0' is not allowed; {WHOLE}"),
        (("--reserve-cores", "-1"), "argument --reserve-cores: '-1' is not allowed; give a whole number, 0 or more"),
        (("--launcher", "ssh"), "argument --launcher: invalid choice: 'ssh' (choose from mpirun, horovodrun, srun)"),
        (("--device", "gpu"), "argument --device: invalid choice: 'gpu' (choose from cpu, hpu)"),
        (("--num-instances", "0"), f"argument --num-instances: '0' is not allowed; {WHOLE}"),
        (("--socket-id", "-1"), "argument --socket-id: '-1' is not allowed; give a socket's number, 0 or more"),
        (("--socket-id", "one"), "argument --socket-id: 'one' is not allowed; give a socket's number, 0 or more"),
        (("--hw-mismatch", "maybe"), "argument --hw-mismatch: invalid choice: 'maybe' (choose from refuse, run)"),
        (("--disable-tcmalloc", "no"), "argument --disable-tcmalloc: invalid choice: 'no' (choose from True, False)"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(
    argv: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((pytest.UsageError, SystemExit)) as error:
        Values(*argv)
    told = (str(error.value) + capsys.readouterr().err).replace("'refuse', 'run'", "refuse, run")
    told = told.replace("'mpirun', 'horovodrun', 'srun'", "mpirun, horovodrun, srun")
    told = told.replace("'cpu', 'hpu'", "cpu, hpu")
    assert sentence in told.replace("'True', 'False'", "True, False")


KEPT = ("--pretrained-checkpoint", "kept")


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (("--eval-only",), "--eval-only judges a checkpoint, and none was given.", "--model-dir of an earlier run."),
        (
            ("--eval-only", *KEPT, "--max-train-steps", "3"),
            "--eval-only trains nothing, and --max-train-steps says how to train.",
            "Leave out --max-train-steps.",
        ),
        (
            ("--eval-only", *KEPT, "--fine-tune"),
            "--eval-only trains nothing, and --fine-tune says how to train.",
            "Leave out --fine-tune.",
        ),
        (
            ("--eval-only", *KEPT, "--stop-threshold", "0"),
            "--eval-only trains nothing, and --stop-threshold says how to train.",
            "Leave out --stop-threshold.",
        ),
        (
            ("--eval-only", *KEPT, "--repeats", "3"),
            "--eval-only would judge one checkpoint 3 times.",
            "Leave out --repeats.",
        ),
        (
            ("--device", "cpu", "--bf16-config", "full"),
            "--bf16-config is for an HPU, and --device cpu asks for a CPU, which computes all of bf16.",
            "Leave one of them out.",
        ),
        (
            ("--disable-checkpoints", "--model-dir", "kept"),
            "--disable-checkpoints writes none, and --model-dir kept is to keep them.",
            "Leave one of them out.",
        ),
        (
            ("--eval-only", *KEPT, "--disable-checkpoints"),
            "--eval-only trains nothing, and --disable-checkpoints says how to train.",
            "Leave out --disable-checkpoints.",
        ),
        (
            ("--fine-tune",),
            "--fine-tune trains the head only, and nothing pretrained is below it.",
            "Give --pretrained-checkpoint PATH.",
        ),
        (
            ("--checkpoint-steps", "0"),
            "--checkpoint-steps 0 has no directory to write to.",
            "Give --model-dir DIRECTORY.",
        ),
    ],
)
def test_options_of_training_that_contradict_each_other_are_refused(
    argv: tuple[str, ...], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as error:
        parsed(Values(*argv))
    assert error.value.message == message and error.value.hint.endswith(hint)


TWO = ("--stack", "base=a", "--stack", "new=b")


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (
            (*TWO, "--baseline", "runs/a"),
            "--baseline compares with an earlier run, and 2 stacks with one another.",
            "Leave one of them out.",
        ),
        (
            ("--stack", "new=a", "--stack", "new=b"),
            "Two stacks are named 'new'.",
            "Give each a name of its own: --stack NAME=ENVIRONMENT.",
        ),
        (("--stack", "new="), "--stack 'new=' names no environment.", "Write --stack NAME=ENVIRONMENT."),
        (
            ("--max-repeats", "20"),
            "--max-repeats 20 is for a comparison, and nothing is compared.",
            "Give --baseline RUN, or several --stack; for a number of repeats give --repeats.",
        ),
        (
            (*TWO, "--repeats", "10", "--max-repeats", "9"),
            "--max-repeats 9 is less than --repeats 10.",
            "Give 10 or more.",
        ),
        (
            (*TWO, "--repeats", "3", "--max-repeats", "4"),
            "Of --max-repeats 4 pairs no test can tell a slow-down from chance.",
            "Give 5 or more.",
        ),
        (
            ("--order-seed", "1"),
            "--order-seed 1 draws the order of several stacks.",
            "Leave it out, or give several --stack.",
        ),
    ],
)
def test_options_of_a_comparison_that_contradict_each_other_are_refused(
    argv: tuple[str, ...], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as error:
        parsed(Values(*argv))
    assert (error.value.message, error.value.hint) == (message, hint)


GRAPH_HINT = "Write --in-graph int8=PATH, or --in-graph PATH."


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("int9=a.pb",), "Unknown precision 'int9' (did you mean 'int8'?); known: bf16, fp32, int8."),
        (("fp16=a.pb", "b.pb"), "Unknown precision 'fp16' (did you mean 'bf16'?); known: bf16, fp32, int8."),
        (("",), "--in-graph '' names no file."),
        (("int8=",), "--in-graph 'int8=' names no file."),
    ],
)
def test_a_graph_for_an_unknown_precision_or_of_no_name_is_refused(values: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parsed(Values(*(word for value in values for word in ("--in-graph", value))))
    assert (error.value.message, error.value.hint) == (message, GRAPH_HINT)


@pytest.mark.parametrize(
    ("values", "fp32", "int8"),
    [
        ((), None, None),
        (("a.pb",), "a.pb", "a.pb"),
        (("int8=a.pb",), None, "a.pb"),
        (("a.pb", "int8=b.pb"), "a.pb", "b.pb"),
        (("int8=b.pb", "a.pb"), "a.pb", "a.pb"),
        (("fp32=a.pb", "fp32=b.pb"), "b.pb", None),
        (("/models/v=2/a.pb",), "/models/v=2/a.pb", "/models/v=2/a.pb"),
    ],
)
def test_the_last_graph_that_is_given_for_a_precision_is_taken(
    values: tuple[str, ...], fp32: str | None, int8: str | None
) -> None:
    options = Options(in_graph=values)
    assert options.graph_for("fp32") == (fp32 and Path(fp32))
    assert options.graph_for("int8") == (int8 and Path(int8))
