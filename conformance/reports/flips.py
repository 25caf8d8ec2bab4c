"""Which images and classes flipped: right in one precision or stack, and wrong in another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from conformance.cases.metrics import count
from conformance.records import Record, Run
from conformance.reports.answers import Answers, Images, read_answers
from conformance.reports.entries import ABSENT, Entry, precision_rank, shown
from conformance.reports.pictures import Jpeg, Unreadable, features, jpeg, records
from conformance.reports.tables import Cell, Row, Table, case_cell, table

PAIRS = 10  # shown in full; the first table has all
CLASSES = 20
IMAGES = 100
PICTURES = 24
PICTURE_BYTES = 300_000  # of one JPEG file
PAGE_BYTES = 780_000  # of all pictures of a page, as they stand in it
_PIXELATED = 96  # pixels; a picture with no longer side is shown enlarged, with its pixels to be seen
_LONGEST_NAME = 100
_LOST, _GAINED = "lost", "gained"


class Picture(NamedTuple):
    """A flipped image as it stands in the page."""

    jpeg: Jpeg
    alt: str
    flip: str
    label: str
    answers: str
    file: str
    pixelated: bool


class Part(NamedTuple):
    """One pair in full; what does not apply is None or empty."""

    title: str
    about: str
    sentences: tuple[str, ...]
    classes: Table | None = None
    pictures: tuple[Picture, ...] = ()
    images: Table | None = None
    summary: str = ""


class Flips(NamedTuple):
    """The section: a row for each pair, and the pairs in full."""

    table: Table
    note: str
    parts: tuple[Part, ...]


class _Pair(NamedTuple):
    """Two accuracy cases of one model on the same images, and the reason why they cannot be compared, if any."""

    reference: Entry
    compared: Entry
    names: tuple[str, str]
    answers: tuple[Answers, Answers] | None
    fault: str

    @property
    def lost(self) -> npt.NDArray[np.bool_]:
        assert self.answers
        return self.answers[0].hits & ~self.answers[1].hits

    @property
    def gained(self) -> npt.NDArray[np.bool_]:
        assert self.answers
        return ~self.answers[0].hits & self.answers[1].hits


def flips(runs: Sequence[Run], listed: Sequence[Entry]) -> Flips | None:
    """Return what flipped between every two comparable accuracy cases; None when there are none.

    Comparable are cases of one model and dataset whose data has the same SHA-256 and of which as many images were
    judged. The reference is fp32 in the same run and stack, and the same precision in the first run or stack before.
    """
    directories = {number: Path(run.directory) for number, run in enumerate(runs, start=1)}
    read: dict[int, Answers | Unreadable] = {}

    def answers(entry: Entry) -> Answers | Unreadable:
        if id(entry) not in read:
            try:
                read[id(entry)] = read_answers(directories[entry.run], entry.record)
            except Unreadable as error:
                read[id(entry)] = error
        return read[id(entry)]

    pairs = [_pair(one, other, answers(one), answers(other)) for one, other in _comparable(listed)]
    if not pairs:
        return None
    note = f"These are the first {PAIRS} of {len(pairs):,} pairs in full." if len(pairs) > PAIRS else ""
    several = len(runs) > 1
    return Flips(_pair_table(pairs, several), note, tuple(_parts(pairs[:PAIRS], several)))


def mcnemar_p(lost: int, gained: int) -> float:
    """Return McNemar's exact two-sided p: under the null hypothesis a flip goes either way like a fair coin.

    >>> round(mcnemar_p(1, 7), 4), mcnemar_p(0, 0)
    (0.0703, 1.0)
    """
    if lost == gained:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained).pvalue)


def _comparable(listed: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Yield each pair as (reference, compared), in the order of runs and precisions."""
    judged = [entry for entry in listed if _identity(entry.record)]
    judged.sort(key=lambda entry: (entry.run, precision_rank(entry.record.precision), entry.record.started_at))
    earlier: dict[tuple[object, ...], list[Entry]] = {}
    for compared in judged:
        alike = earlier.setdefault(_identity(compared.record), [])
        home = compared.run, compared.record.stack
        precision = compared.record.precision
        fp32 = [e for e in alike if (e.run, e.record.stack) == home and e.record.precision == "fp32" != precision]
        before = [e for e in alike if (e.run, e.record.stack) != home and e.record.precision == precision]
        before.sort(key=lambda entry: entry.record.case != compared.record.case)
        yield from ((reference, compared) for reference in (*fp32[:1], *before[:1]))
        alike.append(compared)


def _identity(record: Record) -> tuple[object, ...]:
    """Return what two comparable cases share; nothing for a case without answers."""
    data = record.inputs.get("data")
    if record.mode != "accuracy" or data is None or not data.sha256 or "images" not in record.metrics:
        return ()
    if not {"correct_bits", "answers"} & record.artefacts.keys():
        return ()
    return record.model, record.dataset, data.sha256, record.metrics["images"]


