"""Clients of OpenAI work as they are: what they echo, leave null, list, count and stream."""

from __future__ import annotations

import json
import math

import pytest
import torch
from openai import BadRequestError, NotFoundError, OpenAI
from serving import web

from seka_rag import Prompt, Seka

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
EVIDENCE = "The home of Alec is in Lyon."
QUESTION = " Which city is the home of Alec?"
TEXT = EVIDENCE + QUESTION
MESSAGES = [{"role": "user", "content": TEXT}]
SAMPLING = {"temperature": 1.5, "seed": 3}


@pytest.fixture(scope="module")
def client(url):
    return OpenAI(base_url=url, api_key="none", max_retries=0)


def test_an_answer_is_echoed_as_it_came(client, demo):
    first = client.chat.completions.create(model="seka-demo", messages=MESSAGES, max_tokens=4)
    echoed = {**first.choices[0].message.model_dump(), "reasoning_content": "A city?"}  # of a model that thinks
    assert None in echoed.values()
    history = [*MESSAGES, echoed, {"role": "user", "content": "Where is Maud?"}]
    second = client.chat.completions.create(model="seka-demo", messages=history, max_tokens=4)
    local = [*MESSAGES, {"role": "assistant", "content": echoed["content"]}, history[-1]]
    assert second.usage.prompt_tokens == len(demo.tokenize_chat(local))
    assert second.choices[0].message.content == demo.chat(local, max_new_tokens=4).text


def test_one_model(client, demo):
    assert client.models.retrieve("seka-demo").max_model_len == 2048
    with pytest.raises(NotFoundError) as caught:
        client.models.retrieve("org/other")
    assert (caught.value.param, caught.value.code) == ("model", "ModelNotFoundError")


def test_errors_of_the_sdk_say_the_field(client):
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model="seka-demo", messages=[{"role": "root", "content": "x"}])
    assert (caught.value.param, caught.value.type) == ("messages[0].role", "invalid_request_error")


class TestSeveralAnswers:
    def test_sampled(self, client, demo):
        answer = client.chat.completions.create(model="seka-demo", messages=MESSAGES, max_tokens=12, n=3, **SAMPLING)
        texts = [choice.message.content for choice in answer.choices]
        assert texts == [g.text for g in demo.generate(demo.tokenize_chat(MESSAGES), max_new_tokens=12,
                                                       num_return_sequences=3, **SAMPLING)]  # fmt: skip
        assert len(set(texts)) > 1
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage.completion_tokens == sum(
            g.completion_tokens
            for g in demo.generate(demo.tokenize_chat(MESSAGES), max_new_tokens=12, num_return_sequences=3, **SAMPLING)
        )

    def test_greedy_ones_are_equal(self, client):
        answer = client.completions.create(model="seka-demo", prompt="Alec", max_tokens=4, n=2)
        first, second = answer.choices
        assert first.text == second.text
        assert (first.index, second.index) == (0, 1)

    @pytest.mark.parametrize("options", [SAMPLING, {}])
    def test_streamed(self, client, options):
        options = {"model": "seka-demo", "messages": MESSAGES, "max_tokens": 8, "n": 2, **options}
        whole = client.chat.completions.create(**options)
        texts, reasons = {0: "", 1: ""}, {}
        for chunk in client.chat.completions.create(stream=True, **options):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
        assert [texts[0], texts[1]] == [choice.message.content for choice in whole.choices]
        assert [reasons[0], reasons[1]] == [choice.finish_reason for choice in whole.choices]


