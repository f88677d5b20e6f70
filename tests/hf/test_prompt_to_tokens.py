"""From a prompt put together in any way to tokens: a token's weight is the largest of its characters', by brute force."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import demo_tokenizer
from tokenizer_types import CONTROL, TYPES
from transformers import AutoTokenizer

from seka_rag import Prompt
from seka_rag.errors import SpanError
from seka_rag.hf.tokens import tokenize

BITS = [
    *"aeTx .\n", "\r\n", "  ", "\t", "Ada", "Lyon ", "in 2021", "e\u0301", "n\u0303o", "\u0301", "é", "ﬁ", "Ł", "日本",
    "😀", "👩\u200d👩\u200d👧", "👍🏽", "🇫🇷", "\u200d", "\u00a0", "\ufeff", "א", "{", "}", "**", "▁", "Ġ", "<0x41>", "##a",
    "[SEP]", "[CLS]", "<s>", "<unk>", *CONTROL, "<|im_", "end|>",
]  # fmt: skip
WEIGHTS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])
texts = st.lists(st.sampled_from(BITS), min_size=1, max_size=8).map("".join)


class Told:
    """A prompt, and beside it what every character should weigh: the oracle, kept by characters and not by spans."""

    def __init__(self, prompt, weights, spans):
        self.prompt, self.weights, self.spans = prompt, weights, spans  # spans: sets of characters, and their weight

    def __add__(self, other):
        by = len(self.weights)
        moved = [({i + by for i in where}, w) for where, w in other.spans]
        return Told(self.prompt + other.prompt, self.weights + other.weights, self.spans + moved)


@st.composite
def marked(draw):
    text = draw(texts)
    told = Told(Prompt(text), [0.0] * len(text), [])
    for _ in range(draw(st.integers(0, 3))):  # overlapping, nested, equal, adjacent
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        weight = draw(WEIGHTS)
        told.prompt = told.prompt.mark(start, end, weight)
        told.spans.append((set(range(start, end)), weight))
        told.weights = [max(w, weight) if start <= i < end else w for i, w in enumerate(told.weights)]
    return told


@st.composite
def composed(draw):
    parts = [draw(marked()) for _ in range(draw(st.integers(1, 3)))]
    plain = Told(Prompt(draw(texts)), None, [])
    plain.weights = [0.0] * len(plain.prompt)
    how = draw(st.sampled_from(["add", "radd", "join", "format", "slice"]))
    told = sum(parts[1:], parts[0])
    if how == "add":
        made, prompt = told + plain, told.prompt + plain.prompt.text
    elif how == "radd":
        made, prompt = plain + told, plain.prompt.text + told.prompt
    elif how == "join":
        made = sum(((plain + p) for p in parts[1:]), parts[0])
        prompt = Prompt.join([p.prompt for p in parts], plain.prompt.text)
    elif how == "format":
        made = plain + told
        template = plain.prompt.text.replace("{", "{{").replace("}", "}}") + "{told}"
        prompt = Prompt.format(template, {"told": told.prompt})
    else:
        start = draw(st.integers(0, len(told.weights) - 1))
        stop = draw(st.integers(start + 1, len(told.weights)))
        inside = [({i - start for i in where if start <= i < stop}, w) for where, w in told.spans]
        made = Told(None, told.weights[start:stop], [s for s in inside if s[0]])
        prompt = told.prompt[start:stop]
    return Told(prompt, made.weights, made.spans)


def kinds():
    return {**{name: make() for name, make in TYPES.items()}, "words": demo_tokenizer()}


KINDS = kinds()


def check(tokenizer, told, special):
    try:
        done = tokenize(tokenizer, told.prompt, add_special_tokens=special)
    except SpanError as error:
        assert "covers no token" in str(error)
        plain = tokenize(tokenizer, told.prompt.plain(), add_special_tokens=special)
        covered = {i for s, e in plain.offsets for i in range(s, e)}
        assert any(w > 0 and not where & covered for where, w in told.spans)
        return
    assert len(told.weights) == len(told.prompt)
    expected = [max((told.weights[i] for i in range(s, e)), default=0.0) for s, e in done.offsets]
    assert done.weights == expected
    control = {t for t, token in tokenizer.added_tokens_decoder.items() if token.special} - {tokenizer.unk_token_id}
    own = [o for t, o in zip(done.ids, done.offsets, strict=True) if t in control]
    assert all(s == e for s, e in own)  # only the tokenizer's own, never one of the text
    assert bool(own) <= special


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60, deadline=None)
@given(told=composed(), special=st.booleans())
def test_a_token_weighs_what_its_characters_weigh(name, told, special):
    check(KINDS[name], told, special)


@settings(max_examples=40, deadline=None)
@given(told=composed())
def test_also_with_a_real_sentencepiece_vocabulary(shared_data, told):
    check(_real(shared_data), told, True)


def _real(shared_data, _seen=[]):  # noqa: B006
    if not _seen:
        _seen.append(AutoTokenizer.from_pretrained(shared_data / "models" / "tinystories-260k"))
    return _seen[0]


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_offsets_lie_in_the_text_in_order_and_miss_nothing_but_spaces(name, text):
    """The oracle is the text: what no token covers is blank, or a mark that the tokenizer drops."""
    done = tokenize(KINDS[name], Prompt(text), add_special_tokens=False)
    assert all(0 <= s <= e <= len(text) for s, e in done.offsets)
    starts = [s for s, _ in done.offsets]
    assert starts == sorted(starts)
    covered = {i for s, e in done.offsets for i in range(s, e)}
    left = {text[i] for i in range(len(text)) if i not in covered}
    assert left <= set(" \t\r\n\u00a0\u0301\u0303\u200d\ufeff")


@pytest.mark.parametrize("name", ["byte-level BPE", "split and byte-level BPE"])
@settings(max_examples=60, deadline=None)
@given(text=texts, data=st.data())
def test_marked_bytes_are_the_bytes_of_the_span(name, text, data):
    """Byte-level tokens spell their bytes: an oracle that asks no offsets at all."""
    tokenizer = KINDS[name]
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    if (
        tokenizer.backend_tokenizer.normalizer is not None
        and tokenizer.backend_tokenizer.normalizer.normalize_str(text) != text
    ):
        return
    try:
        done = tokenize(tokenizer, Prompt(text).mark(start, end), add_special_tokens=False)
    except SpanError:
        assert not text[start:end].strip()
        return
    byte_of = {c: i for i, c in enumerate(_alphabet())}
    at, before, after = 0, len(text[:start].encode()), len(text[:end].encode())
    for token, weight in zip(tokenizer.convert_ids_to_tokens(done.ids), done.weights, strict=True):
        here = range(at, at + len(token))
        at += len(token)
        overlap = [i for i in here if before <= i < after]
        spelled = bytes(byte_of[c] for c in token)
        assert spelled == text.encode()[here.start : here.stop]
        if overlap and text.encode()[overlap[0] : overlap[-1] + 1].strip():
            assert weight == 1.0, (token, here, before, after)
        elif not overlap and _whole(text, here) and spelled.strip():  # lone spaces have no exact offsets
            assert weight == 0.0, (token, here, before, after)
    assert at == len(text.encode())


def _whole(text, here):
    """Whether a token's bytes are whole characters; a part of a character is marked with its character."""
    edges, at = {0}, 0
    for c in text:
        at += len(c.encode())
        edges.add(at)
    return {here.start, here.stop} <= edges


def _alphabet():
    """GPT-2's letters for the bytes 0 to 255."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(rest)) for b in range(256)]


def test_a_space_beside_a_stronger_span_is_no_error():
    for tokenizer in KINDS.values():
        done = tokenize(tokenizer, Prompt("Ada  lives").mark(0, 5, 0.5).mark(0, 3, 1.0), add_special_tokens=False)
        assert max(done.weights) == 1.0


def test_lone_spaces_stay_in_their_place_behind_poison():
    """Offsets that leave spaces out report a lone space as empty; it must not land on characters before it."""
    text = "abcdefgh <|im_end|>  x   y"
    tokenizer = KINDS["byte-level BPE"]
    done = tokenize(tokenizer, Prompt(text).mark(0, 8), add_special_tokens=False)
    assert all(e <= 8 for (_, e), w in zip(done.offsets, done.weights, strict=True) if w)
    spaces = tokenize(tokenizer, Prompt("a   b").mark(1, 4), add_special_tokens=False)
    marked = [t for t, w in zip(tokenizer.convert_ids_to_tokens(spaces.ids), spaces.weights, strict=True) if w]
    assert marked
    assert set("".join(marked)) == {"Ġ"}
