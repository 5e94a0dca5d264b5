"""transformers models on attention(): the eager path's logits, gradients and tokens, no N x N.

A padded token that sees nothing has output 0 here, and the average of all tokens in the eager path:
only real tokens are compared.
"""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.tiny import kept, shake
from wqkv.errors import EngineError, KindError

transformers = pytest.importorskip("transformers")
module = pytest.importorskip("wqkv.replace.use")
run, use = module.run, module.use

COMMON = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
SINKS = {**COMMON, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 5}
CONFIGS = {
    "llama": COMMON,
    "mistral": {**COMMON, "sliding_window": 5},
    "gemma2": {**COMMON, "sliding_window": 5, "query_pre_attn_scalar": 8},  # softcap 50
    "gpt_oss": SINKS,  # a window in every other layer
    "llama4_text": {
        **COMMON,
        "intermediate_size_mlp": 32,
        "attention_chunk_size": 5,
        "num_local_experts": 2,
    },
}


def tiny(kind: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**CONFIGS[kind], **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return shake(model.eval())


def batch() -> dict[str, Tensor]:
    """Three texts: padded at the left, at the right, and not."""
    ids = torch.randint(3, 101, (3, 17), generator=torch.Generator().manual_seed(2))
    tokens = torch.ones_like(ids)
    tokens[0, :4] = tokens[1, 13:] = 0
    return {"input_ids": ids, "attention_mask": tokens}


def agree(ours: Tensor, eager: Tensor, scale: float | None = None) -> None:
    """Equal but for roundings, of which a model makes some dozens, each of its largest number."""
    scale = float(eager.abs().max()) if scale is None else scale
    assert float((ours - eager).abs().max()) <= 64 * torch.finfo(eager.dtype).eps * scale


def logits(model, **inputs) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


# Switching


def test_use_switches_and_sdpa_switches_back(monkeypatch):
    model, inputs, calls = tiny("llama"), batch(), []
    attend = module.attend
    monkeypatch.setattr(module, "attend", lambda *a, **k: calls.append(k) or attend(*a, **k))
    model.set_attn_implementation("sdpa")
    before = logits(model, **inputs)
    assert use(model) is model
    assert model.config._attn_implementation == "wqkv"
    logits(model, **inputs)
    assert len(calls) == 2  # layers
    model.set_attn_implementation("sdpa")
    assert torch.equal(logits(model, **inputs), before)
    assert len(calls) == 2


def test_the_name_alone_is_enough():
    config = transformers.AutoConfig.for_model("llama", **COMMON)
    model = transformers.AutoModel.from_config(config, attn_implementation="wqkv")
    assert model(torch.tensor([[5, 7, 11]])).last_hidden_state.shape == (1, 3, 48)


@pytest.mark.process
def test_registered_on_import_alone():
    code = (
        "import sys, wqkv; assert 'transformers' not in sys.modules; import wqkv.replace.use; "
        "from transformers import AttentionInterface, AttentionMaskInterface as masks; "
        "print('wqkv' in AttentionInterface(), 'wqkv' in masks())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_other_models_are_refused():
    says = r"is a transformers model, not a Linear\.\n`wqkv\.convert\(model\)` .*`wqkv\.watch\("
    with pytest.raises(KindError, match=says):
        use(nn.Linear(2, 3))
    config = transformers.AutoConfig.for_model("bloom", hidden_size=16, n_head=2, n_layer=1)
    model = transformers.AutoModel.from_config(config)
    says = r"(?s)BloomModel cannot run on wqkv: .* of BloomModel does.*`wqkv\.watch\(model\)` looks"
    with pytest.raises(EngineError, match=says):
        use(model)
    assert model.config._attn_implementation != "wqkv"


def around(name: str, model: nn.Module) -> nn.Module:
    """A model inside what people put around models."""
    if name == "peft":
        peft = pytest.importorskip("peft")
        return peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules=["q_proj"]))
    if name == "compile":
        return torch.compile(model, backend="eager")
    return nn.DataParallel(model)


@pytest.mark.compile
@pytest.mark.parametrize("name", ["peft", "compile", "parallel"])
# peft 0.18 asks transformers 5 by a name that goes with its version 6
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_model_inside_others(name):
    model, inputs = tiny("llama"), batch()
    whole = around(name, model).eval()
    eager = logits(model, **inputs)[inputs["attention_mask"].bool()]
    assert use(whole) is whole
    assert model.config._attn_implementation == "wqkv"
    ours = whole(**inputs).logits.detach()
    agree(ours[inputs["attention_mask"].bool()], eager)


