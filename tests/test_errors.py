from __future__ import annotations

import pickle

import pytest

from conformance import errors
from conformance.errors import ConformanceError, unknown_name

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ConformanceError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_a_sentence_and_a_hint(kind: type[ConformanceError]) -> None:
    error = kind("There is no graph 'a.pb'.", "Give its path.")
    assert (error.message, error.hint) == ("There is no graph 'a.pb'.", "Give its path.")
    assert str(error) == "There is no graph 'a.pb'. Hint: Give its path."


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_the_way_from_a_worker(kind: type[ConformanceError]) -> None:
    back = pickle.loads(pickle.dumps(kind("It is 'so'.", "Do that.")))
    assert (type(back), back.message, back.hint) == (kind, "It is 'so'.", "Do that.")


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        (
            "xeon-8",
            ["xeon-8s", "generic-cpu"],
            "Unknown profile 'xeon-8' (did you mean 'xeon-8s'?); known: generic-cpu, xeon-8s.",
        ),
        ("tpu", ["xeon-8s", "generic-cpu"], "Unknown profile 'tpu'; known: generic-cpu, xeon-8s."),
        ("", ["a"], "Unknown profile ''; known: a."),
        ("it's", (), 'Unknown profile "it\'s"; known: none.'),
    ],
)
def test_an_unknown_name_is_told_with_the_known_ones(name: str, known: list[str], sentence: str) -> None:
    assert unknown_name("profile", name, iter(known)) == sentence
