import pytest
from tiny import demo_tokenizer

from seka_rag import Prompt
from seka_rag.errors import ProvenanceError, TokenizationError
from seka_rag.hf.chat import render_chat


@pytest.fixture
def chat_tokenizer():
    import copy

    return copy.deepcopy(demo_tokenizer())


def test_highlights_follow_their_message_through_the_template(chat_tokenizer):
    context = Prompt("Ada lives in Lyon. Ada lives in Lyon.").highlight("Ada lives in Lyon.", occurrence=1)
    messages = [
        {"role": "system", "content": "Ada lives in Lyon."},
        {"role": "user", "content": "Context: " + context + "\nWhere?"},
    ]
    chat = render_chat(chat_tokenizer, messages)
    assert chat.prompt.text == chat_tokenizer.apply_chat_template(
        [{**m, "content": str(m["content"])} for m in messages], tokenize=False, add_generation_prompt=True
    )
    (span,) = chat.prompt.spans
    assert chat.prompt.text[span.start : span.end] == "Ada lives in Lyon."
    assert chat.prompt.text.count("Ada lives in Lyon.", 0, span.start) == 2
    written = "".join(chat.prompt.text[a:b] for a, b in chat.template)
    assert "Ada" not in written
    assert written.count("<|im_start|>") == 3


def test_a_template_that_strips_is_followed(chat_tokenizer):
    chat_tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}"
    chat = render_chat(chat_tokenizer, [{"role": "user", "content": Prompt("  hello you ").highlight("you")}])
    assert chat.prompt.text == "[hello you]"
    assert chat.prompt.highlighted == ("you",)


def test_a_template_that_changes_content_is_refused(chat_tokenizer):
    chat_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(ProvenanceError):
        render_chat(chat_tokenizer, [{"role": "user", "content": Prompt("hello").highlight("hello")}])


def test_a_template_may_cut_the_models_own_thoughts(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' %}"
        "{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    chat = render_chat(
        chat_tokenizer,
        [
            {"role": "assistant", "content": "hm</think>yes"},
            {"role": "user", "content": Prompt("why").highlight("why")},
        ],
    )
    assert chat.prompt.text == "<assistant>yes<user>why"
    assert chat.prompt.highlighted == ("why",)


def test_no_template_and_refusals_are_errors(chat_tokenizer):
    chat_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TokenizationError, match="roles must alternate"):
        render_chat(chat_tokenizer, [{"role": "user", "content": "x"}])
    chat_tokenizer.chat_template = None
    with pytest.raises(TokenizationError, match="no chat template"):
        render_chat(chat_tokenizer, [{"role": "user", "content": "x"}])