class Own(nn.Module):
    """Attention that asks nobody for a function, in a class whose name does not tell what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(24, 24) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(2, (3, 8)).mT for p in (self.q_proj, self.k_proj, self.v_proj))
        return nn.functional.scaled_dot_product_attention(q, k, v).mT.flatten(2)


class Mine(transformers.PreTrainedModel):
    config_class = transformers.PretrainedConfig
    layers: type[nn.Module] = Own

    def __init__(self, config) -> None:
        super().__init__(config)
        self.embed, self.attn = nn.Embedding(31, 24), nn.ModuleList([self.layers() for _ in "ab"])
        self.post_init()

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for layer in self.attn:
            x = x + layer(x)
        return x


class Nameless(Mine):
    layers = nn.Identity


def test_attention_that_does_not_come_here_is_named_in_the_first_forward():
    for kind, what in ((Mine, r"attn.0 \(Own\), attn.1 \(Own\)"), (Nameless, "all its modules")):
        model = use(kind(transformers.PretrainedConfig()).eval())
        for _ in range(2):
            with pytest.raises(
                EngineError,
                match=rf"(?s){kind.__name__} does not run on .* of {what} w.*`wqkv.watch\(model\)`",
            ):
                model(torch.tensor([[1, 2, 3]]))
        model.set_attn_implementation("eager")
        assert model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 24)


def test_the_check_is_over_when_all_attention_came():
    model = use(tiny("llama"))
    hooks = [len(part._forward_hooks) for part in model.modules()]
    assert sum(hooks) == 3
    logits(model, **batch())
    assert not any(part._forward_hooks for part in model.modules())
    model.model.layers[0].self_attn = Own()  # what comes later is not looked at
    assert not module._CHECKS or all(model not in check._names for check in module._CHECKS)


def test_a_part_that_runs_later_is_checked_then():
    """A model of two texts whose encoder runs alone first, and a module that runs in the second."""
    sizes = {"d_model": 24, "d_kv": 4, "num_heads": 6, "num_layers": 1, "d_ff": 29}
    config = transformers.T5Config(**sizes, vocab_size=31, decoder_start_token_id=1)
    model = use(transformers.T5Model(config).eval())
    ids = torch.tensor([[5, 7, 11]])
    encoded = model.encoder(ids)
    model.decoder.block[0].layer[1].EncDecAttention.forward = lambda hidden_states, **_: (
        hidden_states, None, None,
    )  # fmt: skip
    with pytest.raises(EngineError, match=r"of decoder.block.0.layer.1.EncDecAttention \(T5Atten"):
        model(encoder_outputs=encoded, decoder_input_ids=ids)


# The same answers


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits(kind):
    model, inputs = tiny(kind), batch()
    real = inputs["attention_mask"].bool()
    eager = logits(model, **inputs)[real]
    agree(logits(use(model), **inputs)[real], eager)


@pytest.mark.parametrize("kind", CONFIGS)
def test_gradients(kind):
    inputs = batch()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[0, 4] = -100  # read off the padded token before it

    def gradients(model) -> list[Tensor]:
        model(**inputs, labels=labels).loss.backward()
        return [x.grad for x in model.parameters() if x.grad is not None]

    eager, ours = gradients(tiny(kind).train()), gradients(use(tiny(kind)).train())
    assert len(ours) == len(eager) > 10
    scale = max(float(x.abs().max()) for x in eager)
    for pair in zip(ours, eager, strict=True):
        agree(*pair, scale)


def test_gradient_checkpointing():
    model, inputs = use(tiny("gpt_oss")).train(), batch()
    model(**inputs).logits.square().sum().backward()
    want = [x.grad for x in model.parameters() if x.grad is not None]
    for reentrant in (True, False):
        model.zero_grad()
        model._set_gradient_checkpointing(
            True,
            lambda f, *a, r=reentrant: torch.utils.checkpoint.checkpoint(f, *a, use_reentrant=r),
        )
        model(**inputs, use_cache=False).logits.square().sum().backward()
        got = [x.grad for x in model.parameters() if x.grad is not None]
        torch.testing.assert_close(got, want)


def test_half_precision():
    """Off from float32 by at most twice what the eager path is."""
    model, inputs = tiny("gpt_oss").bfloat16(), batch()
    real = inputs["attention_mask"].bool()
    eager = logits(model, **inputs)[real]
    ours = logits(use(model), **inputs)[real]
    model.float().set_attn_implementation("eager")
    exact = logits(model, **inputs)[real]
    assert ours.dtype == torch.bfloat16
    assert float((ours - exact).abs().max()) <= 2 * float((eager - exact).abs().max())


@pytest.mark.compile
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_compiled(kind):
    model, inputs = use(tiny(kind)), batch()
    real = inputs["attention_mask"].bool()
    want = logits(model, **inputs)[real]
    torch.testing.assert_close(logits(torch.compile(model, backend="eager"), **inputs)[real], want)


@pytest.mark.compile
def test_compiled_without_a_mask():
    """A plain causal mask is said by none: no N x N in the graph."""
    torch._dynamo.reset()  # after eight models of other tests it would run this one uncompiled
    model, ids, sizes = tiny("llama", num_attention_heads=2), batch()["input_ids"][:, :13], []
    eager = logits(model, input_ids=ids)

    def backend(graph, _):
        values = (node.meta.get("example_value") for node in graph.graph.nodes)
        sizes.extend(x.shape for x in tree_leaves(list(values)) if isinstance(x, Tensor))
        return graph.forward

    compiled = torch.compile(use(model), backend=backend, dynamic=False)
    agree(logits(compiled, input_ids=ids), eager)
    assert (3, 13, 48) in sizes
    assert not [size for size in sizes if size[-2:] == (13, 13)]


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_mask_of_the_callers(kind, dtype):
    model = tiny(kind)
    ids = batch()["input_ids"]
    seen = torch.ones(3, 1, 17, 17, dtype=torch.bool).tril()
    seen[:, :, 5:, 2] = False
    given = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    eager = logits(model, input_ids=ids, attention_mask=given)
    given = seen if dtype == torch.bool else given
    agree(logits(use(model), input_ids=ids, attention_mask=given), eager)


def test_packed_texts():
    model, ids = tiny("mistral"), batch()["input_ids"][:1]
    places = torch.tensor([[*range(8), *range(9)]])
    apart = [logits(model, input_ids=part) for part in (ids[:, :8], ids[:, 8:])]
    ours = logits(use(model), input_ids=ids, position_ids=places, use_cache=False)
    torch.testing.assert_close(ours, torch.cat(apart, dim=1))


# Generated tokens


CACHES = {
    "growing": {},
    "static": {"cache_implementation": "static"},
    "none": {"use_cache": False},
    "beams": {"num_beams": 3},
}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_generate(kind, cache):
    """Greedy tokens past the window; the growing and static caches hold a window where one is."""
    model, inputs = tiny(kind), batch()
    inputs = {name: x[[0, 2], :11] for name, x in inputs.items()}
    found = {}
    for name in ("eager", "wqkv"):
        model.set_attn_implementation(name)
        found[name] = model.generate(
            **inputs,
            **CACHES[cache],
            max_new_tokens=9,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert torch.equal(found["wqkv"].sequences, found["eager"].sequences)
    torch.testing.assert_close(found["wqkv"].logits, found["eager"].logits, rtol=1e-4, atol=1e-4)


def test_a_growing_cache_without_windows():
    """All keys are held, and the layers' windows hide the early ones."""
    model, inputs = tiny("mistral"), batch()
    inputs = {name: x[[0, 2], :11] for name, x in inputs.items()}
    tokens = []
    for name in ("eager", "wqkv"):
        model.set_attn_implementation(name)
        cache = transformers.DynamicCache()
        tokens.append(model.generate(**inputs, **kept(model, cache), max_new_tokens=9))
    assert torch.equal(*tokens)


