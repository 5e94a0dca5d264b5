"""What a person names that does not open here: what is said of it, and that its Python works."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import safetensors.torch
import torch
import transformers
from torch import nn

import wqkv
from tests.tiny import tiny_llama
from wqkv import cli
from wqkv.errors import ArgumentError
from wqkv.sentences import translated
from wqkv.study import loading
from wqkv.study.loading import load_bare
from wqkv.study.model import open_model
from wqkv.study.parity import parity

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 29}
PICTURE = {**SIZES, "hidden_size": 12, "image_size": 14, "patch_size": 7}
TEXT = {**SIZES, "hidden_size": 12, "vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2}
IDS = torch.arange(5)[None]


class MyModel(nn.Module):
    """A user's own model; its class stands in a file of the user."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x, *others):
        return self.look(x, x, x)[0]


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def refused(name: str, open_it=open_model) -> str:
    """What is said of a model that does not open; Chinese has the same Python."""
    with pytest.raises(ArgumentError) as caught:
        open_it(name)
    said = caught.value.args[0]
    assert python_of(translated(said, "zh")) == python_of(said)
    assert translated(said, "zh") != said
    return said


def python_of(said: str) -> str:
    return "\n".join(line[4:] for line in said.splitlines() if line.startswith("    "))


def run(said: str, **given: object) -> dict:
    """What is left when the Python of an error has run."""
    names = {"MyModel": MyModel, "x": torch.randn(2, 5, 6), **given}
    exec(python_of(said), names)
    return names


def write(name: str, told: object) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))


# Models of transformers


def save(model, tokenizer=False) -> None:
    model.save_pretrained("model")
    if tokenizer:
        tiny_llama().tokenizer.save_pretrained("model")


def test_a_model_of_pictures(capsys):
    save(transformers.ViTModel(transformers.ViTConfig(**PICTURE)))
    said = refused("model")
    assert said.startswith(
        "'model' reads pixel_values, and what opens here reads a text.\n"
        "Open it on a picture with `wqkv open --model model photo.png`.\n"
        "Compare its layers with `wqkv parity`, or open one with `from_hf`.\n"
    )
    left = run(said, inputs={"pixel_values": torch.randn(1, 3, 14, 14)})
    assert len(left["seen"]) == 2 and "of ViTModel" in capsys.readouterr().out


def test_a_model_of_pictures_without_a_row():
    sizes = {"embed_dim": 6, "depths": [1], "num_heads": [3], "image_size": 14, "patch_size": 7}
    save(transformers.SwinModel(transformers.SwinConfig(**sizes, window_size=2)))
    assert refused("model").startswith(
        "'model' reads pixel_values, and what opens here reads a text.\nAny PyTorch model"
    )


