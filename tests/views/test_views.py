"""Views: everything is escaped, sizes stay small with long prompts, and what is drawn is what was given."""

import re
from html.parser import HTMLParser

import pytest
import torch
from growth import calls

from seka_rag import Passage, Prompt, Rag, SteeredModel
from seka_rag.errors import RecordError, SettingError
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.model.attention import AttentionReading, Look
from seka_rag.model.generation import Generation
from seka_rag.steering.report import SteeringReport
from seka_rag.text.spans import Span
from seka_rag.views import (
    Point,
    chart,
    curves,
    head_attention,
    passage_attention,
    show,
    strengths,
    token_attention,
)  # fmt: skip
from seka_rag.views.page import pieces, view

EVIL = "</pre><script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""


class Tags(HTMLParser):
    """Opening tags, and whether all that need it are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open, self.marked = [], [], []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("input", "br", "meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if "mark" in self.open:
            self.marked.append(data)


def reading(passages: int, words: int, steps: int = 12, text: str = "word ") -> AttentionReading:
    """A prompt of so many passages and tokens with invented attention; the middle passage is highlighted."""
    generator = torch.Generator().manual_seed(0)
    body = [text * words for _ in range(passages)]
    prompt, places, start = "", [], 0
    for i, part in enumerate(body):
        places.append(Span(start, start + len(part), source=f"file {i}"))
        prompt += part + "\n"
        start = len(prompt)
    prompt += "Question?"
    offsets = [m.span() for m in re.finditer(r"\S+\s?", prompt)]
    tokens = TokenizedPrompt(list(range(len(offsets))), [0.0] * len(offsets), offsets)
    middle = places[passages // 2]
    marked = Prompt(prompt, (Span(middle.start, middle.end),))

    def look(name: str) -> Look:
        rows = torch.rand(steps, len(offsets), generator=generator) ** 8
        first = torch.rand(30, 9, len(offsets), generator=generator)
        generation = Generation(name, SteeringReport(), len(offsets), steps, "stop")
        answer = tuple(f" {name}{i}" for i in range(steps))
        return Look(generation, answer, first / first.sum(-1, keepdim=True), rows / rows.sum(-1, keepdim=True))

    return AttentionReading(
        marked, tokens, tuple(places), (start, len(prompt)), frozenset({(3, 1)}), ((3, 1), (5, 2)), look("p"), look("s")
    )


def test_a_passage_with_markup_stays_text():
    model = SteeredModel.from_pretrained("seka-demo")
    passages = [Passage(f"The home of Alec is in Lyon. {EVIL}", source=EVIL)]
    rag = Rag(model, lambda question: passages)
    answer = rag.answer("Which city is the home of Alec?", max_new_tokens=4)
    shown = show(answer, plain=EVIL, title=EVIL)
    tags = Tags(shown.html)
    assert not [tag for tag, _ in tags.tags if tag in ("script", "img")]
    assert "".join(tags.marked) == "The home of Alec is in Lyon."
    assert "tokens edited by Seka" in shown.text
    assert {tag for tag, _ in Tags(strengths({1.0: EVIL}).html).tags} >= {"input", "script"}
    assert EVIL not in strengths({1.0: EVIL}, title=EVIL, name=EVIL).html


@pytest.mark.parametrize("draw", [passage_attention, head_attention, token_attention])
def test_attention_views_escape_their_texts(draw):
    html = draw(reading(3, 2, steps=3, text=f"{EVIL} ")).html
    assert "alert('x')" not in html
    assert not [attrs for tag, attrs in Tags(html).tags if tag == "img"]


@pytest.mark.parametrize(
    ("draw", "size"), [(passage_attention, 200e3), (head_attention, 80e3), (token_attention, 150e3)]
)
def test_a_thousand_passages_of_eight_thousand_tokens_stay_small_and_quick(draw, size):
    short, long = reading(250, 8), reading(1000, 8)
    assert len(long.tokens) > 8000
    assert calls(lambda: draw(long)) < 5 * calls(lambda: draw(short))
    assert len(draw(long).html) < size


def test_the_tokens_of_the_prompt_are_all_there_once():
    short = reading(4, 3, steps=2)
    html = token_attention(short).html
    inside = re.search(r'<pre class="text".*?>(.*?)</pre>', html, re.S)[1]
    assert re.sub(r"<[^>]+>", "", inside) == short.prompt.text


def test_heads_that_are_edited_have_frames():
    few = reading(2, 2)
    assert head_attention(few).html.count('stroke-width="2"') == 1
    most = AttentionReading(**{**vars(few), "edited": frozenset((i, h) for i in range(30) for h in range(9))})
    assert head_attention(most).html.count('stroke-width="2"') == len(few.heads)


def test_messages_take_the_highlights_of_a_report():
    report = {"tokens_edited": 2, "method": "Seka", "gain": 1.0, "heads": 3, "layers": [1],
              "highlights": [{"message": 1, "start": 0, "end": 4, "weight": 1.0, "source": "notes"}]}  # fmt: skip
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Alec lives in Lyon."}]
    shown = show("Lyon", messages, report=report)
    assert Tags(shown.html).marked == ["Alec"]
    assert "4 of 28 characters highlighted (from notes)" in shown.text
    with pytest.raises(SettingError, match="needs the prompt"):
        show("Lyon")


def test_overlapping_highlights_show_each_character_once():
    prompt = Prompt("one two three").mark(0, 7, 0.5).mark(4, 13, 1.0)
    assert list(pieces(prompt)) == [("one ", 0.5), ("two three", 1.0)]


def test_a_view_is_saved_as_a_page_and_a_chart_as_a_picture(tmp_path):
    shown = strengths({0: "Dublin", 1: "Lyon"}, right=lambda text: text == "Lyon")
    assert "✗  Dublin" in shown.text
    page = shown.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert shown.html.strip() in page
    drawn = chart({"plain": [Point(1, 0.5, 0.4, 0.6)]}, x="x", y="y")
    for ending in ("svg", "png", "html"):
        assert drawn.save(tmp_path / f"picture.{ending}").stat().st_size > 1000
    with pytest.raises(SettingError, match="saved as .html"):
        shown.save(tmp_path / "page.png")
    with pytest.raises(SettingError, match="no folder"):
        shown.save(tmp_path / "nowhere" / "page.html")
    with pytest.raises(SettingError, match="nothing to draw"):
        chart({}, x="x", y="y")
    with pytest.raises(SettingError, match="one of the strengths"):
        strengths({0: "Dublin"}, start=3)


def test_equal_figures_give_equal_bytes():
    lines = {"plain": [Point(1, 0.5), Point(2, 0.6)], "steered": [Point(1, 0.7, 0.6, 0.8, "1")]}
    first, second = (chart(lines, x="x", y="y") for _ in range(2))
    assert first.html == second.html
    assert view("chart.html.j2", "", svg="", head=[], rows=[], dark=[], light=[]).html
    colours = set(re.findall(r"#[0-9a-f]{6}", re.search(r"<svg.*</svg>", first.html, re.S)[0]))
    assert not colours  # all are variables of the page, so that they differ in the dark


def row(method, settings, metric, value, task="conflict-rag"):
    return {"task": task, "model": "m", "method": method, "settings": settings, "metric": metric, "n": 4,
            "value": value, "low": value - 0.1, "high": value + 0.1}  # fmt: skip


def test_curves_of_a_benchmark_go_through_the_strengths_in_order(tmp_path):
    rows = [
        row(m, {"gain": g}, metric, value)
        for m, g, follow, harm in (("seka", 2.0, 0.9, 0.4), ("seka", 0.5, 0.6, 0.1), ("scaling", 1.0, 0.7, 0.2))
        for metric, value in (("correction.right", follow), ("irrelevant.kl", harm))
    ]
    drawn = curves(rows, "correction.right", "irrelevant.kl")
    assert [line.split()[:3] for line in drawn.text.splitlines()[1:]] == [
        ["seka", "0.1", "0.6"], ["seka", "0.4", "0.9"], ["scaling", "0.2", "0.7"],
    ]  # fmt: skip
    with pytest.raises(RecordError, match="name one of them"):
        curves([*rows, row("seka", {}, "irrelevant.kl", 0.1, "other")], "correction.right", "irrelevant.kl")
    with pytest.raises(RecordError, match="no row has both"):
        curves(rows[:1], "correction.right", "irrelevant.kl")
