"""GGUF files: the same model as before its conversion, with tokenizer and template, or a refusal that says why."""

from __future__ import annotations

import logging
import random

import gguf
import pytest
import torch
from gguf_files import TEMPLATE, TOKENS, write_gguf

from seka_rag import Prompt, Seka, SteeredModel
from seka_rag.errors import (
    MissingExtraError,
    ModelFileError,
    ModelNotFoundError,
    SettingError,
    TokenizationError,
)
from seka_rag.hf import gguf as reading
from seka_rag.hf import loading
from seka_rag.hf.gguf_header import GgufHeader
from seka_rag.hf.identity import identify
from seka_rag.hf.loading import load_model

IDS = torch.tensor([[5, 6, 7, 80, 90, 100, 101, 102, 103, 104, 105, 60]])


def test_the_logits_of_a_file_are_those_of_the_model_it_was_made_of(tmp_path):
    for kind in ("llama", "qwen2", "qwen3"):
        model = write_gguf(tmp_path / f"{kind}.gguf", kind)
        loaded = load_model(str(tmp_path / f"{kind}.gguf"), dtype=torch.float32)
        with torch.no_grad():
            assert torch.equal(loaded.hf_model(IDS).logits, model(IDS).logits), kind
        assert identify(loaded.hf_model).config_digest == identify(model).config_digest  # banks fit
        assert identify(loaded.hf_model).weights == identify(model).weights


@pytest.mark.parametrize(
    ("bfloat16", "accelerator", "options", "expected"),
    [
        (True, False, {}, torch.bfloat16),
        (True, False, {"dtype": "auto"}, torch.bfloat16),
        (False, False, {}, torch.float32),
        (False, True, {"dtype": "auto", "device": "cpu"}, torch.float32),
        (False, True, {"device_map": "cpu"}, torch.float32),
        (False, False, {"device_map": "auto"}, torch.float32),
        (False, False, {"dtype": torch.bfloat16}, torch.bfloat16),
        (False, True, {"device": "meta"}, torch.bfloat16),  # only the processor is slow with it
        (True, False, {"dtype": "float32"}, torch.float32),
    ],
)
def test_the_usual_dtype_is_one_that_the_processor_computes_with(
    tmp_path, monkeypatch, bfloat16, accelerator, options, expected
):
    write_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr(loading, "computes_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    assert load_model(str(tmp_path / "m.gguf"), **options).hf_model.dtype == expected


@pytest.mark.parametrize(
    ("machine", "amx", "expected"), [("x86_64", True, True), ("AMD64", False, False), ("arm64", False, True)]
)
def test_on_x86_bfloat16_is_faster_only_with_amx(monkeypatch, machine, amx, expected):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    assert loading.computes_bfloat16() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "float32"])
def test_weights_are_dequantised_to_the_given_dtype(tmp_path, dtype):
    kind = gguf.GGMLQuantizationType.Q4_1
    model = write_gguf(tmp_path / "m.gguf", quantise=kind, hidden_size=64)
    loaded = load_model(str(tmp_path / "m.gguf"), dtype=dtype).hf_model
    expected = torch.float32 if dtype == "float32" else dtype
    weight, found = (m.model.layers[1].mlp.up_proj.weight.detach() for m in (model, loaded))
    wanted = torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind)).to(expected)
    assert not torch.equal(wanted, weight.to(expected))
    assert torch.equal(found, wanted)