def test_a_model_of_sounds_that_writes_a_text():
    config = transformers.WhisperConfig(
        vocab_size=31, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=7, decoder_ffn_dim=7, num_mel_bins=5,
        max_source_positions=11, max_target_positions=13, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    save(transformers.WhisperModel(config), tokenizer=True)
    said = refused("model")
    assert said.startswith("'model' reads input_features, and what opens here reads a text.\n")
    run(said, inputs={"input_features": torch.randn(1, 5, 22), "decoder_input_ids": IDS})


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_a_model_of_pictures_and_text(family):
    config = getattr(transformers, f"{family}Config")(text_config=TEXT, vision_config=PICTURE)
    save(getattr(transformers, f"{family}Model")(config), tokenizer=True)
    said = refused("model")
    assert said.startswith(
        "'model' reads more than a text, and what opens here reads a text alone.\nAny PyTorch"
    )
    run(said, inputs={"input_ids": IDS, "pixel_values": torch.randn(1, 3, 14, 14)})
    with pytest.raises(ArgumentError, match=r"'\w+' read is not known here.*\n.*model, inputs"):
        parity(load_bare("model")[0])


def test_a_family_without_a_row():
    config = transformers.DebertaV2Config(**TEXT)
    save(transformers.DebertaV2Model(config), tokenizer=True)
    said = refused("model")
    assert said.startswith("There is no table row for models of the family 'deberta-v2' yet.\n")
    run(said, inputs={"input_ids": IDS})


def test_a_family_whose_layers_do_not_all_attend():
    config = transformers.Qwen3NextConfig(
        **TEXT, num_key_value_heads=3, head_dim=4, num_experts=0, shared_expert_intermediate_size=7,
        layer_types=["linear_attention", "full_attention"], linear_num_value_heads=2,
        linear_num_key_heads=2, linear_key_head_dim=4, linear_value_head_dim=4,
    )  # fmt: skip
    save(transformers.Qwen3NextModel(config), tokenizer=True)
    said = refused("model")
    assert said.startswith("Layer 0, which the configuration calls 'linear_attention', has no WQ")
    run(said, inputs={"input_ids": IDS})


@pytest.mark.parametrize(
    ("file", "shown"),
    [("a.gguf", "'.', gguf_file='a.gguf'"), ("pytorch_model.bin", "'.'"), (None, "'x/y'")],
)
def test_how_transformers_is_told_of_a_file(file, shown):
    source = loading._ModelSource("x/y", "." if file else "x/y", "y", file)
    made = python_of(str(source.watch_instead("Why."))).splitlines()[1]
    assert made == f"model = transformers.AutoModel.from_pretrained({shown})"


def test_a_model_that_is_none_of_transformers(capsys):
    with pytest.raises(
        ArgumentError, match=r"^MyModel is no model of transformers: it has no "
    ) as e:
        parity(MyModel())
    run(str(e.value), wqkv=wqkv, model=MyModel().eval(), inputs={"x": torch.randn(2, 5, 6)})
    assert "of MyModel" in capsys.readouterr().out


def test_a_model_without_a_tokenizer():
    save(tiny_llama().model)
    said = refused("model")
    assert said.startswith("'model' has no tokenizer that opens (ValueError: ")
    assert "\nSave a tokenizer there with its `save_pretrained`.\n" in said
    run(said, inputs={"input_ids": IDS})


@pytest.mark.parametrize("told", [{"model_type": "mine"}, {}])
def test_a_model_that_holds_its_own_python(told):
    write("model/config.json", {**told, "auto_map": {"AutoConfig": "it.Config"}})
    said = refused("model")
    assert said.startswith("'model' brings Python of its own, which wqkv never runs.\n")
    assert "AutoModel.from_pretrained('model', trust_remote_code=True)" in python_of(said)


# Models of other libraries

INDEX = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1"}
MADE = {
    "timm": (
        {"config.json": {"architecture": "vit_tiny", "pretrained_cfg": {}}},
        "timm.create_model('{}-dir:model', pretrained=True)",
    ),
    "open_clip": (
        {"open_clip_config.json": {"model_cfg": {}}},
        "open_clip.create_model('{}-dir:model')",
    ),
    "diffusers": (
        {"config.json": {**INDEX, "_class_name": "UNet2DConditionModel"}},
        "diffusers.AutoModel.from_pretrained('model')",
    ),
}


def library(name: str, monkeypatch) -> list:
    """The library as if it were installed; the names that its loaders are called with."""
    asked = []

    def make(*given, **rest):
        asked.append(given[0])
        return MyModel()

    class Pipeline:
        from_pretrained = staticmethod(lambda where: Pipeline())

        def __init__(self):
            self.unet = self.transformer = MyModel()

        def __call__(self, prompt):
            return self.unet(torch.randn(2, 5, 6))

    loaders = {
        "create_model": make,
        "AutoModel": SimpleNamespace(from_pretrained=make),
        "DiffusionPipeline": Pipeline,
    }
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**loaders))
    return asked


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("open_it", [open_model, load_bare])
def test_a_model_of_another_library(name, open_it, monkeypatch):
    for file, told in MADE[name][0].items():
        write(f"model/{file}", told)
    said = refused("model", open_it)
    assert said.startswith(f"'model' is made by {name}, and what opens here is a model of transf")
    asked, pictures = library(name, monkeypatch), torch.randn(2, 5, 6)
    run(said, pictures=pictures, texts=pictures, inputs={"x": pictures})
    assert asked == ["model" if name == "diffusers" else "local-dir:model"]


@pytest.mark.parametrize("part", ["unet", "transformer"])
def test_a_pipeline(part, monkeypatch):
    write("model/model_index.json", INDEX)
    write(f"model/{part}/config.json", INDEX)
    said = refused("model")
    assert f"with wqkv.watch(pipeline.{part}) as seen:" in said
    library("diffusers", monkeypatch)
    run(said)


def test_a_model_of_another_library_on_the_hub(monkeypatch):
    info = huggingface_hub.ModelInfo(id="timm/vit", library_name="timm")
    monkeypatch.setattr(huggingface_hub, "model_info", lambda name, timeout: info)
    assert "timm.create_model('hf-hub:timm/vit', pretrained=True)" in refused("timm/vit")
    files = [{"rfilename": "model_index.json"}, {"rfilename": "transformer/config.json"}]
    info = huggingface_hub.ModelInfo(id="a/b", library_name="diffusers", siblings=files)
    assert "wqkv.watch(pipeline.transformer)" in refused("a/b")