# No N x N


class Largest(TorchDispatchMode):
    """Records the largest tensor that an operator returns."""

    def __init__(self):
        super().__init__()
        self.numbers, self.what = 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if type(x) is Tensor and x.untyped_storage().nbytes() // x.itemsize > self.numbers:
                self.numbers = x.untyped_storage().nbytes() // x.itemsize
                self.what = f"{list(x.shape)} from {func}"
        return result


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["mistral", "gpt_oss", "gemma2", "llama4_text"])
def test_nothing_is_as_large_as_one_matrix(kind, padded, training):
    n = 2311
    part = {"sliding_window": 97, "attention_chunk_size": 97}
    changes = {name: part[name] for name in CONFIGS[kind] if name in part}
    model = use(tiny(kind, **changes, max_position_embeddings=n, num_attention_heads=2))
    ids = torch.randint(3, 101, (1, n))
    tokens = torch.ones_like(ids)
    if padded:
        tokens[:, :301] = 0
    with torch.set_grad_enabled(training), Largest() as largest:
        out = model.model(input_ids=ids, attention_mask=tokens, use_cache=False)[0]
        if training:
            out.sum().backward()
    assert largest.numbers <= n * n // 4, largest.what


# One call


def qkv(batch=2, n_head=6, n_kv_head=2, query_len=7, key_len=7, d=8) -> list[Tensor]:
    torch.manual_seed(3)
    return [
        torch.randn(batch, heads, n, d)
        for heads, n in ((n_head, query_len), (n_kv_head, key_len), (n_kv_head, key_len))
    ]


