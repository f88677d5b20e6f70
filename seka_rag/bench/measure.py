"""One batch of items answered in one way: what the first token tells, and what the generated answer does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from seka_rag.bench.closed_book import first_tokens
from seka_rag.bench.item import Item, Opening, Spans
from seka_rag.bench.methods import Variant
from seka_rag.bench.text_measures import entropy, length, pronouns_changed
from seka_rag.hf.tokens import TokenizedPrompt, end_texts
from seka_rag.highlight.base import whole
from seka_rag.highlight.registry import as_highlighter
from seka_rag.highlight.sentences import Sentences
from seka_rag.highlight.trust import Trusted, TrustPolicy
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.answers import abstains, contains_answer, repetition
from seka_rag.retrieval.bm25 import BM25Retriever
from seka_rag.text.prompt import Prompt

#: What was measured of one item; booleans become rates, numbers means, and text is kept for readers.
Outcome = dict[str, object]


def applies(item: Item, variant: Variant) -> bool:
    """Whether an item has what the variant highlights."""
    return {"gold": item.gold, "wrong": item.wrong}.get(variant.highlight or "", ()) is not None


def highlights(item: Item, name: str | None) -> Spans:
    """The spans that a variant highlights in an item: its own, those of all passages, or those of a highlighter."""
    if name is None:
        return ((),) * len(item.record.passages)
    own = {"gold": item.gold, "wrong": item.wrong}.get(name)
    if own is not None:
        return own
    if name == "all":
        return tuple(whole(p) for p in item.passages)
    if name == "trusted":
        passages = [type(p)(p.text, source=str(i)) for i, p in enumerate(item.passages)]
        policy = TrustPolicy(sources=[str(i) for i in range(len(passages)) if not (item.wrong and item.wrong[i])])
        return tuple(Trusted(Sentences(), policy)(item.record.question, passages))
    best = {p.text: p.score for p in BM25Retriever(item.passages, k=len(item.passages))(item.record.question)}
    scored = [type(p)(p.text, best.get(p.text, 0.0)) for p in item.passages]
    return tuple(as_highlighter(name)(item.record.question, scored))


def prompt_of(item: Item, variant: Variant) -> Prompt:
    """The text of an item as the variant lays it out."""
    spans = highlights(item, variant.highlight)
    if not variant.marked:
        return item.prompt(spans, before=variant.before)
    passages = [_asterisked(Prompt(t, s)) for t, s in zip(item.record.passages, spans, strict=True)]
    return item.around(passages, variant.before)


def tokens_of(model: SteeredModel, item: Item, variant: Variant) -> TokenizedPrompt:
    """The prompt as tokens, through the chat template where there is one and the item wants it."""
    prompt = prompt_of(item, variant)
    if item.chat and model.tokenizer.chat_template:
        return model.tokenize_chat([{"role": "user", "content": prompt}])
    return model.tokenize(prompt)


def first_scores(model: SteeredModel, items: Sequence[Item], variant: Variant) -> Tensor:
    """Log-probabilities ``[B, V]`` of the token that follows each item's opening."""
    prompts = [_opened(model, item, tokens_of(model, item, variant)) for item in items]
    seen = _Scores()
    model.generate(prompts, steering=variant.steering, max_new_tokens=1, logits_processor=[seen])
    assert seen.scores is not None
    return seen.scores


def plain_scores(model: SteeredModel, texts: Sequence[str]) -> Tensor:
    """Log-probabilities ``[B, V]`` of the token that follows each text, by the plain model."""
    seen = _Scores()
    model.generate(list(texts), steering=None, max_new_tokens=1, logits_processor=[seen])
    assert seen.scores is not None
    return seen.scores


def first_outcome(model: SteeredModel, item: Item, scores: Tensor, plain: Tensor) -> Outcome:
    """What one row of scores ``[V]`` tells beside those of the plain model.

    ``margin`` is the log-probability of the likeliest right first token less that of the likeliest other one, ``first``
    whether it is above 0, ``top`` whether the likeliest token of all is a right one, ``kl`` KL(plain, this), in nats.
    ``top3``: at most two other answers are likelier, where there are more than two.
    """
    assert item.opening is not None
    found: Outcome = {"kl": max(0.0, round(float((plain.exp() * (plain - scores)).sum()), 6))}
    right, other = opening_tokens(model, item.opening)
    if right:
        found["top"] = int(scores.argmax()) in right
    if right and other:
        margin = float(scores[list(right)].max() - scores[list(other)].max())
        found |= {"margin": round(margin, 6), "first": margin > 0}
        names = dict.fromkeys(answer.lower() for answer in item.opening.other)
        if len(names) > 2:
            best = float(scores[list(right)].max())
            found["top3"] = sum(_likelier(model, item.opening, name, right, scores, best) for name in names) < 3
    return found


