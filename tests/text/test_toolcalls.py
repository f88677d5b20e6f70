"""Tool calls in text: the forms that models write, read back; what is not one is said to be invalid."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seka_rag.text.toolcalls import FORMATS, ToolCall, as_tool_call, choose, format_of

NAMED, MISTRAL, HERMES, LLAMA = FORMATS
TEMPLATES = {
    "hermes": '... {"name": <function-name>} within <tool_call></tool_call> ...',
    "llama3": 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}',
    "mistral": "{{ '[TOOL_CALLS] [' }}",
    "mistral with names": "{{ '[TOOL_CALLS]' + name + '[ARGS]' }}",
}


def simple(read):
    return read.content, [(c.name, c.arguments) for c in read.calls], [i.error for i in read.invalid]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_form_is_known_from_the_template(name):
    assert format_of(TEMPLATES[name]).name == name


@pytest.mark.parametrize("template", ["{{ messages }}", "<tool_call><function=name>", "<tool_call>name<arg_key>", ""])
def test_other_forms_are_not_taken_for_one_of_these(template):
    assert format_of(template) is None


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        (
            HERMES,
            'I look.\n<tool_call>\n{"name": "a", "arguments": {"x": 1}}\n</tool_call>',
            "I look.",
            [("a", {"x": 1})],
        ),
        (
            HERMES,
            '<tool_call>{"name": "a", "arguments": {}}</tool_call>\n<tool_call>{"name": "b", "arguments": {}}</tool_call>',
            "",
            [("a", {}), ("b", {})],
        ),
        (  # marks inside a string of JSON are part of the string
            HERMES,
            '<tool_call>{"name": "a", "arguments": {"x": "</tool_call><tool_call>"}}</tool_call> done',
            "done",
            [("a", {"x": "</tool_call><tool_call>"})],
        ),
        (HERMES, '<tool_call>{"name": "a", "arguments": {}}', "", [("a", {})]),
        (HERMES, "No call here, 1 < 2.", "No call here, 1 < 2.", []),
        (HERMES, '{"name": "a", "arguments": {}}', '{"name": "a", "arguments": {}}', []),
        (LLAMA, '{"name": "a", "parameters": {"x": "y"}}', "", [("a", {"x": "y"})]),
        (LLAMA, '{"type": "function", "name": "a", "parameters": {}}', "", [("a", {})]),
        (LLAMA, '<|python_tag|>{"name": "a", "parameters": {}}', "", [("a", {})]),
        (LLAMA, '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}', "", [("a", {}), ("b", {})]),
        (LLAMA, '{"answer": 3}', '{"answer": 3}', []),
        (
            MISTRAL,
            '[TOOL_CALLS] [{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]',
            "",
            [("a", {}), ("b", {})],
        ),
        (NAMED, 'Well.[TOOL_CALLS]a[ARGS]{"x": 1}[TOOL_CALLS]b[ARGS]{}', "Well.", [("a", {"x": 1}), ("b", {})]),
        (NAMED, "[TOOL_CALLS]a[CALL_ID]123456789[ARGS]{}", "", [("a", {})]),
        (NAMED, '[TOOL_CALLS]ns:a.b-c[ARGS]{"x": 1}', "", [("ns:a.b-c", {"x": 1})]),
    ],
)
def test_reading(form, text, content, calls):
    assert simple(form.read(text)) == (content, calls, [])


@pytest.mark.parametrize(
    ("form", "text", "error"),
    [
        (HERMES, '<tool_call>{"name": "a", "arguments": {"x": </tool_call>', "not JSON"),
        (HERMES, '<tool_call>{"name": "a", "arguments": "{}"}</tool_call>', "must be a JSON object, not str"),
        (HERMES, '<tool_call>{"name": "a"}</tool_call>', "must be a JSON object"),
        (HERMES, '<tool_call>{"arguments": {}}</tool_call>', "no name"),
        (HERMES, "<tool_call>[1]</tool_call>", "not int"),
        (HERMES, '<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>', "NaN"),
        (HERMES, "<tool_call>" + '{"a":' * 100_000, "nested"),
        (LLAMA, '<|python_tag|>search.call(query="x")', "not JSON"),
        (LLAMA, '{"name": "a", "parameters": {"x": 1', "not JSON"),
        (MISTRAL, '[TOOL_CALLS][{"name": "a", "argum', "not JSON"),
        (NAMED, '[TOOL_CALLS]a[ARGS]{"x": ', "not JSON"),
    ],
)
def test_what_is_not_a_call_is_invalid(form, text, error):
    read = form.read(text)
    assert (read.content, read.calls) == ("", ())
    assert error in read.invalid[0].error


def test_an_invalid_call_beside_a_valid_one():
    read = HERMES.read('<tool_call>{"name"</tool_call> and <tool_call>{"name": "b", "arguments": {}}</tool_call>')
    assert simple(read)[:2] == ("and", [("b", {})])
    assert [i.text for i in read.invalid] == ['{"name"']


def test_ids():
    read = NAMED.read("[TOOL_CALLS]a[CALL_ID]123456789[ARGS]{}[TOOL_CALLS]a[ARGS]{}")
    assert read.calls[0].id == "123456789"
    assert len(read.calls[1].id) == 9
    assert read.calls[1].id.isalnum()


@given(
    st.sampled_from(FORMATS),
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
            st.dictionaries(
                st.text(max_size=5), st.one_of(st.text(max_size=20), st.integers(), st.lists(st.booleans()))
            ),
        ),
        min_size=1,
        max_size=3,
    ),
)
@example(form=LLAMA, calls=[("a", {"": "<|python_tag|>"})])
def test_what_is_written_is_read(form, calls):
    if form.bare:  # without a marker there is one call
        calls = calls[:1]
    text = ""
    for name, arguments in calls:
        for piece in form.pieces(name, {}):
            is_call = isinstance(piece, dict) and "properties" in piece
            value = {"name": name, form.key: arguments} if is_call else arguments
            text += piece if isinstance(piece, str) else json.dumps(value)
    if form is NAMED:
        text = "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in calls)
    read = form.read(text)
    assert ([(c.name, c.arguments) for c in read.calls], read.invalid) == (calls, ())
    assert not read.content


@given(st.sampled_from(FORMATS), st.text('ab <tol_c>[]{}TAGSRLC\n"', max_size=30), st.integers(0, 30))
def test_what_is_shown_early_is_how_the_content_begins(form, text, n):
    assert form.read(text).content.startswith(form.visible(text[:n]))


def test_calls_of_earlier_turns():
    call = ToolCall("a", {"x": 1}, "123456789")
    for value in (
        call,
        {"name": "a", "arguments": {"x": 1}, "id": "123456789"},
        {"id": "123456789", "type": "function", "function": {"name": "a", "arguments": {"x": 1}}},
        {"id": "123456789", "type": "function", "function": {"name": "a", "arguments": '{"x": 1}'}},
    ):
        assert as_tool_call(value) == call
    for wrong in ("a", {"name": "a"}, {"name": 3, "arguments": {}}, {"function": "a"}, {"name": "a", "arguments": "{"}):
        with pytest.raises(ValueError):
            as_tool_call(wrong)


def test_choices():
    tools = [{"type": "function", "function": {"name": name}} for name in "ab"]
    assert choose(tools, "auto") == choose(tools, "none") == []
    assert choose(tools, "any") == choose(tools, "required") == tools
    assert choose(tools, "b") == tools[1:]
    with pytest.raises(ValueError, match=r"'auto', 'any', 'none' or the name of a tool \(a, b\)"):
        choose(tools, "c")
    with pytest.raises(ValueError, match="a tool is"):
        choose([{"name": "a"}], "a")