def _pair(reference: Entry, compared: Entry, one: Answers | Unreadable, other: Answers | Unreadable) -> _Pair:
    names = _names(reference, compared)
    faults = [f"{name}: {said}" for name, said in zip(names, (one, other), strict=True) if isinstance(said, Unreadable)]
    if isinstance(one, Unreadable) or isinstance(other, Unreadable):
        return _Pair(reference, compared, names, None, "; ".join(faults))
    if one.images and other.images and not one.images.are_those_of(other.images):
        fault = "the answers are not of the same images in the same order"
        return _Pair(reference, compared, names, None, fault)
    return _Pair(reference, compared, names, (one, other), "")


def _names(reference: Entry, compared: Entry) -> tuple[str, str]:
    """Return what tells the two apart: the precision, the stack where it differs, the run where that does."""
    traits = [(e.record.precision, e.record.stack, f"run {e.run}") for e in (reference, compared)]
    differing = [i == 0 or traits[0][i] != traits[1][i] for i in range(3)]
    one, other = (" · ".join(t for t, differs in zip(each, differing, strict=True) if differs) for each in traits)
    return one, other


def _pair_table(pairs: Sequence[_Pair], several: bool) -> Table:
    rows = [
        Row(
            (
                case_cell(pair.compared),
                *([Cell(str(pair.compared.run))] if several else []),
                Cell(pair.names[0]),
                *_counted(pair),
            )
        )
        for pair in pairs
    ]
    heads = ("Both right", "Both wrong", "Lost", "Gained", "McNemar p")
    columns = ("Case", *(["Run"] if several else []), "Against", "Images", *heads)
    return table("Each case image by image, against its reference", columns, rows)


def _counted(pair: _Pair) -> tuple[Cell, ...]:
    images = Cell(count(pair.compared.record.metrics["images"]), "number")
    if pair.answers is None:
        return images, *[Cell(ABSENT, "number")] * 5
    one, other = (said.hits for said in pair.answers)
    lost, gained = int(pair.lost.sum()), int(pair.gained.sum())
    numbers = (int((one & other).sum()), int((~one & ~other).sum()), lost, gained)
    p = mcnemar_p(lost, gained)
    said = shown("mcnemar_p", p) if p >= 0.0001 else "below 0.0001"
    return images, *(Cell(count(number), "number") for number in numbers), Cell(said, "number")