class TestLogprobs:
    def scores(self, demo, tokens, ids):
        """Log-probabilities of each of the ids, by one pass over everything."""
        with torch.no_grad():
            logits = demo.hf_model(torch.tensor([tokens + ids])).logits[0]
        return logits.log_softmax(-1)[len(tokens) - 1 : -1]

    def test_chat(self, client, demo):
        answer = client.chat.completions.create(
            model="seka-demo", messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=2
        )
        content = answer.choices[0].logprobs.content
        assert "".join(entry.token for entry in content).strip() == answer.choices[0].message.content
        assert len(content) == answer.usage.completion_tokens
        ids = [demo.tokenizer(entry.token, add_special_tokens=False)["input_ids"] for entry in content]
        scores = self.scores(demo, demo.tokenize_chat(MESSAGES).ids, [i for (i,) in ids])
        for entry, (token,), row in zip(content, ids, scores, strict=True):
            assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
            assert entry.bytes == list(entry.token.encode())
            best = row.topk(2)
            assert [t.logprob for t in entry.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
            assert [t.token for t in entry.top_logprobs] == [demo.tokenizer.decode([i]) for i in best.indices.tolist()]

    def test_steering_changes_them(self, client):
        def first(steering):
            seka = {"spans": [{"message": 0, "start": 0, "end": len(EVIDENCE)}], "steering": steering}
            answer = client.chat.completions.create(
                model="seka-demo", messages=MESSAGES, max_tokens=1, logprobs=True, extra_body={"seka": seka}
            )
            return answer.choices[0].logprobs.content[0].logprob

        assert first(None) == first({"method": "Seka", "gain": 0}) != first({"method": "Seka", "gain": 2})

    def test_completions(self, client):
        answer = client.completions.create(
            model="seka-demo", prompt="Alec", max_tokens=3, logprobs=1, extra_body={"repetition_penalty": 5.0}
        )
        told = answer.choices[0].logprobs
        assert "".join(told.tokens) == answer.choices[0].text
        assert told.text_offset == [0, len(told.tokens[0]), len(told.tokens[0] + told.tokens[1])]
        for token, value, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
            assert top == {token: pytest.approx(value)}  # greedy

    def test_streamed_and_several(self, client):
        options = {"model": "seka-demo", "messages": MESSAGES, "max_tokens": 6, "logprobs": True}
        whole = client.chat.completions.create(**options).choices[0].logprobs.content
        chunks = client.chat.completions.create(stream=True, **options)
        streamed = [e for c in chunks for choice in c.choices if choice.logprobs for e in choice.logprobs.content]
        assert [(e.token, e.logprob) for e in streamed] == [(e.token, e.logprob) for e in whole]
        several = client.chat.completions.create(n=2, **SAMPLING, **options)
        for choice in several.choices:
            assert "".join(e.token for e in choice.logprobs.content).strip() == choice.message.content

    def test_what_a_grammar_bars_is_a_number_in_json(self, post):
        form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["Oslo"]}}}
        body = {"messages": MESSAGES, "max_tokens": 8, "response_format": form, "logprobs": True, "top_logprobs": 5}
        content = post("/chat/completions", body).json()["choices"][0]["logprobs"]["content"]
        values = [t["logprob"] for entry in content for t in entry["top_logprobs"]]
        assert min(values) == -9999.0
        assert all(map(math.isfinite, values))


