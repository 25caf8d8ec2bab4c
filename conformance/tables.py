"""Strict reading of TOML: a wrong type or an unknown key is one sentence that names the place."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from conformance.errors import UsageError, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T", bound=msgspec.Struct)


def read_table(path: Path, kind: type[T]) -> T:
    """Read a TOML file as ``kind``.

    Raises UsageError for a file that is missing, is not TOML, or does not fit ``kind``.
    """
    hint = f"Correct {path}."
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no file {str(path)!r}.", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error}.", "Give a readable TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path.name} is not TOML: {error}.", hint) from None
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path.name}{_explain(str(error), data, kind)}", hint) from None


def _explain(message: str, data: dict[str, Any], kind: type[msgspec.Struct]) -> str:
    """Return msgspec's message with the place first: ``, case[0].steps = 0: Expected ...``."""
    text, _, place = message.partition(" - at `$")
    place = place.rstrip("`")
    unknown = re.match(r"Object contains unknown field `(.*)`", text)
    if unknown:
        text = unknown_name("key", unknown[1], _fields_at(kind, place))
    found = _scalar_at(data, place)
    where = f", {place.lstrip('.')}{found}" if place else ""
    return f"{where}: {text.rstrip('.')}."


def _scalar_at(data: Any, place: str) -> str:
    """Return `` = value`` for a place that holds a plain value, else nothing."""
    if "[...]" in place:  # a key of free choice, which msgspec does not tell
        return ""
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", place):
        data = data[name] if name else data[int(index)]
    return "" if isinstance(data, (dict, list)) else f" = {data!r}"


def _fields_at(kind: type[msgspec.Struct], place: str) -> tuple[str, ...]:
    """Return the keys known at a place such as ``.case[0].band[1]`` of a Struct."""
    info = msgspec.inspect.type_info(kind)
    for step in re.findall(r"\.(\w+)|\[", place):
        info = _inner(info, step)
    return tuple(field.encode_name for field in getattr(info, "fields", ()))


def _inner(info: msgspec.inspect.Type, step: str) -> msgspec.inspect.Type:
    """Return the type one step further in: a Struct's field, or what an array or a dict holds."""
    if step and isinstance(info, msgspec.inspect.StructType):
        info = next(f.type for f in info.fields if f.encode_name == step)
    elif isinstance(info, msgspec.inspect.DictType):
        info = info.value_type
    else:
        info = getattr(info, "item_type", info)
    if isinstance(info, msgspec.inspect.UnionType):
        return next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType))
    return info
