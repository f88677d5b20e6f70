"""A steered model in lm-evaluation-harness: plain it is the harness' own, steered it is what ``steer`` computes."""

import json

import pytest
import torch

from seka_rag import Prompt, Seka, Span, SteeredModel, steer
from seka_rag.errors import TokenizationError

lm_eval = pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from seka_rag.bench.harness import SteeredLM, by_paragraphs  # noqa: E402

CITIES = ("Lyon", "Lima", "Porto", "Cairo", "Oslo")
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: {kind}
doc_to_text: "Alan has a cat.\\n\\nAda moved to {{{{city}}}}.\\n\\nQuestion: Where does Ada live?\\nAnswer:"
"""
CHOICES = """doc_to_choice: "{{choices}}"
doc_to_target: "{{choices.index(city)}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ANSWERS = """doc_to_target: "{{city}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Two tasks in files of the harness: one of choices that are scored, one of generated answers."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [json.dumps({"city": city, "choices": list(CITIES)}) + "\n" for city in CITIES]
    (folder / "rows.jsonl").write_text("".join(rows))
    for name, kind, rest in (("choices", "multiple_choice", CHOICES), ("answers", "generate_until", ANSWERS)):
        text = TASK.format(name=f"seka_{name}", data=folder / "rows.jsonl", kind=kind) + rest
        (folder / f"{name}.yaml").write_text(text)
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def model():
    return SteeredModel.from_pretrained("seka-demo", dtype=torch.float32)


@pytest.fixture(scope="module")
def evaluate(tasks, tmp_path_factory):
    cache = tmp_path_factory.mktemp("datasets")

    def run(lm, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
            found = lm_eval.simple_evaluate(
                lm,
                tasks=["seka_choices", "seka_answers"],
                task_manager=tasks,
                log_samples=True,
                bootstrap_iters=0,
                **options,
            )
        return found["results"], {name: [s["resps"] for s in some] for name, some in found["samples"].items()}

    return run


@pytest.fixture(scope="module")
def plain(evaluate, model):
    return evaluate(HFLM(pretrained=model.hf_model, tokenizer=model.tokenizer, batch_size=3))


def prompt(city):
    return f"Alan has a cat.\n\nAda moved to {city}.\n\nQuestion: Where does Ada live?\nAnswer:"


def test_unsteered_it_is_the_harness_own_model_to_the_last_digit(evaluate, model, plain):
    for lm in (SteeredLM(model, None, batch_size=3), SteeredLM(model, Seka(gain=0.0), batch_size=3)):
        assert evaluate(lm) == plain
    assert evaluate(SteeredLM(model, Seka(gain=1.0), "off", batch_size=3)) == plain


def test_steered_scores_and_answers_are_those_of_steer(evaluate, model, plain):
    method = Seka(gain=1.0)
    lm = SteeredLM(model, method, batch_size=3)
    _, samples = evaluate(lm)
    assert samples != plain[1]
    assert lm.tokens_edited > 0
    for city, resps in zip(CITIES, samples["seka_choices"], strict=True):
        text = prompt(city)
        sentence = f"Ada moved to {city}."
        asked = Prompt(text, (Span(text.index(sentence), text.index(sentence) + len(sentence)),))
        assert lm.spans(text) == asked.spans
        tokens = model.tokenize(asked)
        for choice, [[score, _]] in zip(CITIES, resps, strict=True):
            more = model.tokenizer(f"{text} {choice}")["input_ids"][len(tokens) :]
            assert more
            ids = torch.tensor([[*tokens.ids, *more]])
            weights = torch.tensor([[*tokens.weights, *[0.0] * len(more)]])
            with torch.no_grad(), steer(model.hf_model, model.bank, weights, method):
                scores = model.hf_model(ids).logits[0, len(tokens) - 1 : -1].log_softmax(-1)
            assert score == pytest.approx(float(scores[range(len(more)), more].sum()), abs=1e-3)
    answers = model.generate([prompt(city) for city in CITIES], steering=None, max_new_tokens=8)
    assert [r[0][0].split("\n")[0] for r in plain[1]["seka_answers"]] == [a.text.split("\n")[0] for a in answers]
    steered = model.generate(
        [Prompt(prompt(c), lm.spans(prompt(c))) for c in CITIES], steering=method, max_new_tokens=8
    )
    assert [r[0][0] for r in samples["seka_answers"]] == [a.text.split("\n")[0] for a in steered]


def test_windows_of_a_longer_text_run_as_they_are(model):
    windows = [(None, [5], [6, 7, 8]), (None, [5, 6], [9])]
    own, ours = HFLM(pretrained=model.hf_model, tokenizer=model.tokenizer), SteeredLM(model, Seka(gain=1.0))
    assert ours._loglikelihood_tokens(windows, disable_tqdm=True) == own._loglikelihood_tokens(
        windows, disable_tqdm=True
    )


def test_highlights_go_through_a_chat_template(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "chat_template", "{% for m in messages %}[{{ m.content }}]{% endfor %}=")
    lm = SteeredLM(model, Seka(gain=1.0))
    history = [{"role": "user", "content": "Ada."}, {"role": "assistant", "content": "Yes."}]
    text = lm.apply_chat_template([*history, {"role": "user", "content": prompt("Lyon")}])
    assert text == f"[Ada.][Yes.][{prompt('Lyon')}]="
    assert [text[s.start : s.end] for s in lm.spans(text)] == ["Ada moved to Lyon."]


def test_a_prompt_that_the_harness_tokenizes_otherwise_is_an_error(model):
    lm = SteeredLM(model, Seka(gain=1.0))
    with pytest.raises(TokenizationError, match="tokenizes a prompt otherwise"):
        lm._weights(prompt("Lyon"), [1, 2, 3])
    ids = model.tokenizer(prompt("Lyon"))["input_ids"]
    assert lm._weights(prompt("Lyon"), ids[-5:]) == [0.0] * 5  # cut off on the left
    with pytest.raises(TokenizationError, match="a batch of other requests"):
        lm._by_row[(1, 2)] = [0.0, 0.0]
        lm._model_call(torch.tensor([[1, 3]]))


def test_paragraphs():
    assert by_paragraphs("") == ((0, 0), ())
    assert by_paragraphs("Which?") == ((0, 6), ())
    text = "\nOne\ntwo. \n \n\nThree.\n\nWhich? "
    (start, end), places = by_paragraphs(text)
    assert (text[start:end], [text[s:e] for s, e in places]) == ("Which?", ["One\ntwo.", "Three."])