def test_it_is_a_plain_model_that_can_be_saved(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    loaded = load_model(str(tmp_path / "m.gguf"), dtype=torch.bfloat16)
    loaded.hf_model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"))
    assert again.hf_model.dtype == torch.bfloat16
    assert identify(again.hf_model) == identify(loaded.hf_model)
    with torch.no_grad():
        assert torch.equal(again.hf_model(IDS).logits, loaded.hf_model(IDS).logits)
    text = "in Lyon 1<|im_end|>"
    assert again.tokenizer(text).input_ids == loaded.tokenizer(text).input_ids
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template == TEMPLATE


def test_tokens_offsets_and_template_come_with_it(tmp_path, make_bank):
    write_gguf(tmp_path / "m.gguf")
    loaded = load_model(str(tmp_path / "m.gguf"), dtype=torch.float32)
    model = SteeredModel(loaded.hf_model, loaded.tokenizer, bank=make_bank(loaded.hf_model))
    text = "caf\xe9 in Lyon 1"
    tokens = model.tokenize(Prompt(text).highlight("Lyon"))
    marked = [TOKENS[i] for i, weight in zip(tokens.ids, tokens.weights, strict=True) if weight]
    assert marked == ["Lyon"]
    assert "".join(text[a:b] for (a, b), w in zip(tokens.offsets, tokens.weights, strict=True) if w) == "Lyon"
    chat = model.tokenize_chat([{"role": "user", "content": Prompt(text).highlight("Lyon")}])
    assert [TOKENS[i] for i in chat.ids].count("<|im_end|>") == 1
    report = model.generate(Prompt(text).highlight("Lyon"), steering=Seka(gain=1), max_new_tokens=1).report
    assert report.tokens_edited == 1


@pytest.mark.parametrize(("eos", "template", "ends"), [(2, TEMPLATE, 2), (0, TEMPLATE, [0, 2]), (0, None, 0)])
def test_answers_end_where_the_template_ends_a_turn(tmp_path, eos, template, ends):
    write_gguf(tmp_path / "m.gguf", eos=eos, template=template)
    assert load_model(str(tmp_path / "m.gguf")).hf_model.generation_config.eos_token_id == ends


def test_a_file_without_a_template_answers_prompts_but_no_chat(tmp_path):
    write_gguf(tmp_path / "m.gguf", template=None)
    loaded = load_model(str(tmp_path / "m.gguf"))
    model = SteeredModel(loaded.hf_model, loaded.tokenizer)
    assert model.generate("in Lyon", max_new_tokens=1).completion_tokens == 1
    with pytest.raises(TokenizationError, match="no chat template; give one Prompt"):
        model.chat([{"role": "user", "content": "Where?"}])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": "gptneox"}, r"architecture 'gptneox', cannot be read by transformers .*not supported"),
        ({"tokenizer": "rwkv"}, "tokenizer 'rwkv'"),
        (
            {"without": "blk.1.attn_k.weight"},
            r"lacks 1 tensors of the model, model\.layers\.1\.self_attn\.k_proj\.weight",
        ),
        ({"rows": len(TOKENS) - 3}, f"{len(TOKENS) - 3}, .*{len(TOKENS)}, .*do not belong together"),
        ({"rows": len(TOKENS) + 3}, "do not belong together"),
        ({"damage": lambda n, v: v * float("nan") if "blk.2.ffn_up" in n else v}, r"layers\.2.* no numbers"),
        ({"damage": lambda n, v: v[:-8] if "blk.2.ffn_up" in n else v}, r"layers\.2.*shape .*do not belong together"),
    ],
)
def test_a_foreign_or_incomplete_model_is_refused_with_the_reason(tmp_path, changes, says):
    write_gguf(tmp_path / "m.gguf", **changes)
    with pytest.raises(ModelFileError, match=says) as error:
        load_model(str(tmp_path / "m.gguf"))
    assert str(tmp_path / "m.gguf") in str(error.value)