class TestResponses:
    def test_text(self, client, demo):
        answer = client.responses.create(model="seka-demo", input=TEXT, max_output_tokens=4)
        local = demo.chat(MESSAGES, max_new_tokens=4)
        assert (answer.output_text, answer.status) == (local.text, "completed")
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (local.prompt_tokens, local.completion_tokens)

    def test_messages_instructions_and_highlights(self, client, demo):
        first = {"role": "user", "content": [{"type": "input_text", "text": EVIDENCE, "highlight": True}]}
        seka = {"spans": [{"message": 2, "start": 1, "end": 6}], "steering": {"method": "Seka", "gain": 2}}
        items = [first, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": QUESTION}]
        answer = client.responses.create(
            model="seka-demo", input=items, instructions="Be short.", max_output_tokens=4, extra_body={"seka": seka}
        )
        local = demo.chat(
            [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": Prompt(EVIDENCE).mark(0, len(EVIDENCE))},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": Prompt(QUESTION).mark(1, 6)},
            ],
            max_new_tokens=4,
            steering=Seka(gain=2),
        )
        assert answer.output_text == local.text
        report = dict(answer.seka)
        assert [(m["message"], m["end"]) for m in report.pop("highlights")] == [(0, len(EVIDENCE)), (2, 6)]
        assert report == local.report.as_dict()
        again = client.responses.create(
            model="seka-demo", input=[*items, *answer.output, items[-1]], instructions="Be short.", max_output_tokens=1
        )
        assert again.usage.input_tokens > local.prompt_tokens

    def test_streamed(self, client):
        options = {"model": "seka-demo", "input": TEXT, "max_output_tokens": 4}
        whole = client.responses.create(**options)
        events = list(client.responses.create(stream=True, **options))
        assert [e.sequence_number for e in events] == list(range(len(events)))
        kinds = [e.type for e in events]
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-4:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
        assert events[-1].response.output_text == whole.output_text
        with client.responses.stream(model="seka-demo", input=TEXT, max_output_tokens=4) as stream:
            assert stream.get_final_response().output_text == whole.output_text

    def test_forms_and_ends(self, client):
        form = {"type": "json_schema", "name": "a", "schema": {"enum": ["Oslo", "Lyon"]}}
        answer = client.responses.create(model="seka-demo", input=TEXT, text={"format": form}, max_output_tokens=20)
        assert json.loads(answer.output_text) in ("Oslo", "Lyon")
        cut = client.responses.create(model="seka-demo", input="Alec", max_output_tokens=1)
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"input": []}, "input"),
            ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
            ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].type"),
            ({"tools": [{"type": "web_search"}]}, "tools"),
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
            ({"max_output_tokens": 5000}, "max_output_tokens"),
            ({"seka": {"spans": [{"message": 1, "start": 0, "end": 1}]}}, "seka.spans[0].message"),
        ],
    )
    def test_what_it_does_not_do(self, post, fields, field):
        answer = post("/responses", {"input": "Alec", **fields})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


class TestTemplateOptions:
    @pytest.fixture
    def thinking(self, demo, monkeypatch):
        template = (
            demo.tokenizer.chat_template + "{% if enable_thinking is false %}<think></think>{% endif %}{{ tone }}"
        )
        monkeypatch.setattr(demo.tokenizer, "chat_template", template)

    def test_they_reach_the_template(self, post, demo, thinking):
        off = {"enable_thinking": False, "tone": "calm"}
        body = {"messages": MESSAGES, "chat_template_kwargs": off}
        answer = post("/chat/completions", {**body, "max_tokens": 1}).json()
        local = demo.tokenize_chat(MESSAGES, **off)
        assert answer["usage"]["prompt_tokens"] == len(local) > len(demo.tokenize_chat(MESSAGES))
        assert post("/../tokenize", body).json()["tokens"] == local.ids

    @pytest.mark.parametrize(
        "options",
        [
            {"chat_template": "{{ 1 }}"},
            {"tokenize": False},
            {"messages": 1},
            {"eos_token": "x"},
            {"bos_token": "x"},
            {"add_generation_prompt": False},
            {"unknown": 1},
            {"tone": "<|im_end|>"},
            {"tone": "a\nb"},
            {"tone": "x" * 65},
            {"tone": []},
        ],
    )
    def test_what_is_refused(self, post, thinking, options):
        answer = post("/chat/completions", {"messages": MESSAGES, "max_tokens": 1, "chat_template_kwargs": options})
        assert (answer.status_code, "chat_template_kwargs" in answer.json()["error"]["param"]) == (400, True)


def test_tokenize_has_the_limits_of_answers(url):
    address = url.removesuffix("/v1") + "/tokenize"
    for body in ({"prompt": "a", "seka": {"spans": [{"start": 0, "end": 1}] * 257}}, {"prompt": "a", "model": "other"}):
        assert web.post(address, json=body).status_code in (400, 404)
