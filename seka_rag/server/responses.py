"""The form of ``/v1/responses``: one message of text, whole or as typed events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence

from seka_rag.model.generation import Generation
from seka_rag.server.answers import event
from seka_rag.server.bodies import ResponsesBody
from seka_rag.server.errors import error_body
from seka_rag.server.scores import Scores


class Responses:
    """One response; nothing of it is stored."""

    def __init__(self, model: str, body: ResponsesBody) -> None:
        self.model, self.body = model, body
        self.id, self._message = f"resp_{secrets.token_hex(12)}", f"msg_{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._events = 0

    def whole(
        self, answers: Sequence[Generation], report: dict[str, object], scores: Scores | None
    ) -> dict[str, object]:
        (answer,) = answers
        cut = answer.finish_reason == "length"
        return {
            **self._head("incomplete" if cut else "completed"),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._item(answer.text, "incomplete" if cut else "completed")],
            "usage": {
                "input_tokens": answer.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": answer.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": answer.prompt_tokens + answer.completion_tokens,
            },
            "seka": report,
        }

    def begin(self) -> Iterator[bytes]:
        head = self._head("in_progress")
        yield self._event("response.created", response=head)
        yield self._event("response.in_progress", response=head)
        item = {**self._item("", "in_progress"), "content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place(), part=_part(""))

    def piece(self, text: str, scores: Scores | None) -> Iterator[bytes]:
        yield self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def end(
        self, answers: Sequence[Generation], report: dict[str, object], scores: Scores | None, *, streamed: bool
    ) -> Iterator[bytes]:
        whole = self.whole(answers, report, scores)
        text, item = answers[0].text, self._item(answers[0].text, str(whole["status"]))
        if not streamed and text:
            yield from self.piece(text, None)
        yield self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
        yield self._event("response.content_part.done", **self._place(), part=_part(text))
        yield self._event("response.output_item.done", output_index=0, item=item)
        yield self._event(f"response.{whole['status']}", response=whole)

    def failed(self, error: Exception) -> Iterator[bytes]:
        body = error_body(error)["error"]
        failure = {"code": body["code"], "message": body["message"]}
        yield self._event("error", code=body["code"], message=body["message"], param=body["param"])
        yield self._event("response.failed", response={**self._head("failed"), "error": failure})

    def _head(self, status: str) -> dict[str, object]:
        body = self.body
        form = body.text.format.model_dump(exclude_unset=True, by_alias=True)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text", **form}},
            "tool_choice": body.tool_choice,
            "tools": [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
        }

    def _item(self, text: str, status: str) -> dict[str, object]:
        return {
            "id": self._message,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(text)],
        }

    def _place(self) -> dict[str, object]:
        return {"item_id": self._message, "output_index": 0, "content_index": 0}

    def _event(self, name: str, **data: object) -> bytes:
        self._events += 1
        return event({"type": name, "sequence_number": self._events - 1, **data}, name)


def _part(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