# A user's own


@pytest.mark.parametrize("file", ["model.pt", "model.pth", "some.bin", "last.ckpt"])
def test_a_file_of_weights(file, capsys):
    torch.save(MyModel().state_dict(), file)
    said = refused(file)
    assert said.startswith(f"'{file}' holds weights alone, and does not say which model they")
    assert len(run(said)["model"].state_dict()) == 4 and "of MyModel" in capsys.readouterr().out


def test_a_safe_file_of_weights():
    safetensors.torch.save_file(MyModel().state_dict(), "model.safetensors")
    run(refused("model.safetensors"))


def test_a_folder_of_weights():
    Path("run").mkdir()
    torch.save(MyModel().state_dict(), "run/last.ckpt")
    said = refused("run")
    assert said.startswith("'run' holds weights alone")
    run(said)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("code/my_model.py", "my_model"),
        ("code/my_model.py\nimport evil #.py", "my_code"),
        ("code", "my_code"),
    ],
)
def test_python(name, module, monkeypatch):
    Path("code").mkdir()
    Path("code/my_model.py").touch()
    Path("code/my_model.py\nimport evil #.py").touch()
    said = refused(name)
    assert said.startswith(f"{name!r} holds Python, which wqkv never runs.\n")
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(MyModel=MyModel))
    run(said)


@pytest.mark.parametrize("file", ["a.onnx", "a.h5", "a.keras", "a.tflite"])
def test_a_file_of_another_framework(file):
    Path(file).touch()
    said = refused(file)
    assert said.startswith(f"'{file}' is a {Path(file).suffix} file, which PyTorch does not run.\n")
    run(said)


def test_no_package_is_needed_to_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    Path("model.pt").touch()
    assert refused("model.pt", load_bare).startswith("'model.pt' holds weights alone")


@pytest.mark.parametrize("told", [{"n_layer": 6, "n_head": 6}, [], {}])
def test_a_configuration_of_its_own(told):
    write("nano/config.json", told)
    said = refused("nano")
    assert said.startswith("'nano' has a config.json that is not of transformers: it names no mod")
    run(said)


@pytest.mark.parametrize("name", ["nano", "nano/ckpt.pt"])
def test_weights_with_a_configuration_of_their_own(name):
    write("nano/config.json", {"n_layer": 6})
    torch.save(MyModel().state_dict(), "nano/ckpt.pt")
    said = refused(name)
    assert "load_state_dict(torch.load('nano/ckpt.pt', weights_only=True))" in said
    run(said)


# What a person can name instead


def test_a_file_of_a_model():
    save(tiny_llama().model)
    said = refused("model/model.safetensors")
    assert said == "'model/model.safetensors' is a file of the model in 'model'. Name the folder."


def test_a_folder_of_models():
    write("runs/checkpoint-500/config.json", {"model_type": "bert"})
    write("runs/checkpoint-1000/config.json", {"model_type": "bert"})
    assert refused("runs").endswith("name 'runs/checkpoint-1000' or 'runs/checkpoint-500'.")


def test_an_adapter():
    write("lora/adapter_config.json", {"peft_type": "LORA"})
    assert refused("lora").endswith("peft's merge_and_unload() makes it.")


@pytest.mark.parametrize(
    "argv", [["see", "A cat.", "--model"], ["open", "A cat.", "--model"], ["heads", "--model"],
             ["rate", "A cat.", "--from", "cat", "--to", "A", "--model"], ["parity"]],
    ids=lambda argv: argv[0],
)  # fmt: skip
def test_every_command_keeps_the_lines_of_python(argv, capsys):
    torch.save(MyModel().state_dict(), "model.pt")
    assert cli.main([*argv, "model.pt"]) == 2
    first, *python = capsys.readouterr().err.splitlines()
    assert first.startswith("wqkv: 'model.pt' holds weights alone")
    assert first.endswith("Any PyTorch model can be watched while it runs:")
    assert [line[:4] for line in python] == ["    "] * 6
    assert cli.main([*argv, "model.pt", "--lang", "zh"]) == 2
    first, *chinese = capsys.readouterr().err.splitlines()
    assert first.endswith("任何 PyTorch 模型都可以在运行时观察：") and chinese == python