class Layer(nn.Module):
    is_causal = True


def dense(q, k, v, seen=None, sinks=None) -> Tensor:
    """The formula, (batch, query_len, n_head, d_v)."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT / q.shape[3] ** 0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.expand(*scores.shape[:3], 1)), dim=-1)
    return (scores.softmax(-1)[..., : k.shape[2]] @ v).transpose(1, 2)


def test_without_a_mask():
    """As in transformers' own function: causal if the layer or the call says so, from key 0 on."""
    q, k, v = qkv(key_len=11)
    seen = torch.ones(7, 11, dtype=torch.bool).tril()
    for causal, expected in ((None, seen), (True, seen), (False, None)):
        out, weights = run(Layer(), q, k, v, None, is_causal=causal)
        torch.testing.assert_close(out, dense(q, k, v, expected))
        assert out.is_contiguous()
        assert weights is None
    one = q[:, :, :1]
    torch.testing.assert_close(run(Layer(), one, k, v, None)[0], dense(one, k, v))


def test_dropout():
    """Each weight is 0 or 1 / (1 - p) of itself: here 1/64 of the values, which are 1."""
    q, k, v = torch.zeros(1, 1, 64, 8), torch.randn(1, 1, 64, 8), torch.ones(1, 1, 64, 8)
    out, _ = run(Layer(), q, k, v, None, dropout=0.25, is_causal=False)
    kept = out * 64 * 0.75
    torch.testing.assert_close(kept, kept.round())
    assert abs(float(out.mean()) - 1) < 0.05
    assert float(out.std()) > 0.01
    torch.testing.assert_close(run(Layer(), q, k, v, None, is_causal=False)[0], v.transpose(1, 2))


def test_dropout_of_a_model():
    model, inputs = use(tiny("llama", attention_dropout=0.5)), batch()
    quiet = logits(model, **inputs)
    model.train()
    torch.manual_seed(0)
    first, second = logits(model, **inputs), logits(model, **inputs)
    torch.manual_seed(0)
    assert torch.equal(logits(model, **inputs), first)
    assert not torch.equal(first, second)
    assert not torch.equal(first, quiet)