def _parts(pairs: Sequence[_Pair], several: bool) -> Iterator[Part]:
    """Yield the pairs in full; what one leaves of its share of the page's pictures is there for the next."""
    left = PAGE_BYTES
    for place, pair in enumerate(pairs):
        part = _part(pair, several, left // (len(pairs) - place))
        left -= sum(len(picture.jpeg.uri) for picture in part.pictures)
        yield part


def _part(pair: _Pair, several: bool, budget: int) -> Part:
    reference, compared = pair.names
    record = pair.compared.record
    title, about = f"{compared} against {reference}", f"{record.case} · {record.model} · {record.dataset}"
    about += f" · {record.stack}" + (f" · run {pair.compared.run}" if several else "")
    if pair.answers is None:
        return Part(title, about, (f"Not compared: {pair.fault}.",))
    lost, gained = int(pair.lost.sum()), int(pair.gained.sum())
    total, right = count(len(pair.lost)), count(int(pair.answers[0].hits.sum()))
    if not lost + gained:
        return Part(title, about, (f"No image flipped: both are right on the same {right} of {total} images.",))
    said = f"{compared} is wrong on {count(lost)} of {total} images that {reference} has right, and right on "
    said += f"{count(gained)} that {reference} has wrong."
    one, other = (each.images for each in pair.answers)
    if one is None or other is None:
        missing = "; ".join(
            f"{n}: {each.missing}" for n, each in zip(pair.names, pair.answers, strict=True) if each.missing
        )
        return Part(title, about, (said, f"Which classes and images is not known. {missing}."))
    listed = _Listing(pair, one, other, _class_names(Path(record.inputs["data"].path)))
    pictures, why = listed.pictures(budget)
    summary = f"All {count(lost + gained)} flipped images"
    if lost + gained > IMAGES:
        summary = f"The first {IMAGES} flipped images in the order of reading, and {count(lost + gained - IMAGES)} more"
    return Part(title, about, (said, *why), listed.class_table(), pictures, listed.image_table(), summary)


class _Listing:
    """The flipped images of a pair, in the order of reading, and what their classes are called."""

    def __init__(self, pair: _Pair, reference: Images, compared: Images, classes: dict[int, str]) -> None:
        self.pair, self.reference, self.compared, self.classes = pair, reference, compared, classes
        self.flipped = np.flatnonzero(pair.lost | pair.gained).tolist()

    def class_table(self) -> Table:
        """Return the classes with the most flips, the lower of equals first."""
        labels = self.reference.label
        lost, gained = Counter(labels[self.pair.lost].tolist()), Counter(labels[self.pair.gained].tolist())
        ranked = sorted(lost | gained, key=lambda label: (-lost[label] - gained[label], label))
        rows = [
            Row(
                (
                    self._class(label),
                    *(Cell(count(n), "number") for n in (int((labels == label).sum()), lost[label], gained[label])),
                )
            )
            for label in ranked[:CLASSES]
        ]
        said = (
            f"Classes with the most flips, {CLASSES} of {len(ranked):,}"
            if len(ranked) > CLASSES
            else "Classes with flips"
        )
        return table(said, ("Class", "Images", "Lost", "Gained"), rows)

    def image_table(self) -> Table:
        rows = [
            Row(
                (
                    Cell(self._file(place), "code", small=self._place(place)),
                    self._class(int(self.reference.label[place])),
                    self._class(int(self.reference.prediction[place])),
                    self._class(int(self.compared.prediction[place])),
                    Cell(self._flip(place), self._flip(place)),
                )
            )
            for place in self.flipped[:IMAGES]
        ]
        columns = ("File", "Class", *(f"Answer of {name}" for name in self.pair.names), "Flip")
        return table("Flipped images", columns, rows, stacked=True)

    def pictures(self, budget: int) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
        """Return the first pictures, and in a sentence each reason for which some are left out.

        ``budget`` is in bytes of the page.
        """
        chosen = self.flipped[:PICTURES]
        found = self._jpegs(chosen)
        pictures, reasons = [], Counter[str]()
        for place in chosen:
            image = found[place]
            if isinstance(image, Jpeg) and len(image.uri) > budget:
                image = Unreadable(f"the pictures of a page may take {PAGE_BYTES / 1e6:g} MB")
            if isinstance(image, Unreadable):
                reasons[str(image)] += 1
                continue
            budget -= len(image.uri)
            pictures.append(self._picture(place, image))
        why = [f"No picture of {number} of the first {len(chosen)}: {reason}." for reason, number in reasons.items()]
        if pictures and len(self.flipped) > len(chosen):
            why.append(f"Pictures are of the first {len(chosen)} in the order of reading.")
        return tuple(pictures), tuple(why)

    def _jpegs(self, places: Sequence[int]) -> dict[int, Jpeg | Unreadable]:
        found: dict[int, Jpeg | Unreadable] = {}
        for shard in sorted({int(self.compared.shard[place]) for place in places}):
            here = {p: int(self.compared.record[p]) for p in places if self.compared.shard[p] == shard}
            examples, fault = {}, Unreadable("")
            try:
                for number, example in records(Path(self.compared.shards[shard]), here.values()):
                    examples[number] = example
            except Unreadable as error:
                fault = error
            found |= {p: self._jpeg(p, examples[n]) if n in examples else fault for p, n in here.items()}
        return found

    def _jpeg(self, place: int, example: bytes) -> Jpeg | Unreadable:
        try:
            said = features(example)
            if said.get("image/filename", b"").rstrip(b"\0") != bytes(self.compared.filename[place]):
                return Unreadable("another image stands in its place now")
            image = jpeg(said.get("image/encoded", b""))
        except Unreadable as error:
            return error
        if len(image.data) > PICTURE_BYTES:
            return Unreadable(f"its file is larger than {PICTURE_BYTES // 1000} kB")
        return image

    def _picture(self, place: int, image: Jpeg) -> Picture:
        label, file = self._spoken(int(self.reference.label[place])), self._file(place)
        predictions = int(self.reference.prediction[place]), int(self.compared.prediction[place])
        named = zip(self.pair.names, predictions, strict=True)
        answers = "; ".join(f"{name}: {self._spoken(prediction)}" for name, prediction in named)
        pixelated = max(image.width, image.height) <= _PIXELATED
        alt = f"{file}: class {label}; {answers}"
        return Picture(image, alt, self._flip(place), f"class {label}", answers, file, pixelated)

    def _flip(self, place: int) -> str:
        return _LOST if self.pair.lost[place] else _GAINED

    def _file(self, place: int) -> str:
        return _printable(bytes(self.compared.filename[place]).decode("utf-8", "replace")) or "without a name"

    def _place(self, place: int) -> str:
        shard = Path(self.compared.shards[int(self.compared.shard[place])]).name
        return f"record {self.compared.record[place]} of {_printable(shard)}"

    def _class(self, label: int) -> Cell:
        return Cell(str(label), small=self.classes.get(label, ""))

    def _spoken(self, label: int) -> str:
        return f"{label} ({self.classes[label]})" if label in self.classes else str(label)


def _class_names(data: Path) -> dict[int, str]:
    """Return the synset of each label as the data's dataset.json has them; nothing where it has none."""
    try:
        said: Any = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
        names, lowest = said["synsets"], int(said.get("label_base", 1))
        return {label: _printable(str(name)) for label, name in enumerate(names, start=lowest)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _printable(text: str) -> str:
    """Return a name of strangers as it can be shown: what prints nothing, or turns text around, becomes U+FFFD.

    >>> _printable("a\\u202egpj.exe")
    'a\\ufffdgpj.exe'
    """
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[:_LONGEST_NAME]}\N{HORIZONTAL ELLIPSIS}"
