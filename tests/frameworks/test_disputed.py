"""Where equal passages share a place, it is marked only if each that may stand there is trusted."""

from __future__ import annotations

import pytest

from seka_rag.frameworks import place_passages, undisputed

ONE, TWO = "The pier is closed.", "Boats leave from the quay."


@pytest.mark.parametrize(
    ("distrusted", "dropped", "kept", "disputed"),
    [
        ([], [], [0, 1], False),
        ([0], [], [], True),
        ([0], [0], [1], False),  # the upload is known to have been left out
        ([0], [1], [], False),  # the upload is what stands there
        ([0], [0, 1], [], True),  # two branches left out one each
        ([], [0], [1], False),
        ([0, 1], [], [], False),
    ],
)
def test_two_equal_passages_and_one_place(distrusted, dropped, kept, disputed):
    places = place_passages([ONE, ONE, TWO], f"{ONE} {TWO}")
    found, any_disputed = undisputed(places, distrusted, dropped)
    assert (sorted(found), any_disputed) == ([*kept, 2], disputed)
    assert all(found[i] == places[i] for i in kept)


def test_a_place_each_is_not_disputed():
    places = place_passages([ONE, ONE], f"{ONE} {ONE}")
    assert undisputed(places, [0]) == ({1: places[1]}, False)


@pytest.mark.parametrize(("distrusted", "kept"), [([2], []), ([0], []), ([], [0, 1, 2])])
def test_a_passage_made_of_others(distrusted, kept):
    """The characters of all three are the same."""
    places = place_passages([ONE, TWO, f"{ONE} {TWO}"], f"{ONE} {TWO}")
    found, disputed = undisputed(places, distrusted)
    assert (sorted(found), disputed) == (kept, bool(distrusted))