@pytest.mark.parametrize("kind", [*CONFIGS, "opt"])  # opt does not hand the argument on
@pytest.mark.parametrize("how", ["call", "config"])
def test_output_attentions(kind, how):
    """The weights that the eager path gives; where a query sees nothing they are 0."""
    CONFIGS.setdefault("opt", {**COMMON, "ffn_dim": 32, "word_embed_proj_dim": 48})
    model, inputs = tiny(kind), batch()
    given = {"output_attentions": True} if how == "call" else {}
    if how == "config":
        model.config.output_attentions = True
    theirs = model(**inputs, **given).attentions
    ours = use(model)(**inputs, **given).attentions
    assert len(ours) == len(theirs) == 2
    for a, b in zip(ours, theirs, strict=True):
        sees = a.sum(dim=3) > 0
        assert 6 * 4 <= int((~sees).sum()) <= 6 * 6  # heads x padding: chunks leave more empty
        torch.testing.assert_close(a[sees], b[sees], rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(
            weights[0][:, :, 5:13].square().sum(), model.get_input_embeddings().weight
        )
        for weights in (ours, theirs)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    assert (
        use(model)(**inputs, output_attentions=False).get("attentions") is None or how == "config"
    )


def test_output_attentions_while_writing():
    model, inputs = tiny("llama"), {name: x[2:] for name, x in batch().items()}
    options = {"max_new_tokens": 3, "output_attentions": True, "return_dict_in_generate": True}
    theirs = model.generate(**inputs, **options).attentions
    ours = use(model).generate(**inputs, **options).attentions
    assert [x[1].shape for x in ours] == [(1, 6, 17, 17), (1, 6, 1, 18), (1, 6, 1, 19)]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_softcap_and_scaling():
    q, k, v = qkv()
    capped = torch.tanh(q @ k.repeat_interleave(3, dim=1).mT * 0.7 / 2.0) * 2.0
    want = (capped.softmax(-1) @ v.repeat_interleave(3, dim=1)).transpose(1, 2)
    got, _ = run(Layer(), q, k, v, None, scaling=0.7, softcap=2.0, is_causal=False)
    torch.testing.assert_close(got, want)


def test_sinks_of_a_head_and_of_a_query():
    q, k, v = qkv()
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    seen[3] = False  # sees nothing but the sink
    head, query = torch.randn(6), torch.randn(2, 6, 7, 1)
    for name, sinks in (("s_aux", head), ("sinks", query)):
        got, _ = run(Layer(), q, k, v, seen[None, None], **{name: sinks})
        want = dense(q, k, v, seen, sinks if sinks.ndim == 4 else sinks.view(1, -1, 1, 1))
        torch.testing.assert_close(got, want)
        _, P = run(Layer(), q, k, v, seen[None, None], **{name: sinks}, output_attentions=True)
        torch.testing.assert_close((P @ v.repeat_interleave(3, dim=1)).transpose(1, 2), want)
        assert not got[:, 3].any()


def test_biases_add_up():
    q, k, v = qkv()
    bias, more = torch.randn(1, 6, 7, 7, requires_grad=True), torch.randn(2, 1, 7, 7)
    got, _ = run(Layer(), q, k, v, more, position_bias=bias)
    want = run(Layer(), q, k, v, bias + more)[0]
    torch.testing.assert_close(got, want)
    assert torch.autograd.grad(got.sum(), bias)[0].shape == bias.shape


def test_texts_by_their_ends():
    q, k, v = qkv(batch=1)
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    label = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    seen = (label[:, None] == label) & torch.ones(7, 7, dtype=torch.bool).tril()
    got, _ = run(Layer(), q, k, v, None, cu_seq_lens_q=ends, cu_seq_lens_k=ends, max_length_q=4)
    torch.testing.assert_close(got, dense(q, k, v, seen))
    assert torch.equal(run(Layer(), q, k, v, None, cu_seq_lens_k=ends)[0], got)
    short = {"cu_seq_lens_q": ends[:2], "cu_seq_lens_k": ends}
    with pytest.raises(EngineError, match=r"Layer: its packed texts have 3 tokens, .* 1 x 7"):
        run(Layer(), q, k, v, None, **short)


def test_one_set_of_queries_for_all_samples():
    q, k, v = qkv()
    got, _ = run(Layer(), q[:1], k, v, None, is_causal=False)
    torch.testing.assert_close(got, dense(q[:1].expand(2, -1, -1, -1), k, v))


# Refused


@pytest.mark.parametrize("name", ["indices", "block_indices", "cache", "anything"])
def test_unknown_arguments_are_refused_by_name(name):
    q, k, v = qkv()
    with pytest.raises(EngineError, match=rf"Layer: it does not know what `{name}` does") as e:
        run(Layer(), q, k, v, None, **{name: torch.zeros(2, 7, 3, dtype=torch.int64)})
    assert f"{name}: i64[2, 7, 3] on cpu" in str(e.value)
    run(Layer(), q, k, v, None, **{name: None}, use_cache=True, position_ids=torch.arange(7))


def test_weights_over_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(module.reference, "LIMIT_GIB", 1e-9)
    q, k, v = qkv()
    says = "asks Layer for all weights: its 7 x 7 scores would take 0.0 GiB, the limit is 1e-09 GiB"
    with pytest.raises(EngineError, match=says):
        run(Layer(), q, k, v, None, output_attentions=True)
    run(Layer(), q, k, v, None, output_attentions=False)


@pytest.mark.parametrize("given", [torch.ones(2, 7), "causal"])
def test_other_masks_are_refused(given):
    q, k, v = qkv()
    with pytest.raises(KindError, match=r"cannot run Layer: its `attention_mask` is (f32|str)"):
        run(Layer(), q, k, v, given)


def test_a_mask_for_other_lengths_is_refused():
    q, k, v = qkv()
    with pytest.raises(EngineError, match=r"Layer: its mask is made for other lengths") as e:
        run(Layer(), q, k, v, torch.zeros(2, 1, 7, 5))
    assert "f32[2, 1, 7, 5]" in str(e.value)
    longer = torch.zeros(2, 1, 7, 9)
    torch.testing.assert_close(run(Layer(), q, k, v, longer)[0], dense(q, k, v))


def test_a_window_without_a_mask_is_refused():
    q, k, v = qkv()
    with pytest.raises(EngineError, match="Layer: its `sliding_window` 5 is shorter than its 7"):
        run(Layer(), q, k, v, None, sliding_window=5)
    run(Layer(), q, k, v, None, sliding_window=7)
