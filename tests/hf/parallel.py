"""One of several processes among which tiny models are split by heads: ``torchrun parallel.py FOLDER``, for test_parallel."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, DistributedConfig

from seka_rag import AdaSeka, ExpertBank, KeyBias, KeyScaling, Seka, load_bank, route, steer
from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.find import find_key_sites

IDS = torch.stack([torch.arange(30, 54), torch.arange(81, 105)])
MASK = torch.zeros(2, 24)
MASK[0, [3, 4, 10]] = MASK[1, 7] = 1
FAMILIES = ("llama", "qwen3", "phi3")


def results(model, bank, experts):
    """Everything that is compared between one process and several."""
    method, found = AdaSeka(gain=1.5), {}
    with torch.no_grad():
        with steer(model, bank, MASK, Seka(gain=2.0)):
            found["seka"] = model(IDS).logits
        with steer(model, bank, MASK, Seka(gain=2.0)):
            found["generated"] = model.generate(
                IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, do_sample=False, eos_token_id=None
            )
        for form in ("constant", "mean", "request"):
            with steer(model, bank, MASK, KeyBias(bias=3.0, form=form, distances=(1, 24))):
                found[f"key bias, {form}"] = model(IDS).logits
        with steer(model, bank, MASK, KeyScaling(gain=2.0, fade=1)):
            cache = model(IDS, use_cache=True).past_key_values
            found["faded"] = model(IDS[:, :1], past_key_values=cache).logits
        with steer(model, experts, MASK, method):
            found["adaseka"] = model(IDS).logits
        routing = route(model, experts, method, IDS)
        with steer(model, experts, MASK, method, prepared=routing):
            found["adaseka, two passes"] = model(IDS, use_cache=False).logits
        found["plain"] = model(IDS).logits
    return found


def load(folder, **options):
    model = AutoModelForCausalLM.from_pretrained(folder / "model", **options).eval()
    experts = ExpertBank({name: load_bank(folder / name) for name in ("a", "b")})
    return model, load_bank(folder / "bank"), experts


def main(folder):
    for family in FAMILIES:
        model, *banks = load(folder / family, distributed_config=DistributedConfig(tp_plan="auto"))
        found = results(model, *banks)
        process, processes = find_key_sites(model).shard
        assert processes == 2
        if family != "phi3":  # whose fused projection is gathered again: each process sees all heads
            weight = model.model.layers[0].self_attn.k_proj.weight
            assert weight.to_local().shape[0] == 32  # two heads of four
        try:
            with steer(model, banks[0], MASK, Seka(gain=2.0)):
                model.generate_batch(
                    IDS.tolist(), continuous_batching_config=ContinuousBatchingConfig(allow_block_sharing=False)
                )
        except UnsupportedModelError as error:
            (folder / family / f"refused-{process}.txt").write_text(str(error), encoding="utf-8")
        torch.save(found, folder / family / f"results-{process}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
