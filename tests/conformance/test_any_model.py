"""The rows that `python -m tests.conformance.any_model` prints, and what would make one wrong."""

from __future__ import annotations

import re
from unittest import mock

import pytest
import torch
from torch import nn

from tests.conformance import any_model, foreign, own_blocks, watched
from tests.conformance.foreign import LARGE, ROWS
from tests.conformance.independent import Heard
from tests.conformance.own_blocks import Blocks, told
from tests.conformance.watched import MODES, Row, check
from wqkv import watch

pytestmark = pytest.mark.filterwarnings("ignore")  # of the models' own code


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row):
    if not foreign.here(row):
        pytest.skip(f"{row.library} is not installed: make .venv/.foreign")
    found = check(row, modes=["eval"] if row.name in LARGE else MODES)  # those of real size
    assert found.wrong == []


def test_the_table_is_wide():
    libraries = {row.library for row in ROWS}
    assert {"torchvision", "timm", "open_clip", "diffusers", "whisper"} <= libraries
    assert {"x_transformers", "vit_pytorch", "transformers", "torch"} <= libraries
    assert len({row.name for row in ROWS}) == len(ROWS) >= 98


# What makes a row wrong


def plain(**rest) -> Row:
    def build():
        x = own_blocks.vectors()
        return Blocks("plain"), lambda m: m(x)

    return Row("plain", build, **{"proved": 2, "weights": told} | rest)


def test_a_row_that_is_right():
    found = check(plain())
    assert (found.wrong, found.tried, found.same) == ([], list(MODES), list(MODES))
    assert found.states == {"proved": 2} and 0 < found.off < 2e-6 and 0 < found.proof < 2e-6
    assert found.peak == 1.0 and found.times is None


def test_a_wrong_weight():
    def moved(model, call):
        first, second = told(model, call)
        return [first, Heard(second.name, second.weights.roll(1, dims=-2))]

    (why,) = check(plain(weights=moved), modes=["eval"]).wrong
    assert re.fullmatch(r"eval: 1 \(proved\): off by \d.*, \[2, 6, 13, 13\] beside .*", why)


def test_another_shape():
    def cut(model, call):
        return [Heard(name, P[..., :-1]) for name, P in told(model, call)]

    wrong = check(plain(weights=cut), modes=["eval"]).wrong
    assert wrong[0] == "eval: 0 (proved): off by inf, [2, 6, 13, 13] beside [2, 6, 13, 12]"


def test_another_number_of_layers():
    assert check(plain(proved=3), modes=["eval"]).wrong == ["eval: 2 proved instead of 3 proved"]
    wrong = check(plain(captured=1, proved=1), modes=["eval"]).wrong
    assert wrong == ["eval: 2 proved instead of 1 proved, 1 captured"]


def test_weights_that_no_layer_has():
    def more(model, call):
        return [*told(model, call), Heard("2", torch.ones(1))]

    wrong = check(plain(weights=more), modes=["eval"]).wrong
    assert wrong == ["eval: 1 softmaxes that no layer has, instead of 0"]


def test_other_bits():
    class Drifting(Blocks):
        """Its outputs differ from call to call."""

        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x) + 1e-7 * self.calls

    def build():
        x = own_blocks.vectors()
        return Drifting("plain"), lambda m: m(x)

    wrong = check(plain()._replace(build=build), modes=["eval"]).wrong
    assert wrong == ["eval: other bits"]


def test_a_row_that_is_lost():
    P = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]])
    shown = P * torch.tensor([1.0, 0.0])[:, None]
    padded = torch.tensor([[False, True]])
    assert watched.difference(shown, Heard("", P), padded) == 0
    assert watched.difference(shown, Heard("", P), ~padded) == float("inf")
    assert watched.difference(shown, Heard("", P), None) == float("inf")


# What a row cannot show


