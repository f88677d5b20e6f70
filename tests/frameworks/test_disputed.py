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


@pytest.mark.parametrize(
    ("passages", "text", "distrusted", "kept"),
    [
        ([ONE, TWO], f"{ONE} {TWO} {ONE}", [1], []),  # as a title, before or behind
        ([ONE, TWO], f"{ONE} {TWO} {ONE}", [], [0, 1]),
        ([ONE, TWO], f"{ONE} {TWO} {ONE}", [2], [1]),  # a passage without a place
        ([ONE, f"{ONE} {TWO}"], f"{ONE} {TWO} {ONE}", [1], [0]),  # it stands in a copy, and where it stands itself
        ([ONE, f"{ONE} Title."], f"{ONE} Title. - {ONE} Title.", [1], []),  # which of the two is the copy?
        (["a b a b", TWO], f"a b a b a b {TWO}", [1], []),
    ],
)
def test_a_text_that_stands_more_often_than_its_passages(passages, text, distrusted, kept):
    found, disputed = undisputed(place_passages(passages, text), distrusted)
    assert (sorted(found), disputed) == (kept, bool(distrusted) and 0 not in kept)


def test_a_whole_copy_of_a_passage_that_was_cut():
    long = " ".join([ONE, TWO] * 3)
    places = place_passages([long, TWO], f"{long} - {long[:50]}... {TWO}")
    assert undisputed(places, [1]) == ({}, True)
