"""Where passages stand in a text: by document and not by words alone, whatever the others say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag import Span
from seka_rag.frameworks import place_passages, unexplained

LONG = (
    "The ferry to the island leaves at seven from the old pier. In winter it leaves at nine, and on Sundays not at all."
)


def found(passages, text):
    """Index -> the characters of the text where the passage stands, and where they begin."""
    places = place_passages(passages, text)
    spans = {i: [place.move(Span(0, len(passages[i]))) for place in own] for i, own in places.items()}
    return {i: [(text[s.start : s.end], s.start) for s in own] for i, own in spans.items()}


def words(passages, text):
    return {i: own[0][0] for i, own in found(passages, text).items()}


class TestWhole:
    def test_white_space_may_differ(self):
        assert words(["a b c."], "x a b c. y") == {0: "a b c."}
        assert words(["a\n\nb  c."], "x a b c. y") == {0: "a b c."}
        assert words(["  a b c.\n"], "x a\n   b c. y") == {0: "a\n   b c."}

    def test_not_inside_a_word(self):
        assert found(["art"], "party art") == {0: [("art", 6)]}

    @pytest.mark.parametrize(
        "passages",
        [
            ["東京は日本の首都です", "大阪は大きい"],
            ["トマトは赤い", "ナスは紫"],
            ["กรุงเทพเป็นเมืองหลวง", "เชียงใหม่อยู่ทางเหนือ"],
        ],
    )
    def test_scripts_without_spaces(self, passages):
        one, two = passages
        assert found(passages, f"文書1番{one}{two}2") == {0: [(one, 4)], 1: [(two, 4 + len(one))]}

    def test_nothing_without_a_letter(self):
        assert place_passages(["", "  ", "---"], "a  b --- c") == {}

    def test_a_short_one_gets_its_own_place_and_not_a_part_of_anothers(self):
        assert found(["b c", "a b c d"], "a b c d; b c") == {0: [("b c", 9)], 1: [("a b c d", 0)]}
        assert found(["b c", "a b c d"], "a b c d") == {1: [("a b c d", 0)]}


class TestIdentity:
    """A document that was left out, or copies another, changes nothing for the others."""

    def test_one_that_was_left_out_does_not_take_the_place_of_one_with_the_same_beginning(self):
        old = "Minutes of the council: the fare for adults is now four euros, and children travel free of charge."
        new = "Minutes of the council: the fare for adults is now six euros."
        assert found([old, new], new) == {1: [(new, 0)]}
        assert found([new, old], f"1. {new}\n2. Nothing else.") == {0: [(new, 3)]}

    def test_nor_of_one_that_is_longer(self):
        short = "The gate opens at eight."
        longer = f"{short} That was last year; now it opens at ten."
        assert found([short, longer], longer) == {1: [(longer, 0)]}

    def test_equal_texts_stand_in_their_order(self):
        assert found([LONG] * 3, f"{LONG}\n\n{LONG}\n\n{LONG}") == {i: [(LONG, i * (len(LONG) + 2))] for i in range(3)}

    def test_equal_texts_share_the_places_that_are_too_few(self):
        assert found([LONG] * 3, f"- {LONG}") == {i: [(LONG, 2)] for i in range(3)}

    def test_a_passage_made_of_others_takes_nothing_from_them(self):
        one, two = "The pier is closed.", "Boats leave from the quay."
        for copy in (f"{one} {two}", f"{one} --- {two}"):
            for order in ([one, two, copy], [copy, one, two]):
                got = words(order, f"{one} --- {two}" if "---" in copy else f"{one}\n\n{two}")
                assert {order[i] for i in got} >= {one, two}

    def test_nor_does_one_whose_parts_are_others(self):
        whole = "The pier is closed. Boats leave from the quay."
        assert words(["The pier is closed.", "Boats leave from the quay.", whole], whole)[2] == whole

    def test_a_copy_with_the_beginning_of_the_next(self):
        one, two = "The pier is closed.", "Boats leave from the quay."
        assert words([f"{one} Boats leave", one, two], f"{one} {two}") == {1: one, 2: two}

    def test_a_passage_made_of_others_that_stands_there_too(self):
        one, two = "The pier is closed.", "Boats leave from the quay."
        text = f"{one}\n\n{two}\n\n{one} {two}"
        assert found([one, two, f"{one} {two}"], text) == {
            0: [(one, 0)],
            1: [(two, len(one) + 2)],
            2: [(f"{one} {two}", len(one) + len(two) + 4)],
        }

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
    def test_whatever_a_chain_leaves_out(self, lengths, data):
        """Documents of one beginning, in their order, some left out: the others, and only they, each in its place."""
        passages = [f"Report of the harbour master, page {i}." + " It rained." * n for i, n in enumerate(lengths)]
        kept = [i for i in range(len(passages)) if data.draw(st.booleans())]
        separator = data.draw(st.sampled_from(["\n\n", "\n- ", " | ", " "]))
        text = separator.join(passages[i] for i in kept)
        starts = {i: len(separator.join(["", *(passages[k] for k in kept[:n])])) for n, i in enumerate(kept)}
        starts = {i: 0 if i == kept[0] else start for i, start in starts.items()}
        assert found(passages, text) == {i: [(passages[i], starts[i])] for i in kept}

    def test_another_order(self):
        passages = [f"Report number {i} of the harbour master." for i in range(20)]
        assert words(passages, "\n".join(reversed(passages))) == dict(enumerate(passages))


class TestCut:
    """A part counts only where the cut shows."""

    @pytest.mark.parametrize("mark", ["...", " ...", "…", " [...]", " (truncated)", "[truncated]"])
    def test_at_a_mark(self, mark):
        assert found([LONG], f"<doc>{LONG[:40]}{mark} and so on") == {0: [(LONG[:40].rstrip(), 5)]}

    def test_at_the_end_of_the_text(self):
        assert found([LONG], f"1. {LONG[:50]}") == {0: [(LONG[:50], 3)]}
        assert found([LONG], f"{LONG[50:]}\n\nNext.") == {0: [(LONG[50:].strip(), 1 if LONG[50] == " " else 0)]}
        assert found([LONG], LONG[20:70]) == {0: [(LONG[20:70].strip(), 1 if LONG[20] == " " else 0)]}

    def test_not_where_other_text_goes_on(self):
        assert found([LONG], f"{LONG[:50]} and so on") == {}
        assert found([LONG], f"So they say: {LONG[50:]}") == {}
        assert found([LONG], f"{LONG[:50]}\n\nNext.") == {}

    def test_not_if_it_is_short(self):
        assert found([LONG], f"<doc>{LONG[:20]}...") == {}

    def test_whole_ones_first(self):
        other = LONG[:60] + " but who knows..."
        assert found([LONG, other], other) == {1: [(other, 0)]}
        assert found([LONG, other], f"{other}\n\n{LONG[:60]}") == {1: [(other, 0)], 0: [(LONG[:60], len(other) + 2)]}

    def test_of_equal_beginnings_nobody_is_left_out(self):
        other = LONG[:60] + "; the rest is another story."
        assert set(found([LONG, other], f"{LONG[:50]}...")) == {0, 1}
        text = f"{LONG[:50]}...\n\n{LONG[:50]}..."
        assert [own[0][1] for own in found([LONG, other], text).values()] == [0, 55]

    def test_a_part_shares_no_place_of_a_whole_one(self):
        copy = LONG[:60]
        assert found([LONG, copy], copy) == {1: [(copy, 0)]}
        assert found([copy, LONG], f"1. {copy}") == {0: [(copy, 3)]}

    def test_spans_beyond_the_cut_are_dropped_and_others_end_there(self):
        (place,) = place_passages([LONG], f"<doc>{LONG[:40]}...")[0]
        assert place.move(Span(50, 60)) is None
        assert place.move(Span(4, 60)) == Span(9, 5 + len(LONG[:40].rstrip()))


@given(
    st.lists(st.text("ab .\n", min_size=1, max_size=12), max_size=5),
    st.sampled_from(["\n\n", " | ", "", "\n- "]),
)
def test_what_is_found_is_the_passage(passages, separator):
    text = separator.join(passages)
    for i, places in place_passages(passages, text).items():
        for place in places:
            span = place.move(Span(0, len(passages[i])))
            assert text[span.start : span.end].split() == passages[i].split()


@given(st.text("ab .\n", min_size=1, max_size=30), st.data())
def test_spans_keep_their_words(passage, data):
    start = data.draw(st.integers(0, len(passage) - 1))
    end = data.draw(st.integers(start + 1, len(passage)))
    text = "Text: " + "  ".join(passage.split()) + " :end"
    places = place_passages([passage], text).get(0, ())
    moved = places[0].move(Span(start, end)) if places else None
    expected = "".join(passage[start:end].split()) if places else ""
    assert ("" if moved is None else "".join(text[moved.start : moved.end].split())) == expected


def test_what_no_passage_explains():
    places = [place for own in place_passages(["a b.", "c d."], "1. a b. -- c  d. and more").values() for place in own]
    assert unexplained(places, "1. a b. -- c  d. and more") == ["1.", "and more"]
    assert unexplained([], "x") == ["x"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("passages", "text"),
    [
        ([f"Report {i}. " + "It rained all day. " * 100 for i in range(200)], None),
        (["a a a"] * 10, "a " * 10_000),
        (["a a " * 5_000], "a a " * 4_000 + "b"),
        (["a" * 20_000], "a" * 19_000),
        ([f"{LONG} {i}" for i in range(100)], f"{LONG[:50]} " * 300),
    ],
)
def test_time(passages, text):
    """Far from quadratic, which would be hours."""
    assert place_passages(passages, "\n\n".join(passages) if text is None else text) is not None