def test_hooks_leave_an_encoder_on_its_fast_path():
    row = next(row for row in ROWS if row.name == "nn.TransformerEncoder, padding")
    model, call = row.build()
    fast = torch._transformer_encoder_layer_fwd
    spied = mock.patch.object(torch, "_transformer_encoder_layer_fwd", side_effect=fast)
    with spied as heard, torch.no_grad(), watch(model.eval()):
        call(model)
    assert heard.call_count == 2


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_oss", "bloom", "gptj", "falcon"])
def test_generation(family, cache):
    """One map of the whole text, beside the weights of one eager forward over it."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.set_verbosity_error()
    from tests.conformance.families import FAMILIES, SMALL
    from tests.conformance.independent import heard

    torch.manual_seed(0)
    known = transformers.AutoConfig.for_model(family).to_dict()
    sizes = {key: value for key, value in SMALL.items() if isinstance(known.get(key), int)}
    given = {**sizes, **FAMILIES[family].config, "eos_token_id": None}
    config = transformers.AutoConfig.for_model(family, **given)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    start = torch.tensor([[5, 7, 11, 13, 17]])
    how = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": cache}
    if cache == "dynamic":
        del how["cache_implementation"]
    text = model.eval().generate(start, **how)
    with watch(model) as seen:
        assert torch.equal(model.generate(start, **how), text)
    layers = seen.layers
    assert [layer.state for layer in layers] == ["proved"] * 2, seen.report()
    read = text[:, :-1]  # the last token is never read
    truth = [
        P[..., : read.shape[1]]
        for name, P in heard(model, lambda m: m(read, use_cache=False))
        if "attn" in name or "attention" in name
    ]
    for number, P in enumerate(truth):
        torch.testing.assert_close(
            seen[number][:], P.reshape(seen[number].shape), rtol=0, atol=1e-5
        )


# The command


def test_the_command_lists_its_rows(capsys):
    assert any_model.main(["--list", "--table", "models", "--only", "own: "]) == 0
    listed = capsys.readouterr().out.split("\n")
    assert {f"own: {way}" for way in own_blocks.WAYS} == {one for one in listed if one}


def test_the_command_writes_its_table(tmp_path, capsys):
    file = tmp_path / "table.md"
    given = ["--table", "models", "--only", "own: plain", "--markdown", str(file), "--repeats", "1"]
    assert any_model.main(given) == 0
    out = capsys.readouterr().out
    assert re.search(r"own: plain +2 proved  map \S+  proof \S+  bits all  \S+ / \S+\n", out)
    assert "models: 1 rows, 1 wholly proved; 2 proved layers; 0 rows wrong" in out
    assert "\n## Models\n\n1 rows, 1 wholly proved" in file.read_text()
    assert re.search(r"\| own: plain \| 2 proved \| .* \| all \| \S+ / \S+ \|", file.read_text())


def test_the_command_says_what_is_wrong(capsys):
    wrong = plain(proved=3)._replace(name="a wrong row")
    with mock.patch.object(any_model, "rows", lambda table: [wrong]):
        assert any_model.main(["--table", "models", "--repeats", "0"]) == 1
    assert "    WRONG: eval: 2 proved instead of 3 proved\n" in capsys.readouterr().out


def test_the_command_can_be_stopped(capsys):
    def stop(row, **_):
        if row.name == "second":
            raise KeyboardInterrupt
        return check(row, modes=["eval"])

    rows = [plain()._replace(name=name) for name in ("first", "second", "third")]
    with (
        mock.patch.object(any_model, "check", stop),
        mock.patch.object(any_model, "rows", lambda table: rows),
    ):
        assert any_model.main([]) == 130
    out = capsys.readouterr().out
    assert "first" in out and "third" not in out and "models: 1 rows" in out


def test_the_command_without_such_a_row(capsys):
    with pytest.raises(SystemExit):
        any_model.main(["--only", "no such row", "--table", "models"])
    assert "no row has 'no such row' in its name; --list lists them" in capsys.readouterr().err


def test_nothing_is_left_on_the_path():
    import sys

    before = list(sys.path)
    with foreign.libraries():
        assert sys.path[-1] == str(foreign.FOLDER)
    assert sys.path == before and isinstance(nn.Identity(), nn.Module)
