"""``conformance data``: ImageNet from its archives, the digits, samples of a data set, and what one holds."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance import wire
from conformance.commands.parser import add_stack, command, group, print_pairs
from conformance.errors import HarnessFault, UsageError

if TYPE_CHECKING:
    from conformance.commands.parser import Subparsers

PUBLISHED = {"train": 1_281_167, "validation": 50_000}  # images of ILSVRC2012


def add(subparsers: Subparsers) -> None:
    commands = group(subparsers, "data", "prepare, sample and verify data sets of TFRecords")
    about = "write ImageNet's archives as TFRecords; the same command again goes on where it was stopped"
    imagenet = command(commands, "imagenet", imagenet_command, about)
    for name, what in (
        ("--train-archive", "ILSVRC2012_img_train.tar"),
        ("--validation-archive", "ILSVRC2012_img_val.tar"),
        ("--labels", "synset of each validation image, one a line: imagenet_2012_validation_synset_labels.txt"),
        ("--output", "directory to write to"),
    ):
        metavar = "DIR" if name == "--output" else "FILE"
        imagenet.add_argument(name, metavar=metavar, type=Path, required=True, help=what)
    layouts = "shards in DIR (IntelAI), in DIR/train and DIR/validation (Habana), or linked in both (default: flat)"
    imagenet.add_argument("--layout", choices=("flat", "subdirs", "both"), default="flat", help=layouts)
    imagenet.add_argument("--jpeg-tree", action="store_true", help="write class folders of JPEGs too, in DIR/jpeg")
    imagenet.add_argument("--no-checksum", action="store_true", help="do not compare the MD5 of the archives")
    imagenet.add_argument("--seed", metavar="N", type=int, default=0, help="of the order of the images (default: 0)")
    imagenet.add_argument("--train-shards", metavar="N", type=int, default=1024, help="default: 1024")
    imagenet.add_argument("--validation-shards", metavar="N", type=int, default=128, help="default: 128")

    digits = command(commands, "digits", digits_command, "write the embedded digits in both layouts, and as JPEGs")
    digits.add_argument("--output", metavar="DIR", type=Path, required=True, help="directory to write to")

    subset = command(commands, "subset", subset_command, "copy a seeded, class-balanced sample of a data set")
    subset.add_argument("directory", metavar="DIR", type=Path, help="a data set with a dataset.json")
    subset.add_argument("--images", metavar="N", type=int, required=True, help="as many of each class")
    subset.add_argument("--calibration", action="store_true", help="draw from train, for int8 (default: validation)")
    subset.add_argument("--seed", metavar="N", type=int, default=0, help="of the draw (default: 0)")
    subset.add_argument("--output", metavar="DIR", type=Path, required=True, help="directory to write to")

    verify = command(commands, "verify", verify_command, "read every record, and write dataset.json when all is right")
    verify.add_argument("directory", metavar="DIR", type=Path, help="a data set of TFRecords, in either layout")
    verify.add_argument("--full", action="store_true", help="decode every image (default: one in 16)")
    known = "what it is, where no dataset.json says it (default: imagenet)"
    verify.add_argument("--dataset", choices=("imagenet", "digits"), default="imagenet", help=known)
    for parser in (imagenet, digits, subset, verify):
        add_stack(parser)


def imagenet_command(args: argparse.Namespace) -> None:
    _seeded(args.seed)
    arguments = {
        "train_archive": str(args.train_archive.absolute()),
        "validation_archive": str(args.validation_archive.absolute()),
        "labels": str(args.labels.absolute()),
        "output": str(args.output.absolute()),
        "layout": args.layout,
        "jpeg_tree": args.jpeg_tree,
        "checksum": not args.no_checksum,
        "seed": args.seed,
        "train_shards": args.train_shards,
        "validation_shards": args.validation_shards,
    }
    again = "Give the same command again: it goes on where it stopped, and finished shards are kept."
    told = _run(wire.CONVERT_IMAGENET, arguments, args.stack, again)
    converted = [f"{count} {kind}" for kind, count in sorted(told["made"]["converted"].items())]
    _print_written(args.output, told, [("turned to RGB JPEG", ", ".join(converted) or "none")])


def digits_command(args: argparse.Namespace) -> None:
    from conformance.fixtures.inputs import save_digits

    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        arrays = Path(scratch) / "arrays.npz"
        save_digits(arrays)
        output = str(args.output.absolute())
        arguments = {"arrays": str(arrays), "output": output, "seed": 0, "layout": "both", "jpeg_tree": True}
        told = _run(wire.WRITE_DIGITS, arguments, args.stack, "Give the same command again.")
    _print_written(args.output, told, [])


def subset_command(args: argparse.Namespace) -> None:
    _seeded(args.seed)
    source, split = ("train", "calibration") if args.calibration else ("validation", "validation")
    arguments = {
        "directory": str(args.directory.absolute()),
        "output": str(args.output.absolute()),
        "images": args.images,
        "seed": args.seed,
        "source": source,
        "split": split,
    }
    told = _run(wire.SUBSET, arguments, args.stack, "Give the same command again; nothing was written.")
    origin = told["made"]["subset_of"]
    drawn = f"{origin['images']:,} images of {source}, seed {args.seed}"
    _print_written(args.output, told, [("drawn from", drawn)])


def verify_command(args: argparse.Namespace) -> None:
    arguments = {"directory": str(args.directory.absolute()), "dataset": args.dataset, "full": args.full}
    told = _run(wire.VERIFY, arguments, args.stack, "Give the same command again; nothing was changed.")
    print("\n".join(verified_lines(args.directory, told)))


def verified_lines(directory: Path, told: Mapping[str, Any]) -> list[str]:
    """Return what a verified data set holds, for people."""
    lines = [
        f"{directory}: {told['dataset']}, every record is right; {told['note']}.",
        f"  {'split':<12} {'images':>10} {'shards':>7} {'decoded':>10}  images of a class",
    ]
    for name, split in told["splits"].items():
        row = f"  {name:<12} {split['images']:>10,} {split['shards']:>7,} {split['decoded']:>10,}"
        lines.append(f"{row}  {spread_of(split['histogram'])}{_unlike_published(told, name, split['images'])}")
    lines += [f"  {name:<12} SHA-256 {split['sha256']}" for name, split in told["splits"].items()]
    twice = told["duplicates"]
    if twice["images"]:
        lines.append(f"  In validation too, byte for byte: {twice['images']:,}; the first: {twice['first']}.")
    return lines


def spread_of(histogram: list[int]) -> str:
    """Return how many images a class has, for people.

    >>> spread_of([3, 5, 4]), spread_of([2, 0, 2])
    ('3 to 5, median 4', '2, and 1 of 3 classes has none')
    """
    held = sorted(count for count in histogram if count)
    low, high, median = held[0], held[-1], held[(len(held) - 1) // 2]
    told = f"{low:,}" if low == high else f"{low:,} to {high:,}, median {median:,}"
    none = len(histogram) - len(held)
    return f"{told}, and {none} of {len(histogram)} classes ha{'s' if none == 1 else 've'} none" if none else told


def _unlike_published(told: Mapping[str, Any], split: str, images: int) -> str:
    sampled = "subset_of" in told["made"] or told["dataset"] != "imagenet"
    if sampled or split not in PUBLISHED or images == PUBLISHED[split]:
        return ""
    return f"; ImageNet's has {PUBLISHED[split]:,} images"


def _print_written(output: Path, told: Mapping[str, Any], more: list[tuple[str, str]]) -> None:
    print(f"{output}: {told['dataset']}, {told['classes']} classes")
    rows = [
        (name, f"{split['images']:,} images in {split['shards']:,} files, SHA-256 {split['sha256']}")
        for name, split in told["splits"].items()
    ]
    print_pairs((f"  {name}", value) for name, value in [*rows, *more])


def _seeded(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UsageError(f"Seed {seed} was given; allowed are 0 to {2**32 - 1}.", "Give --seed another number.")


def _run(kind: str, arguments: Mapping[str, Any], stack: str, again: str) -> dict[str, Any]:
    """Run a job and end the line that its progress stands on; stopped by the user, say how to go on."""
    from conformance.fixtures.jobs import run_job, terminal_line

    try:
        told: dict[str, Any] = run_job(kind, arguments, stack, terminal_line)
    except KeyboardInterrupt:
        raise HarnessFault("Stopped.", again) from None
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)
    return told