def test_other_files_of_that_name_are_refused(tmp_path):
    path = tmp_path / "m.gguf"
    for content, says in [
        (b"", "it is empty"),
        (b"GGML\x03" + bytes(100), "is not a GGUF file"),
        (b"PK\x03\x04 a zip", "is not a GGUF file"),
        (b"GGUF\x09\x00\x00\x00" + bytes(100), "version 9"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "holds no language model"),
        (b"GGUF\x03", "damaged or cut off"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=says):
            load_model(str(path))
    for missing in (tmp_path / "none.gguf", tmp_path / "none" / "m.gguf", tmp_path):
        with pytest.raises(ModelNotFoundError, match=r"no GGUF file .*" if missing != tmp_path else "folder"):
            load_model(str(missing))


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    write_gguf(tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    assert GgufHeader.read(tmp_path / "whole.gguf").architecture == "llama"
    cut = tmp_path / "cut.gguf"
    for length in [*range(1, 4000, 37), len(content) // 2, len(content) - 200, len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="cut off|not a GGUF"):
            load_model(str(cut))


def test_a_damaged_header_never_ends_in_a_traceback(tmp_path):
    write_gguf(tmp_path / "whole.gguf")
    content, damaged = bytearray((tmp_path / "whole.gguf").read_bytes()), tmp_path / "damaged.gguf"
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(4, 3000)] = rng.choice((0, 9, 255, rng.randrange(256)))
        damaged.write_bytes(changed)
        try:
            GgufHeader.read(damaged)
        except ModelFileError:
            refused += 1
    assert refused > 30
    nested = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") * 2 + (1).to_bytes(8, "little") + b"k"
    damaged.write_bytes(
        nested + (9).to_bytes(4, "little") + ((9).to_bytes(4, "little") + (1).to_bytes(8, "little")) * 9999
    )
    with pytest.raises(ModelFileError, match="damaged"):
        GgufHeader.read(damaged)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    write_gguf(tmp_path / "m.gguf")
    for package in ("gguf", "accelerate"):
        monkeypatch.setattr(reading, "find_spec", lambda name, gone=package: None if name == gone else True)
        with pytest.raises(MissingExtraError, match=rf"{package} is not installed.*seka-rag\[gguf\]"):
            load_model(str(tmp_path / "m.gguf"))


def test_quantising_again_is_refused(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    with pytest.raises(SettingError, match="quantization_config"):
        load_model(str(tmp_path / "m.gguf"), quantization_config=object())


def test_a_bank_of_the_unquantised_model_is_used_and_the_report_says_so(tmp_path, make_bank):
    original = write_gguf(tmp_path / "m.gguf", quantise=gguf.GGMLQuantizationType.Q8_0, hidden_size=64)
    bank = make_bank(original)
    loaded = load_model(str(tmp_path / "m.gguf"), dtype=torch.float32)
    model = SteeredModel(loaded.hf_model, loaded.tokenizer, bank=bank)
    prompt = Prompt("in Lyon").highlight("Lyon")
    report = model.generate(prompt, steering=Seka(gain=1), max_new_tokens=1).report
    assert report.tokens_edited == 1
    (note,) = report.warnings
    assert "come from no GGUF file and the model has the weights of m.gguf: it is used" in note
    back = SteeredModel(original, loaded.tokenizer, bank=make_bank(loaded.hf_model))
    (note,) = back.generate(prompt, steering=Seka(gain=1), max_new_tokens=1).report.warnings
    assert "the weights of m.gguf and the model has weights that come from no GGUF file" in note


@pytest.mark.slow
def test_the_command_and_the_chains_take_a_file(tmp_path, monkeypatch):
    from langchain_seka import ChatSeka
    from llama_index.llms.seka import SekaLLM
    from typer.testing import CliRunner

    from seka_rag.cli import app

    monkeypatch.setenv("SEKA_RAG_CACHE", str(tmp_path / "cache"))
    path = str(tmp_path / "m.gguf")
    write_gguf(tmp_path / "m.gguf", pre="gpt-2", max_position_embeddings=4096)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("Ada lives in Lyon.")
    run = ["ask", "Where?", "--docs", str(tmp_path / "docs"), "--model", path, "--max-new-tokens", "2"]
    done = CliRunner().invoke(app, run, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "answer:" in done.output
    chat, llm = ChatSeka(model=path, max_tokens=1), SekaLLM(model=path, max_tokens=1)
    assert chat.engine.bank.digest == llm.engine.bank.digest


def test_rotary_scaling_that_is_not_read_is_no_secret(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    write_gguf(tmp_path / "m.gguf", more={"rope_freqs.weight": torch.ones(6).numpy()})
    load_model(str(tmp_path / "m.gguf"))
    assert "scales its rotary frequencies" in caplog.text
