"""Answers to look at: the prompt with its highlights, what was answered and what was steered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seka_rag.errors import SettingError
from seka_rag.model.generation import Generation
from seka_rag.rag import Answer
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span
from seka_rag.views.page import View, file_name, pieces, shortened, table, view

_OPEN = 1500  # characters of a prompt that is shown without a click


def show(
    answer: Answer | Generation | str,
    prompt: Prompt | Sequence[Mapping[str, object]] | None = None,
    *,
    report: Mapping[str, Any] | None = None,
    plain: Answer | Generation | str | None = None,
    title: str | None = None,
) -> View:
    """The answer, beside the plain one if there is one, the report in a line, and the prompt with its highlights.

    Args:
        answer: of a ``Rag`` (it knows its prompt and report), of a model, or its text.
        prompt: a Prompt, or messages ``{"role", "content"}``, where the answer does not know it. Messages whose content is
            plain text get the highlights of the report.
        report: as in the metadata of LangChain's and LlamaIndex' answers, where the answer has none.
        plain: the answer of the plain model.
        title: a line above; the question of a ``Rag`` by default.

    Raises:
        SettingError: no prompt.
    """
    if isinstance(answer, Answer):
        title = answer.question.text if title is None else title
        prompt = answer.question.messages if prompt is None else prompt
    if prompt is None:
        raise SettingError("show needs the prompt, show(answer, prompt): only an answer of a Rag holds its own")
    generation = answer.generation if isinstance(answer, Answer) else answer
    known = generation.report.as_dict() if isinstance(generation, Generation) else {}
    report = {**known, **(report or {})}
    messages = _messages(prompt, report)
    summary = _summary(report, [content for _, content in messages])
    texts = _text(answer), None if plain is None else _text(plain)
    return view(
        "answer.html.j2",
        table(
            [
                *([["plain:", texts[1]]] if texts[1] is not None else []),
                ["steered:" if report.get("tokens_edited") else "answer:", texts[0]],
                ["", summary],
            ]
        ),
        title=title,
        answer=texts[0],
        plain=texts[1],
        label="steered" if report.get("tokens_edited") else "answer",
        summary=summary,
        warnings=list(report.get("warnings") or ()),
        messages=[(role, list(pieces(content))) for role, content in messages],
        open=sum(len(content) for _, content in messages) <= _OPEN,
    )


def strengths(
    answers: Mapping[float, Answer | Generation | str],
    *,
    name: str = "strength",
    right: Callable[[str], bool] | None = None,
    title: str = "The answer at each strength",
    start: float | None = None,
) -> View:
    """A slider over answers that are there already, from ``{strength: answer}``; without scripts, a table of them.

    Args:
        right: whether an answer is right; none is marked without it.
        start: the strength that is shown first; by default the middle one.

    Raises:
        SettingError: no answers, or ``start`` is none of them.
    """
    if not answers or (start is not None and start not in answers):
        raise SettingError(f"start={start}: give one of the strengths {sorted(answers)}, and at least one answer")
    rows = [
        {"strength": f"{s:g}", "text": _text(a), "right": None if right is None else right(_text(a))}
        for s, a in sorted(answers.items())
    ]
    at = len(rows) // 2 if start is None else sorted(answers).index(start)
    marks = {None: "", True: "✓", False: "✗"}
    text = table([row["strength"], marks[row["right"]], row["text"]] for row in rows)  # type: ignore[index]  # rows hold these types
    return view("strengths.html.j2", text, title=title, name=name, rows=rows, start=at)


def _text(answer: Answer | Generation | str) -> str:
    return " ".join((answer if isinstance(answer, str) else answer.text).split())


def _messages(prompt: Prompt | Sequence[Mapping[str, object]], report: Mapping[str, Any]) -> list[tuple[str, Prompt]]:
    if isinstance(prompt, Prompt):
        return [("prompt", prompt)]
    found = []
    for i, message in enumerate(prompt):
        content = message["content"]
        if not isinstance(content, Prompt):
            marks = [h for h in report.get("highlights") or () if h.get("message", 0) == i]
            content = Prompt(str(content), tuple(Span(h["start"], h["end"], h["weight"], h["source"]) for h in marks))
        found.append((str(message["role"]), content))
    return found


def _summary(report: Mapping[str, Any], prompts: Sequence[Prompt]) -> str:
    marked, total = sum(len(t) for p in prompts for t in p.highlighted), sum(map(len, prompts))
    what = f"{marked} of {total} characters highlighted" if marked else "nothing highlighted"
    if not report.get("tokens_edited"):
        return f"{what}; not steered"
    sources = list(dict.fromkeys(s.source for p in prompts for s in p.spans if s.source))
    names = ", ".join(shortened(file_name(s)) for s in sources[:4]) + (", …" if len(sources) > 4 else "")
    origin = f" (from {names})" if names else ""
    return (
        f"{what}{origin}; {report['tokens_edited']} tokens edited by {report['method']} at strength {report['gain']:g}, "
        f"{report['heads']} key heads in {len(report['layers'])} layers"
    )
