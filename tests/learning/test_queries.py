"""Mean queries are those of the last tokens of whole questions, and survive files and sums."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import byte_level_tokenizer, tiny_model

from seka_rag import KeyBias, ProjectionBank, Prompt, SteeredModel, learn_bank
from seka_rag.demo.trials import demo_triples
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.taps import tapped
from seka_rag.learning.queries import QuerySums, collect_queries, question_prompt
from seka_rag.learning.statistics import collect_statistics
from seka_rag.learning.statistics_files import load_statistics, merge_statistics, save_statistics

TRIPLES = demo_triples(11)


def alone(model, ids):
    """Layer -> the queries ``[Q, D]`` of the last token of one prompt."""
    sites, found = find_key_sites(model), {}

    def enter(_):
        for layer, module in sites.query_modules.items():
            yield module, lambda out, layer=layer: found.__setitem__(layer, sites.read_query(out)[0, -1].double())

    with torch.no_grad(), tapped(sites.decoder, enter):
        model(torch.tensor([ids]))
    return found


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "phi3", "lfm2", "gpt2"])
def test_the_mean_is_that_of_prompts_run_one_by_one(family, tokenizer):
    model = tiny_model(family)
    found = collect_queries(find_key_sites(model), tokenizer, TRIPLES)
    single = [alone(model, question_prompt(tokenizer, t, i % 2 == 1).ids) for i, t in enumerate(TRIPLES)]
    assert found.prompts == len(TRIPLES)
    assert set(found.sums) == set(single[0])
    mean = found.mean()
    for layer, q in mean.mean.items():
        wanted = torch.stack([s[layer] for s in single])
        assert torch.allclose(q.double(), wanted.mean(0), rtol=1e-4, atol=1e-5)
        assert torch.allclose(mean.power[layer].double(), wanted.square().sum(-1).mean(0), rtol=1e-4)
        assert (mean.focus(layer) <= 1 + 1e-6).all()


def test_prompts_end_where_an_answer_begins(tokenizer):
    plain = question_prompt(tokenizer, TRIPLES[0], chat=False)
    assert tokenizer.decode(plain.ids).replace(" :", ":").endswith("Answer:")
    chat = question_prompt(tokenizer, TRIPLES[0], chat=True)
    assert tokenizer.decode(chat.ids).rstrip().endswith("assistant")
    bare = byte_level_tokenizer().__class__(tokenizer_object=byte_level_tokenizer().backend_tokenizer)
    assert question_prompt(bare, TRIPLES[0], chat=True).ids == question_prompt(bare, TRIPLES[0], chat=False).ids


def test_a_learned_bank_has_them_and_can_be_biased(qwen3, tokenizer, tmp_path):
    bank = learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, best=0.5)
    wanted = collect_queries(find_key_sites(qwen3), tokenizer, TRIPLES).mean()
    assert all(torch.allclose(bank.queries.mean[i], wanted.mean[i]) for i in wanted.mean)
    again = ProjectionBank.load(bank.save(tmp_path / "bank"))
    model = SteeredModel(qwen3, tokenizer, bank=again)
    prompt = Prompt("Ada moved to Lyon last year. Where does Ada live?").highlight("moved to Lyon")
    report = model.generate(prompt, steering=KeyBias(bias=1.0), max_new_tokens=2).report
    assert (report.method, report.gain, report.heads) == ("KeyBias", 1.0, int((bank.ranks > 0).sum()))
    assert report.tokens_edited == report.tokens_marked > 0


def test_sums_are_added_and_kept_in_files(qwen3, tokenizer, tmp_path):
    from seka_rag.hf.identity import identify

    parts = [collect_statistics(qwen3, tokenizer, some) for some in (TRIPLES[:6], TRIPLES[6:])]
    files = [save_statistics(tmp_path / f"{i}.st", identify(qwen3), part) for i, part in enumerate(parts)]
    merged = merge_statistics(files)[1].queries
    both = parts[0].queries + parts[1].queries
    assert merged.prompts == both.prompts == 11
    assert all(torch.equal(merged.sums[i], both.sums[i]) for i in both.sums)
    assert all(torch.equal(merged.power[i], both.power[i]) for i in both.power)
    assert (QuerySums() + both).prompts == (both + QuerySums()).prompts == 11


def test_statistics_of_the_format_before_have_none(qwen3, tokenizer, tmp_path):
    from seka_rag.hf.identity import identify
    from seka_rag.learning import statistics_files
    from seka_rag.learning.learn import bank_from_statistics

    path = save_statistics(tmp_path / "s", identify(qwen3), collect_statistics(qwen3, tokenizer, TRIPLES[:4]))
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()["seka_statistics"])
        tensors = {n: file.get_tensor(n) for n in file.keys() if not n.startswith("query")}  # noqa: SIM118
    del header["prompts"]
    header |= {"format_version": 1, "sha256": statistics_files._digest(tensors)}
    save_file(tensors, path, {"seka_statistics": json.dumps(header)})
    model, old = load_statistics(path)
    assert old.queries.prompts == 0
    assert bank_from_statistics(model, old).queries is None


def test_a_family_without_known_queries_has_none(tokenizer):
    model = tiny_model("jetmoe")
    assert learn_bank(model, TRIPLES, tokenizer=tokenizer).queries is None
