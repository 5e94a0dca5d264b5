"""One layer out of a checkpoint: the tensors of `from_hf`; nothing else is opened or trusted."""

import json
import os
import struct
import sys
from pathlib import Path

import pytest
import torch

from wqkv.errors import ArgumentError, MissingExtraError
from wqkv.layer.convert.checkpoint import load_attention
from wqkv.layer.convert.huggingface import from_hf, stacks

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors")
from safetensors.torch import load_file, save_file  # noqa: E402

from tests.tiny import of_config  # noqa: E402

TEXT = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 11,
    "max_position_embeddings": 37,
}
IMAGE = {**TEXT, "image_size": 12, "patch_size": 4}
SEQ2SEQ = {"d_model": 24, "d_kv": 5, "num_heads": 6, "num_layers": 3, "d_ff": 11, "vocab_size": 61}
CONFIGS = {
    "bert": TEXT,
    "albert": {**TEXT, "embedding_size": 13},
    "gpt2": {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 6, "n_positions": 37},
    "bloom": {"vocab_size": 61, "hidden_size": 24, "n_layer": 3, "n_head": 6},
    "llama": {**TEXT, "num_key_value_heads": 2},
    "gemma3_text": {**TEXT, "num_key_value_heads": 2, "head_dim": 10},
    "stablelm": {
        **TEXT,
        "num_key_value_heads": 2,
        "qk_layernorm": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 9.0, "partial_rotary_factor": 1},
    },
    "t5": SEQ2SEQ,
    "vit": IMAGE,
    "clip": {"text_config": TEXT, "vision_config": IMAGE},
}


def tiny(kind: str, head: str = "Model", **changes):
    return of_config(transformers.CONFIG_MAPPING[kind](**{**CONFIGS[kind], **changes}), head)


