"""Images out of TFRecords in the ImageNet schema, without TensorFlow: a report wants a few of many.

A TFRecord file repeats uint64 length, uint32 CRC of it, that many bytes, uint32 CRC of them, all little-endian; the
checksums are not looked at. The bytes are a ``tf.train.Example`` in the wire format of protocol buffers.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_HEADER = struct.Struct("<QI")
_CRC_BYTES = 4
_RECORD_BYTES = 1 << 26  # no image of a data set comes near; a damaged length does
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
# Start of frame: all of 0xC0 to 0xCF but the tables DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Unreadable(Exception):
    """What is wrong with a file or what is in it, as the end of a sentence."""


class Jpeg(NamedTuple):
    """A JPEG file and its size in pixels."""

    data: bytes
    width: int
    height: int

    @property
    def uri(self) -> str:
        return f"data:image/jpeg;base64,{base64.b64encode(self.data).decode()}"


def records(shard: Path, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the records of a TFRecord file with the given numbers, from 0, in ascending order.

    The others are passed over by their lengths. Raises Unreadable where the file is missing, ends too early or cannot
    be a TFRecord file; what was yielded before is good.
    """
    wanted = sorted(set(numbers))
    if not shard.is_file():  # a pipe or a device would not end
        raise Unreadable("its shard is not there any more")
    try:
        with shard.open("rb") as file:
            size, passed = os.fstat(file.fileno()).st_size, 0
            for number in wanted:
                for _ in range(number - passed):
                    file.seek(_length(file, size) + _CRC_BYTES, os.SEEK_CUR)
                length = _length(file, size)
                if length > _RECORD_BYTES:
                    raise Unreadable(f"its record has {length:,} bytes, too many for an image")
                yield number, file.read(length)
                file.seek(_CRC_BYTES, os.SEEK_CUR)
                passed = number + 1
    except OSError as error:
        raise Unreadable(f"its shard cannot be read: {error.strerror}") from None


def features(example: bytes) -> dict[str, bytes]:
    """Return the features of a ``tf.train.Example`` that hold bytes, each with its first value.

    Fields, as in TensorFlow's example.proto and feature.proto: Example.features = 1, Features.feature = 1 (a map: key
    = 1, value = 2), Feature.bytes_list = 1, BytesList.value = 1. Raises Unreadable.
    """
    found = {}
    for entry in _inside(_inside([example], 1), 1):
        keys, values = list(_inside([entry], 1)), list(_inside(_inside(_inside([entry], 2), 1), 1))
        if keys and values:
            found[keys[-1].decode("utf-8", "backslashreplace")] = values[0]
    return found


def jpeg(data: bytes) -> Jpeg:
    """Return what a page needs of a JPEG file; raises Unreadable for anything else."""
    if not data.startswith(b"\xff\xd8\xff"):
        raise Unreadable("it is no JPEG")
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return Jpeg(data, width, height)
        place += 1 if marker == 0xFF else 2 + length  # 0xFF may be repeated before a marker
    raise Unreadable("it is no whole JPEG")


def _length(file: BinaryIO, size: int) -> int:
    """Read the header of a record; raises Unreadable when the file ends before the record does."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise Unreadable("its shard ends before its record")
    length: int = _HEADER.unpack(header)[0]
    if file.tell() + length + _CRC_BYTES > size:
        raise Unreadable("its shard is damaged: a record is longer than the file")
    return length


def _inside(messages: Iterable[bytes], field: int) -> Iterator[bytes]:
    """Yield what is in a field of messages, a field that holds bytes or messages."""
    return (data for message in messages for number, data in _fields(message) if number == field)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the fields of bytes; the others are passed over."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind, end = key & 7, place
        if kind == _BYTES:
            length, place = _varint(message, place)
            end = place + length
        elif kind == _VARINT:
            _, end = _varint(message, place)
        elif kind in (_FIXED64, _FIXED32):
            end = place + (8 if kind == _FIXED64 else 4)
        else:
            raise Unreadable("its record is no tf.train.Example")
        if end > len(message):
            raise Unreadable("its record is cut off")
        if kind == _BYTES:
            yield key >> 3, message[place:end]
        place = end


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return a number in groups of seven bits, the lowest first, and the place behind it."""
    value = 0
    for shift, byte in enumerate(message[place : place + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, place + shift + 1
    raise Unreadable("its record is cut off")
