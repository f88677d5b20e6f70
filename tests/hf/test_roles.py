"""Templates without a system role, or with roles that must alternate, answer all the same; highlights stay."""

from __future__ import annotations

import copy

import pytest
from tiny import demo_tokenizer

from seka_rag import Prompt
from seka_rag.errors import TokenizationError
from seka_rag.hf.chat import render_chat
from seka_rag.hf.roles import ALTERNATING, NO_SYSTEM

REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}"
)
LEAVES_OUT = "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}"


def rendered(template, *messages):
    tokenizer = copy.deepcopy(demo_tokenizer())
    tokenizer.chat_template = template
    return render_chat(tokenizer, [{"role": role, "content": content} for role, content in messages])


@pytest.mark.parametrize("template", [REFUSES, LEAVES_OUT])
def test_a_system_message_goes_into_the_users(template):
    chat = rendered(
        template, ("system", Prompt("Be short.").highlight("short")), ("user", Prompt("Ada?").highlight("Ada"))
    )
    assert chat.prompt.text == "[user: Be short.\n\nAda?]"
    assert chat.prompt.highlighted == ("short", "Ada")
    assert chat.warnings == (NO_SYSTEM,)


def test_neighbours_of_one_role_are_joined():
    chat = rendered(REFUSES, ("user", "Ada?"), ("user", Prompt("Now.").highlight("Now")), ("assistant", "Yes."))
    assert chat.prompt.text == "[user: Ada?\n\nNow.][assistant: Yes.]"
    assert chat.prompt.highlighted == ("Now",)
    assert chat.warnings == (ALTERNATING,)
    both = rendered(REFUSES, ("system", "Be short."), ("user", "Ada?"), ("user", "Now."))
    assert both.prompt.text == "[user: Be short.\n\nAda?\n\nNow.]"
    assert both.warnings == (NO_SYSTEM, ALTERNATING)


def test_what_no_form_mends_is_refused_in_its_own_words():
    with pytest.raises(TokenizationError, match="roles must alternate"):
        rendered(REFUSES, ("assistant", "Yes."), ("user", "Ada?"))


def test_a_template_with_all_roles_is_left_alone():
    chat = rendered(demo_tokenizer().chat_template, ("system", "Be short."), ("user", "Ada?"))
    assert chat.warnings == ()
