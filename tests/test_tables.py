from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from conformance.errors import UsageError
from conformance.tables import read_table


class Leg(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    length: float
    joints: tuple[int, ...] = ()


class Beast(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    leg: tuple[Leg, ...] = ()
    tail: Leg | None = None
    kept_in: dict[str, Leg] = {}


class Zoo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    beast: tuple[Beast, ...]


def message(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_table(path, Zoo)
    assert error.value.hint == f"Correct {path}."
    return error.value.message


def test_a_table_that_fits_is_read(tmp_path: Path) -> None:
    path = tmp_path / "zoo.toml"
    path.write_text('[[beast]]\nname = "Ü"\n[[beast.leg]]\nlength = 1\njoints = [1, 2]\n', encoding="utf-8")
    assert read_table(path, Zoo) == Zoo(beast=(Beast(name="Ü", leg=(Leg(length=1.0, joints=(1, 2)),)),))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("beats = []", "zoo.toml: Unknown key 'beats' (did you mean 'beast'?); known: beast."),
        ("beast = []\nx = 1", "zoo.toml: Unknown key 'x'; known: beast."),
        (
            '[[beast]]\nname = "a"\nnam = 1',
            "zoo.toml, beast[0]: Unknown key 'nam' (did you mean 'name'?); known: kept_in, leg, name, tail.",
        ),
        (
            '[[beast]]\nname = "a"\n[[beast.leg]]\nlength = 1\n[[beast.leg]]\nlenth = 1',
            "zoo.toml, beast[0].leg[1]: Unknown key 'lenth' (did you mean 'length'?); known: joints, length.",
        ),
        (
            '[[beast]]\nname = "a"\n[beast.tail]\nlenth = 1',
            "zoo.toml, beast[0].tail: Unknown key 'lenth' (did you mean 'length'?); known: joints, length.",
        ),
        (
            '[[beast]]\nname = "a"\n[beast.kept_in.north]\nlenth = 1',
            "zoo.toml, beast[0].kept_in[...]: Unknown key 'lenth' (did you mean 'length'?); known: joints, length.",
        ),
        ("[[beast]]\nname = 3", "zoo.toml, beast[0].name = 3: Expected `str`, got `int`."),
        ("beast = 3", "zoo.toml, beast = 3: Expected `array`, got `int`."),
        (
            '[[beast]]\nname = "a"\n[[beast.leg]]\nlength = "long"',
            "zoo.toml, beast[0].leg[0].length = 'long': Expected `float`, got `str`.",
        ),
        (
            '[[beast]]\nname = "a"\n[[beast.leg]]\nlength = 1\njoints = [1, 2.5]',
            "zoo.toml, beast[0].leg[0].joints[1] = 2.5: Expected `int`, got `float`.",
        ),
        (
            '[[beast]]\nname = "a"\n[beast.kept_in.north]\nlength = "x"',
            "zoo.toml, beast[0].kept_in[...].length: Expected `float`, got `str`.",
        ),
        (
            '[[beast]]\nname = "a"\ntail = []',
            "zoo.toml, beast[0].tail: Expected `object | null`, got `array`.",
        ),
        ("[[beast]]\n", "zoo.toml, beast[0]: Object missing required field `name`."),
        ("", "zoo.toml: Object missing required field `beast`."),
    ],
)
def test_a_table_that_does_not_fit_is_told_with_the_place(tmp_path: Path, text: str, told: str) -> None:
    assert message(tmp_path / "zoo.toml", text) == told


@pytest.mark.parametrize(("text", "place"), [("x = 1\nbeast = []\nbeast = 2 3\n", "line 3"), ("beast: 1", "line 1")])
def test_what_is_not_toml_is_told_with_the_line(tmp_path: Path, text: str, place: str) -> None:
    told = message(tmp_path / "zoo.toml", text)
    assert told.startswith("zoo.toml is not TOML: ") and place in told


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(UsageError) as error:
        read_table(path, Zoo)
    assert error.value.message == f"There is no file {str(path)!r}."
    assert error.value.hint == "Check the path."


def test_a_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_table(tmp_path, Zoo)
    assert error.value.message.startswith(f"{str(tmp_path)!r} cannot be read: ")
    assert "Is a directory" in error.value.message
    assert error.value.hint == "Give a readable TOML file."


def test_a_file_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "zoo.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(UsageError) as error:
        read_table(path, Zoo)
    assert error.value.message.startswith(f"{str(path)!r} cannot be read: 'utf-8' codec can't decode byte 0xff")