@pytest.fixture
def llama(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    return tmp_path


def same(ours, theirs):
    assert type(ours) is type(theirs)
    assert ours.extra_repr() == theirs.extra_repr()
    assert not ours.training
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_part_is_that_of_the_model(kind, tmp_path):
    """Packed, shared, kept in another layer, under older names, in one of two towers."""
    model = tiny(kind)
    model.save_pretrained(tmp_path)
    for part in stacks(model):
        same(load_attention(tmp_path, 2, part=part), from_hf(model, 2, part=part))


@pytest.mark.parametrize(
    ("kind", "head"),
    [("llama", "ForCausalLM"), ("gpt2", "LMHeadModel"), ("bert", "ForMaskedLM")],
)
def test_checkpoint_of_a_model_with_a_head(kind, head, tmp_path):
    model = tiny(kind, head)
    model.save_pretrained(tmp_path)
    same(load_attention(tmp_path, 1), from_hf(model, 1))


def test_one_file(llama):
    (llama / "model.safetensors").rename(llama / "other.safetensors")
    same(load_attention(llama / "other.safetensors", 1), from_hf(tiny("llama"), 1))
    same(load_attention(str(llama / "other.safetensors"), layer=1), from_hf(tiny("llama"), 1))


def test_dtypes_are_kept_or_the_widest(llama):
    file = llama / "model.safetensors"
    tensors = {name: x.bfloat16() for name, x in load_file(file).items()}
    save_file(tensors, file)
    layer = load_attention(llama, 1)
    assert {x.dtype for x in layer.parameters()} == {torch.bfloat16}
    assert layer(torch.zeros(1, 3, 24, dtype=torch.bfloat16)).dtype == torch.bfloat16
    tensors["layers.1.self_attn.k_proj.weight"] = tensors[
        "layers.0.self_attn.k_proj.weight"
    ].float()
    save_file(tensors, file)
    assert {x.dtype for x in load_attention(llama, 1).parameters()} == {torch.float32}


# Nothing but one layer


@pytest.fixture
def sharded(tmp_path):
    """One shard a layer and one for the rest, with their index."""
    model = tiny("llama")
    model.config.save_pretrained(tmp_path)
    shards, index = {}, {}
    for name, tensor in model.state_dict().items():
        number = name.split(".")[1] if name.startswith("layers.") else "rest"
        shards.setdefault(f"shard-{number}.safetensors", {})[name] = tensor
        index[name] = f"shard-{number}.safetensors"
    for shard, tensors in shards.items():
        save_file(tensors, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return tmp_path


def test_other_shards_need_not_be_there(sharded):
    for number in ("0", "2", "rest"):
        (sharded / f"shard-{number}.safetensors").unlink()
    same(load_attention(sharded, 1), from_hf(tiny("llama"), 1))
    with pytest.raises(ArgumentError, match=r"The shard '.*shard-2.safetensors' is not there"):
        load_attention(sharded, 2)


def write_header(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """A .safetensors file of zeros that takes no room."""
    header, end = {}, 0
    for name, shape in tensors.items():
        begin, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and needs files with holes")
def test_files_and_memory_of_one_layer(tmp_path, monkeypatch):
    """More than 100 GB, of which a layer's attention is 17 MB in one of 129 files."""
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=1024, num_hidden_layers=128, num_attention_heads=8,
        num_key_value_heads=8, intermediate_size=80_000,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        state = transformers.LlamaModel(config).state_dict()
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in state.items():
        number = name.split(".")[1] if name.startswith("layers.") else "rest"
        shards.setdefault(f"{number}.safetensors", {})[name] = tuple(tensor.shape)
    for shard, shapes in shards.items():
        write_header(tmp_path / shard, shapes)
    index = {name: shard for shard, shapes in shards.items() for name in shapes}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) > 10**11
    load_attention(tmp_path, 0)  # imports what it needs

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    opened, open_file = [], safetensors.safe_open

    def counted(file, **rest):
        opened.append(file)
        return open_file(file, **rest)

    monkeypatch.setattr(safetensors, "safe_open", counted)
    before = resident()
    layer = load_attention(tmp_path, 77)
    grown = resident() - before
    assert sum(x.numel() for x in layer.parameters()) == 4 * 1024**2
    assert grown < 80e6
    assert opened == [tmp_path / "77.safetensors"]


# What is refused


def test_pickle_is_refused_unless_asked_for(tmp_path):
    model = tiny("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(
            ArgumentError, match=r"(?s)pytorch_model.bin' is made of pickles.*pickle=True"
        ):
            load_attention(path, 1)
        same(load_attention(path, 1, pickle=True), from_hf(model, 1))
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "one.bin")
    index = {"weight_map": dict.fromkeys(model.state_dict(), "one.bin")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ArgumentError, match="made of pickles"):
        load_attention(tmp_path, 1)
    same(load_attention(tmp_path, 1, pickle=True), from_hf(model, 1))


def test_safe_files_come_before_pickles(llama):
    (llama / "pytorch_model.bin").write_bytes(b"not read")
    same(load_attention(llama, 1, pickle=True), from_hf(tiny("llama"), 1))


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny("llama").config.save_pretrained(tmp_path)
    torch.save({"layers.0.self_attn.q_proj.weight": Evil()}, "pytorch_model.bin")
    with pytest.raises(ArgumentError, match="is not a file of tensors"):
        load_attention(tmp_path, 0, pickle=True)
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    "name",
    ["../away.safetensors", "/away.safetensors", "a/b.safetensors", "a\\b.safetensors", "..",
     "C:x.safetensors", "away.bin", "x\0.safetensors"],
)  # fmt: skip
def test_an_index_leads_nowhere_else(sharded, name):
    file = sharded / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["norm.weight"] = name  # not even one of the layer's own
    file.write_text(json.dumps(index))
    with pytest.raises(ArgumentError) as caught:
        load_attention(sharded, 1)
    assert f"leads to {name!r}, which is not a file of its kind beside it" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", r"index.json' is not JSON \(JSONDecodeError: Expecting"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no weight_map of names and files"),
        ('{"weight_map": 3}', "has no weight_map"),
        ('{"weight_map": {"norm.weight": 3}}', "has no weight_map"),
        (
            '{"weight_map": {}}',
            r"(?s)no tensor `layers.1.self_attn.q_proj.weight` in '.*nearest are",
        ),
    ],
)
def test_broken_index(sharded, content, says):
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ArgumentError, match=says):
        load_attention(sharded, 1)


def test_huge_index(sharded):
    file = sharded / "model.safetensors.index.json"
    os.truncate(file, 2**40)
    with pytest.raises(ArgumentError, match=f"has {2**40} bytes, more than {2**27}"):
        load_attention(sharded, 1)


def test_index_that_names_the_wrong_shard(sharded):
    file = sharded / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["layers.1.self_attn.v_proj.weight"] = "shard-0.safetensors"
    file.write_text(json.dumps(index))
    says = (
        r"shard-0.safetensors' is not a file with `layers.1.self_attn.v_proj.weight`, as its index"
    )
    with pytest.raises(ArgumentError, match=says):
        load_attention(sharded, 1)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def cut_header(file):
    file.write_bytes(file.read_bytes()[:100])


def huge_header(file):
    file.write_bytes(struct.pack("<Q", 2**40) + file.read_bytes()[8:])


