"""Archives of the structure of ILSVRC2012's: a tar of a tar for each synset, and a flat tar, of any files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

SYNSETS = ("n01440764", "n01443537", "n02105855", "n04266014")


class Told:
    """Hears phases and progress, as a subject's events do."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.last: tuple[int, int] = (0, 0)

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.last = done, total


def tar(members: Mapping[str, bytes]) -> bytes:
    """Return a tar as GNU tar writes one, padded to 10 KiB, its members in the given order."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def train_archive(path: Path, images: Mapping[str, Mapping[str, bytes]]) -> str:
    """Write images by synset and name as a train archive."""
    path.write_bytes(tar({f"{synset}.tar": tar(members) for synset, members in images.items()}))
    return str(path)


def validation_archive(path: Path, images: Mapping[str, bytes]) -> str:
    path.write_bytes(tar(images))
    return str(path)


def labels_file(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)