def _likelier(model: SteeredModel, opening: Opening, name: str, right: set[int], scores: Tensor, best: float) -> bool:
    """Whether an answer in any of its forms is likelier than the right one."""
    forms = tuple(answer for answer in opening.other if answer.lower() == name)
    tokens = opening_tokens(model, replace(opening, right=forms, other=()))[0] - right
    return bool(tokens) and float(scores[list(tokens)].max()) > best


def opening_tokens(model: SteeredModel, opening: Opening) -> tuple[set[int], set[int]]:
    """The first tokens of right and of other answers; a token of both is of neither."""
    if opening.spaced:
        right, other = (first_tokens(model.tokenizer, opening.text, a) for a in (opening.right, opening.other))
    else:
        right, other = (
            {ids[0] for a in answers if (ids := model.tokenizer(a, add_special_tokens=False)["input_ids"])}
            for answers in (opening.right, opening.other)
        )
    return right - other, other - right


def answers(model: SteeredModel, items: Sequence[Item], variant: Variant) -> list[Outcome]:
    """Greedy answers of one batch, judged.

    ``right`` as the record says, ``other`` whether it contains an answer that a right one must not, ``abstains``,
    ``stopped`` whether it ended by itself, ``words``, ``repetition`` of word 3-grams, and their ``entropy``; ``P`` and
    ``AP`` (``pronouns_changed``) where the answer is to rewrite a text.
    """
    asked = [tokens_of(model, item, variant) for item in items]
    prompts = [_opened(model, item, p) if item.continues else p for item, p in zip(items, asked, strict=True)]
    outs = model.generate(
        prompts,
        steering=variant.steering,
        max_new_tokens=max(item.new_tokens for item in items),
        stop=end_texts(model.tokenizer, all(item.chat for item in items)),
    )
    found = []
    for item, out in zip(items, outs, strict=True):
        text, record = out.text.strip(), item.record
        against = (
            [] if record.gold_context_answer == () else [*record.remembered, *record.meta.get("other_answers", ())]
        )
        against = [a for a in against if not contains_answer(" / ".join(record.gold_context_answer), [a])]
        found.append(
            {
                "right": record.is_right(text),
                **({"other": contains_answer(text, against)} if against else {}),
                "abstains": abstains(text),
                "stopped": out.finish_reason == "stop",
                "words": length(text),
                "repetition": round(repetition(text), 6),
                "entropy": round(entropy(text), 6),
                **({} if item.rewrites is None else _rewritten(item.rewrites, text)),
                "text": text,
            }
        )
    return found


def _rewritten(original: str, text: str) -> Outcome:
    return {
        name: round(pronouns_changed(original, text, every=every), 6) for name, every in (("P", False), ("AP", True))
    }


class _Scores:
    """Among the logits processors, it keeps the first scores."""

    scores: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.scores is None:
            self.scores = scores.float().log_softmax(-1).cpu()
        return scores


def _opened(model: SteeredModel, item: Item, prompt: TokenizedPrompt) -> TokenizedPrompt:
    assert item.opening is not None
    chat = item.chat and model.tokenizer.chat_template
    text = item.opening.text if chat or not item.opening.text else f" {item.opening.text}"
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    end = prompt.offsets[-1][1]
    return TokenizedPrompt(
        [*prompt.ids, *ids], [*prompt.weights, *[0.0] * len(ids)], [*prompt.offsets, *[(end, end)] * len(ids)]
    )


def _asterisked(passage: Prompt) -> Prompt:
    """The text with its highlights between ``**``, as plain text."""
    parts, done = [], 0
    for span in sorted(passage.spans):
        if span.start >= done:
            parts += [passage.text[done : span.start], "**", passage.text[span.start : span.end], "**"]
            done = span.end
    return Prompt("".join([*parts, passage.text[done:]]))