def outside(file):
    """A tensor that claims numbers beyond the end of the file."""
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["layers.1.self_attn.q_proj.weight"]["data_offsets"][1] += 2**40
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.mark.parametrize(
    "harm", [cut, cut_header, huge_header, outside, lambda file: file.write_bytes(b"")]
)
def test_broken_file(llama, harm):
    harm(llama / "model.safetensors")
    with pytest.raises(ArgumentError, match=r"model.safetensors' is not a .safetensors file \(Saf"):
        load_attention(llama, 1)


Q = "layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({Q: torch.zeros(24, 23)}, rf"(?s)`{Q}` has shape \(24, 23\) in .*and \(24, 24\) by"),
        ({Q: torch.zeros(24, 24).int()}, rf"(?s)`{Q}` holds I32 in.*in F64, F32, F16, BF16: quan"),
        ({Q: torch.zeros(24, 24).to(torch.float8_e4m3fn)}, "holds F8_E4M3 in"),
        ({Q.replace("weight", "bias"): torch.zeros(24)}, "(?s)q_proj.bias` .*and a llama with its"),
        ({Q.replace("proj", "norm"): torch.zeros(4)}, "(?s)q_norm.weight` .*They do not belong"),
        ({Q: None}, rf"(?s)no tensor `{Q}` in.*nearest are: layers.\d.self_attn"),
    ],
)
def test_mislabelled_file(llama, changed, says):
    tensors = {**load_file(llama / "model.safetensors"), **changed}
    tensors = {name: x for name, x in tensors.items() if x is not None}
    save_file(tensors, llama / "model.safetensors")
    with pytest.raises(ArgumentError, match=says):
        load_attention(llama, 1)


@pytest.mark.parametrize(
    ("kind", "beside"),
    [
        ("llama", "layers.2.self_attn.q_proj.bias"),  # of another layer
        ("llama", "layers.1.self_attn.rotary_emb.inv_freq"),  # of old releases, as what follows
        ("gpt2", "h.1.attn.bias"),
        ("t5", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
    ],
)
def test_what_a_model_passes_over_is_passed_over(kind, beside, tmp_path):
    model = tiny(kind)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors") | {beside: torch.zeros(24)}
    save_file(tensors, tmp_path / "model.safetensors")
    layer, part = (0, "cross") if kind == "t5" else (1, "decoder")
    same(load_attention(tmp_path, layer, part=part), from_hf(model, layer, part=part))


def test_pickled_integers(tmp_path):
    model = tiny("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(
        {**model.state_dict(), Q: torch.zeros(24, 24).long()}, tmp_path / "pytorch_model.bin"
    )
    with pytest.raises(ArgumentError, match=r"holds torch.int64 in"):
        load_attention(tmp_path, 1, pickle=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", r"config.json' is not JSON \(JSONDecodeError"),
        ('{"model_type": "no-such-type"}', r"is not the configuration of a model \(ValueError"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "is not the configuration of a model"),
        (
            '{"model_type": "llama", "num_hidden_layers": 1000000000}',
            "config.json' says num_hidden_layers 1000000000, more than 10000",
        ),
        ('{"text_config": {"n_layers": 1000000000}}', "says n_layers 1000000000"),
        ('{"model_type": "ctrl", "n_layer": 1}', "(?s)family 'ctrl' yet.*nearest rows are"),
        ('{"model_type": "llama", "auto_map": {"AutoConfig": "evil.Config"}}', "has shape"),
    ],
)
def test_broken_config(llama, content, says):
    (llama / "config.json").write_text(content)
    (llama / "evil.py").write_text("raise SystemExit")
    with pytest.raises(ArgumentError, match=says):
        load_attention(llama, 1)


def test_nothing_there(llama):
    with pytest.raises(
        ArgumentError, match=r"gone' is no checkpoint: no .safetensors file, and no fol"
    ):
        load_attention(llama / "gone", 1)
    with pytest.raises(ArgumentError, match=r"config.json' is no checkpoint"):
        load_attention(llama / "config.json", 1)
    (llama / "config.json").unlink()
    with pytest.raises(ArgumentError, match=r"no '.*config.json', which says what the tensors are"):
        load_attention(llama, 1)


def test_layer_and_part_out_of_range(llama):
    with pytest.raises(ArgumentError, match="no layer 3: the model has 3 layers, 0 to 2"):
        load_attention(llama, 3)
    with pytest.raises(ArgumentError, match=r"(?s)no part 'cross': .* has decoder\."):
        load_attention(llama, 1, part="cross")


@pytest.mark.parametrize("module", ["transformers", "safetensors"])
def test_missing_extra(llama, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"(?s)needs the package `{module}`.*wqkv\[hf\]"):
        load_attention(llama, 1)
