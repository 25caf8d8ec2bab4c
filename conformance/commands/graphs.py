"""``conformance graphs``: which graphs there are, what one is, and how one is made from another."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.commands.parser import add_stack, command, group, print_pairs
from conformance.errors import UsageError
from conformance.fixtures import catalogue

if TYPE_CHECKING:
    from conformance.commands.parser import Subparsers

CONVERSION_IMAGES = 16  # on which fp32 and bf16 are compared


def add(subparsers: Subparsers) -> None:
    commands = group(subparsers, "graphs", "which graphs there are, what one is, and how one is made from another")
    command(commands, "list", list_command, "print the published graphs, and which graphs were added here")
    added = command(commands, "add", add_command, "keep the digest of a graph under a name, for --in-graph NAME")
    added.add_argument("file", metavar="FILE", type=Path, help="a frozen .pb, or the directory of a SavedModel")
    added.add_argument("--as", dest="name", metavar="NAME", required=True, help="of `graphs list`, or one of your own")
    added.add_argument("--replace", action="store_true", help="take other bytes than were added under this name")

    inspect = command(commands, "inspect", inspect_command, "print what a graph is, and which network by structure")
    inspect.add_argument("file", metavar="FILE", type=Path, help="a graph, or the name of one that was added")
    inspect.add_argument("--json", action="store_true", help="print it as JSON")
    add_stack(inspect)

    freeze = command(commands, "freeze", freeze_command, "make a frozen graph of a SavedModel or a checkpoint")
    about = "directory of a SavedModel, a checkpoint up to its .meta, or a .pb that is to be cut"
    freeze.add_argument("source", metavar="SOURCE", type=Path, help=about)
    quantize = command(commands, "quantize", quantize_command, "make an int8 graph of an fp32 graph")
    quantize.add_argument("file", metavar="FILE", type=Path, help="an fp32 graph, or the name of one that was added")
    about = "directory of calibration-*-of-* TFRecords, or of train-*-of-*"
    quantize.add_argument("--calibration", metavar="DIRECTORY", type=Path, required=True, help=about)
    quantize.add_argument("--images", metavar="N", type=_count, help="images to calibrate on (default: 500)")
    about = "what the TFRecords are, which decides how they are preprocessed (default: imagenet)"
    quantize.add_argument("--dataset", choices=("imagenet", "digits"), default="imagenet", help=about)
    convert = command(commands, "convert", convert_command, "make a bf16 graph of an fp32 graph")
    convert.add_argument("file", metavar="FILE", type=Path, help="an fp32 graph, or the name of one that was added")
    convert.add_argument("--to", choices=("bf16",), required=True, help="the precision to convert to")
    for making in (freeze, quantize, convert):
        making.add_argument("--output", metavar="FILE", type=Path, required=True, help="the .pb to write")
        making.add_argument("--input-tensor", default="input_tensor", help="name of the graph's input")
        making.add_argument("--output-tensor", default="softmax_tensor", help="name of the graph's output")
        add_stack(making)


def list_command(args: argparse.Namespace) -> None:
    entries = catalogue.added()
    for row in catalogue.published().values():
        print(f"{row.name}: {row.model} in {row.precision}, {row.classes} classes")
        here = _here(entries[row.name]) if row.name in entries else "not added"
        pairs = (("file", " or ".join(row.files)), ("url", row.url), ("source", row.source), ("here", here))
        print_pairs((f"  {name}", value) for name, value in pairs)
    for name in sorted(entries.keys() - catalogue.published().keys()):
        print(f"{name}: added by you")
        print_pairs([("  here", _here(entries[name]))])


def add_command(args: argparse.Namespace) -> None:
    entry = catalogue.add(args.file, args.name, args.replace)
    print(f"Added {entry.path} as {args.name}: SHA-256 {entry.sha256}, {entry.bytes:,} bytes.")


def inspect_command(args: argparse.Namespace) -> None:
    from conformance import wire

    found = _run(wire.INSPECT, {"graph": str(catalogue.resolved(args.file))}, args.stack)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print_pairs(inspected_lines(found))


def freeze_command(args: argparse.Namespace) -> None:
    from conformance import wire

    arguments = {"source": str(args.source.absolute()), **_tensors(args), "output": _output(args.output)}
    made = _run(wire.FREEZE, arguments, args.stack)
    print(f"Wrote {args.output}: {made['precision']}, {made['nodes']} nodes, {made['classes'] or 'unknown'} classes.")
    print(f"Network by structure: {made['network']}.")


def quantize_command(args: argparse.Namespace) -> None:
    from conformance import wire
    from conformance.fixtures.inputs import CALIBRATION, DIGITS, IMAGENET

    dataset = DIGITS if args.dataset == "digits" else IMAGENET
    arguments = {
        **CALIBRATION,
        **({"images": args.images} if args.images else {}),
        "graph": str(catalogue.resolved(args.file)),
        "data": str(args.calibration.absolute()),
        "dataset": dataset.name,
        "image_size": dataset.image_size,
        **_tensors(args),
        "output": _output(args.output),
    }
    made = _run(wire.QUANTIZE, arguments, args.stack)
    counts, calibration = made["convolutions"], made["calibration"]
    print(f"Wrote {args.output}: {counts.get('int8', 0)} of {sum(counts.values())} convolutions in int8.")
    print(f"Calibrated on {calibration['images']} images; SHA-256 of their shards: {calibration['sha256']}.")


def convert_command(args: argparse.Namespace) -> None:
    from conformance import wire

    arguments = {"graph": str(catalogue.resolved(args.file)), **_tensors(args), "output": _output(args.output)}
    made = _run(wire.CONVERT, {**arguments, "images": CONVERSION_IMAGES, "seed": 0}, args.stack)
    counts = made["convolutions"]
    print(f"Wrote {args.output}: {counts['bf16']} of {sum(counts.values())} convolutions in bf16.")
    print(
        f"On {made['images']} images of noise, outputs differ from fp32 by {made['max_difference']:.2g} at most, "
        f"and the first class is the same for {100 * made['top1_agreement']:.0f} %."
    )


def inspected_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a graph is, for people."""
    types, operations = found["parameters_by_type"], found["operations"]
    lines = [
        ("file", found["path"]),
        ("SHA-256", found["sha256"]),
        ("network", f"{found['network']['name']}: {found['network']['reason']}"),
        ("precision", found["precision"]),
        ("inputs", _tensors_told(found["inputs"])),
        ("outputs", _tensors_told(found["outputs"])),
        ("classes", str(found["classes"] or "not told")),
        ("parameters", f"{found['parameters']:,} ({_counted(types)})" if types else "0"),
        ("convolutions", _counted(found["convolutions_by_type"])),
        ("operations", _counted(operations)),
    ]
    return [*lines, ("but", found["import_error"])] if found["import_error"] else lines


