"""Every internal name of transformers that wqkv uses exists, and does what wqkv expects."""

from types import SimpleNamespace

import pytest
import torch
import transformers

from wqkv.errors import UpstreamError
from wqkv.upstream import of_transformers
from wqkv.upstream.of_transformers import NAMES

SIZES = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 13}


@pytest.fixture
def forgotten(monkeypatch):
    """Each name is looked up anew."""
    for name in NAMES:
        monkeypatch.delitem(vars(of_transformers), name, raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_name(forgotten, name):
    found = getattr(of_transformers, name)
    assert found is not None
    assert vars(of_transformers)[name] is found  # it is looked up once


def test_a_name_that_is_gone(forgotten, monkeypatch):
    import transformers.masking_utils as masking

    monkeypatch.delattr(masking, "sdpa_mask")
    version = transformers.__version__
    says = (
        rf"transformers {version} has no `transformers.masking_utils.sdpa_mask`, which wqkv uses: "
        rf".*\nInstall a version that wqkv is tested with: transformers {of_transformers.TESTED}"
    )
    with pytest.raises(UpstreamError, match=says):
        from wqkv.upstream.of_transformers import sdpa_mask  # noqa: F401


def test_a_module_that_is_gone(monkeypatch):
    monkeypatch.setitem(NAMES, "gone", "transformers.gone:thing")
    with pytest.raises(UpstreamError, match=r"has no `transformers.gone.thing`.*No module named"):
        of_transformers.gone  # noqa: B018


def test_a_name_that_is_not_listed():
    with pytest.raises(AttributeError, match=r"of_transformers' has no attribute 'cache_utils'"):
        of_transformers.cache_utils  # noqa: B018


@pytest.mark.parametrize(
    ("maker", "given", "held"),
    [
        ("sliding_window_overlay", (5,), {"sliding_window"}),
        ("sliding_window_bidirectional_overlay", (5,), {"sliding_window"}),
        ("chunked_overlay", (5, torch.zeros(1)), {"chunk_size", "left_padding"}),
        ("padding_mask_function", (torch.zeros(1),), {"padding_mask"}),
        ("packed_sequence_mask_function", (torch.zeros(1),), {"packed_sequence_mask"}),
        ("blockwise_overlay", (torch.zeros(1),), {"block_sequence_ids"}),
        ("and_masks", (), {"mask_functions"}),
        ("or_masks", (), {"mask_functions"}),
    ],
)
def test_what_a_mask_function_holds(maker, given, held):
    """The numbers of a mask are read out of what its function was made with."""
    function = getattr(of_transformers, maker)(*given)
    assert held <= set(function.__code__.co_freevars)


def test_positions_of_packed_texts():
    remap = of_transformers.positions_of_packed_texts()
    if remap is None:
        pytest.skip(f"transformers {transformers.__version__} has no such mask function")
    assert "mask_function" in remap(id, torch.zeros(1)).__code__.co_freevars


def test_get_interface():
    """It gives the default where nothing is registered by that name."""
    interface = of_transformers.AttentionInterface
    assert "get_interface" in vars(interface)
    assert interface().get_interface("eager", id) is id
    assert interface().get_interface("sdpa", id) is not id


def test_can_switch():
    llama = transformers.LlamaModel(transformers.LlamaConfig(**SIZES, intermediate_size=7))
    mpt = transformers.MptModel(transformers.MptConfig(d_model=12, n_heads=2, n_layers=1))
    assert (of_transformers.can_switch(llama), of_transformers.can_switch(mpt)) == (True, False)


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (of_transformers.can_switch, "_can_set_attn_implementation"),
        (of_transformers.passed_over, "_keys_to_ignore_on_load_unexpected"),
    ],
)
def test_a_member_that_is_gone(ask, name):
    says = rf"transformers 5.* has no `transformers.modeling_utils.PreTrainedModel.{name}`, which"
    with pytest.raises(UpstreamError, match=says):
        ask(object())


def test_passed_over():
    gpt2 = transformers.GPT2Model(transformers.GPT2Config(n_embd=12, n_head=2, n_layer=1))
    assert "attn.bias" in of_transformers.passed_over(gpt2)
    llama = transformers.LlamaModel(transformers.LlamaConfig(**SIZES, intermediate_size=7))
    assert of_transformers.passed_over(llama) == ()


def test_updated():
    parts = transformers.DynamicCache(), transformers.DynamicCache()
    cache = transformers.EncoderDecoderCache(*parts)
    assert of_transformers.updated(cache) == {}
    cache.is_updated[1] = True
    assert of_transformers.updated(cache) == {1: True}
    assert of_transformers.updated(parts[0]) is None


def test_heads_for_the_next_word():
    assert of_transformers.CAUSAL["llama"] == "LlamaForCausalLM"
    assert of_transformers.SEQ2SEQ["t5"] == "T5ForConditionalGeneration"


def test_quiet(capsys):
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    with pytest.raises(InterruptedError), of_transformers.quiet():
        log.get_logger("transformers").warning("a remark")
        assert not log.is_progress_bar_enabled()
        raise InterruptedError
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before
    assert "a remark" not in capsys.readouterr().err


def test_anyres_cells():
    vision = SimpleNamespace(image_size=28, patch_size=7)
    pins = [[28, 56], [56, 28], [56, 56]]
    config = SimpleNamespace(vision_config=vision, image_grid_pinpoints=pins)
    tiles, cells = of_transformers.anyres_cells(config, [20, 50])
    assert tiles == (1, 2) and cells.tolist() == torch.arange(32).view(4, 8).tolist()
    tiles, cells = of_transformers.anyres_cells(config, [60, 33])
    assert tiles == (2, 2) and cells.shape == (8, 4)  # two columns on each side are padding
    assert cells[1].tolist() == [10, 11, 12, 13]
