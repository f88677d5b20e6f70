"""SmolLM2 behind a server: its answers, reports and streams are those of the local model."""

from __future__ import annotations

import pytest
from openai import OpenAI
from serving import running

from seka_rag import Prompt, RemoteModel, Seka, SteeredModel

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.allow_hosts(["127.0.0.1"])]
FACT = "The canteen closes at 14:00 on Fridays."
TEXT = f"{FACT} Visitors sign in at the desk.\nWhen does the canteen close on Fridays?"
MESSAGES = [{"role": "user", "content": Prompt(TEXT).mark(0, len(FACT), source="note 1")}]
STEERING = Seka(gain=0.5)


def test_a_real_model(smollm2, make_bank):
    hf_model, tokenizer = smollm2
    near = SteeredModel(hf_model, tokenizer, bank=make_bank(hf_model, layers=[8, 20]), name="smollm2")
    wanted = near.chat(MESSAGES, steering=STEERING, max_new_tokens=10)
    assert wanted.report.tokens_edited > 0
    with running(near) as url:
        far = RemoteModel(url, max_retries=0)
        assert far.tokenize_chat(MESSAGES) == near.tokenize_chat(MESSAGES)
        assert far.chat(MESSAGES, steering=STEERING, max_new_tokens=10) == wanted
        stream = far.stream_chat(MESSAGES, steering=STEERING, max_new_tokens=10)
        assert ("".join(stream), stream.result) == (wanted.text, wanted)
        seka = {
            "spans": [{"message": 0, "start": 0, "end": len(FACT), "source": "note 1"}],
            "steering": {"method": "Seka", "gain": 0.5},
        }
        answer = OpenAI(base_url=url, api_key="none").chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": TEXT}],
            max_tokens=10,
            logprobs=True,
            extra_body={"seka": seka},
        )
    (choice,) = answer.choices
    assert choice.message.content == wanted.text
    assert "".join(entry.token for entry in choice.logprobs.content) == wanted.text
    assert answer.usage.prompt_tokens == wanted.prompt_tokens