def _tensors_told(tensors: dict[str, dict[str, Any]]) -> str:
    told = []
    for name, tensor in tensors.items():
        shape = "" if tensor["shape"] is None else f" {['?' if size is None else size for size in tensor['shape']]}"
        told.append(f"{name} {tensor['dtype'] or 'of unknown type'}{shape.replace(chr(39), '')}")
    return ", ".join(told) or "none"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _here(entry: catalogue.Added) -> str:
    return f"{entry.path}, SHA-256 {entry.sha256}, {entry.bytes:,} bytes, added {entry.added_at}"


def _tensors(args: argparse.Namespace) -> dict[str, str]:
    return {"input_name": args.input_tensor, "output_name": args.output_tensor}


def _output(path: Path) -> str:
    """Return where to write, absolute; raises UsageError where something is, or no directory to write in."""
    if path.exists():
        raise UsageError(f"There is a file {str(path)!r} already.", "Delete it, or give another --output.")
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"There is no directory {str(path.parent)!r} to write in.", "Make it, or give another --output."
        )
    return str(path.absolute())


def _run(kind: str, arguments: dict[str, Any], stack: str) -> Any:
    from conformance.fixtures.jobs import run_job, terminal_line

    return run_job(kind, arguments, stack, terminal_line)


def _count(text: str) -> int:
    from conformance.fixtures.options import positive

    return positive(text)
