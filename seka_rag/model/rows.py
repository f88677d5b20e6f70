"""Calls of different origin as the rows of one batch: each has its own highlights, pieces of text, length and end."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from seka_rag.errors import GenerationTimeoutError
from seka_rag.hf.output import RowPieces, StopRows
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.model.call import Call
from seka_rag.model.decoder import Decoder
from seka_rag.model.generation import Generation
from seka_rag.model.steered import SteeredModel

Outcome = list[Generation] | Exception


def checked_call(model: SteeredModel, prompt: TokenizedPrompt, **options: object) -> Call:
    """A call that can wait until it is run: what can be wrong with it has been found.

    Raises:
        SekaError: as ``SteeredModel.generate``.
    """
    call = replace(Call.of(options, model.hf_model), prompts=[prompt])
    model._decoder.prepare(call)
    return call


def end_ids(model: SteeredModel) -> set[int]:
    """The tokens that end an answer, which are no part of it."""
    return model._decoder.end_ids


def row_key(call: Call) -> Hashable | None:
    """Calls with equal keys may be rows of one batch; None for a call that runs alone.

    Rows share the method, the stop strings and the options of transformers. A seed belongs to one call, and a grammar,
    tools and several answers to a prompt are left to calls of their own. Whether anything is highlighted is part of the
    key, so that a report says what it would say of the row alone. Lengths are alike within a factor of four: all rows are
    computed until the last one ends.
    """
    alone = call.seed is not None or call.json_schema is not None or call.tools or call.prefix is not None
    if alone or call.copies > 1 or len(call.prompts) != 1 or call.truncate != "error":
        return None
    highlighted = any(w > 0 for w in call.prompts[0].weights)
    length = (call.max_new_tokens.bit_length() + 1) // 2
    return repr((call.steering, call.stop_strings, sorted(call.generation.items()), highlighted, length))


def run_rows(model: SteeredModel, calls: Sequence[Call]) -> list[Outcome]:
    """The outcome of each call: its answers, or its error.

    Args:
        calls: one, or several with equal keys, whose prompts fit the context with the longest answer.
    """
    try:
        return [model._decoder.run(calls[0])] if len(calls) == 1 else _together(model._decoder, calls)
    except Exception as error:
        return [error] * len(calls)


def _together(decoder: Decoder, calls: Sequence[Call]) -> list[Outcome]:
    lengths = [call.max_new_tokens for call in calls]
    whole = replace(
        calls[0],
        prompts=[call.prompts[0] for call in calls],
        max_new_tokens=max(lengths),
        pieces=None,
        cancel=None,
        timeout=None,
    )
    prepared = decoder.prepare(whole)
    ends = StopRows(prepared.batch.input_ids.shape[1], lengths, [c.timeout for c in calls], [c.cancel for c in calls])
    options = {**prepared.options, "stopping_criteria": [*prepared.options["stopping_criteria"], ends]}
    if any(call.pieces for call in calls):
        emitters = [call.pieces or _nowhere for call in calls]
        options["streamer"] = RowPieces(prepared.form, whole.stop_strings, prepared.ends, emitters, lengths)
    sequences, report = decoder.generate(replace(prepared, options=options))
    answers = decoder.finish(prepared, sequences, report, lengths)
    outcomes: list[Outcome] = []
    for call, answer, over in zip(calls, answers, ends.over, strict=True):
        cut = over and answer.finish_reason == "length" and answer.completion_tokens < call.max_new_tokens
        late = GenerationTimeoutError(f"no answer of {decoder.name} within {call.timeout} seconds")
        outcomes.append(late if cut else [answer])
    return outcomes


def _nowhere(piece: str) -> None: ...
