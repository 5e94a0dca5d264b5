"""What a file of a recording holds, and what is said of one that cannot be read."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wqkv import AttentionMap, Causal, Mask, T5Bias, files, load_recording
from wqkv.attend.geometry import At
from wqkv.errors import ArgumentError, KindError
from wqkv.maps.proof import Proof
from wqkv.record.kept import (
    FORMAT,
    KeptLayer,
    KeptModel,
    KeptThread,
    _digest,
    write_recording,
)

B, H, KV, N, M, D = 2, 6, 3, 5, 7, 11
PROOF = Proof(1e-7, 2.0, 3e-6, N)


@dataclass
class Made:
    """A run whose map is given."""

    found: AttentionMap
    proof: Proof | None = PROOF
    backward: None = None
    without_effects: str | None = None

    def map(self) -> AttentionMap:
        return self.found


def qk(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(B, H, N, D, generator=draw), torch.randn(B, KV, M, D, generator=draw)


def model_of(*maps: AttentionMap) -> KeptModel:
    layers = [KeptLayer(f"h.{n}", "decoder", "proved", "", [Made(m)]) for n, m in enumerate(maps)]
    return KeptModel("Made", [KeptThread("MainThread", "captured", layers, None, [])], False)


def written(path: Path, **rules) -> Path:
    write_recording(path, model_of(AttentionMap(*qk(), query_offset=2, **rules)))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "seen.safetensors"


# What it holds


def test_each_tensor_is_kept_once(path):
    seen = torch.rand(1, 1, N, M, generator=torch.Generator().manual_seed(1)) > 0.3
    bias = torch.randn(1, 1, 1, M).expand(B, H, N, M)
    maps = [AttentionMap(*qk(n), mask=seen, bias=bias) for n in range(3)]
    write_recording(path, model_of(*maps))
    tensors = load_file(path)
    assert [x.shape for x in tensors.values() if x.dtype == torch.bool] == [(1, 1, N, M)]
    assert [x.shape for name, x in tensors.items() if "bias" in name] == [(1, 1, 1, M)]
    assert len(tensors) == 3 * 3 + 2  # q, k and lse of each
    for ours, theirs in zip(maps, load_recording(path), strict=True):
        assert torch.equal(ours[:], theirs[:])


def test_the_size_of_a_file(path):
    m = AttentionMap(*(x.bfloat16() for x in qk()), mask=Causal(), query_offset=2)
    write_recording(path, model_of(m))
    numbers = B * (H * N + KV * M) * D * 2 + B * H * N * 4
    (header,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert path.stat().st_size == 8 + header + numbers
    assert header < 2000


def test_a_file_is_the_same_each_time(path, tmp_path):
    other = written(tmp_path / "other", mask=Causal())
    assert written(path, mask=Causal()).read_bytes() == other.read_bytes()


def test_memory_order_and_alignment_are_kept(path):
    """Because the bits of a product depend on them."""
    q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in qk())
    m = AttentionMap(q, k)
    write_recording(path, model_of(m))
    call = load_recording(path)[0]._numbers.given
    assert (call.query.stride(), call.key.stride()) == (q.stride(), k.stride())
    assert call.query.data_ptr() % 64 == call.key.data_ptr() % 64 == 0
    assert torch.equal(load_recording(path)[0][:], m[:])


def test_a_given_lse_stays_given(path):
    """Of a map whose lse counts more keys than it has."""
    q, k = qk()
    m = AttentionMap(q, k, lse=AttentionMap(q, k).lse + 0.7)
    write_recording(path, model_of(m))
    kept = load_recording(path)[0]
    for ours, theirs in (
        (m[:], kept[:]),
        (m.lse, kept.lse),
        (m.kl(m.flat()), kept.kl(kept.flat())),
    ):
        assert torch.equal(ours, theirs)
    assert float(kept[:].sum(dim=-1).max()) < 0.5


def test_lse_is_taken_from_the_file_and_not_computed(path):
    m = AttentionMap(*qk())
    write_recording(path, model_of(m))
    kept = load_recording(path)[0]
    kept._numbers.attend = None  # what computes it
    assert torch.equal(kept.lse, m.lse)


def test_what_it_says_as_json(path):
    table = torch.randn(8, H, generator=torch.Generator().manual_seed(2))
    written(path, bias=T5Bias(torch.nn.Parameter(table), bidirectional=False), softcap=2.5)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    told = json.loads(json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]["recording"])
    assert (told["format"], told["wqkv"], told["model"]) == (FORMAT, "0.1.0", "Made")
    run = told["threads"][0]["layers"][0]["runs"][0]
    assert run["proof"] == {
        "difference": 1e-7, "size": 2.0, "tolerance": 3e-6, "rows": N, "empty": 0
    }  # fmt: skip
    assert run["rules"]["mask"] == {"type": "Full"}
    assert run["rules"]["bias"]["table"]["tensor"] == "thread.0.layer.0.run.0.bias"
    assert (run["rules"]["softcap"], run["rules"]["query_offset"]) == (2.5, 2)
    (kept,) = load_recording(path).runs(0)
    assert isinstance(kept._numbers.given.rules.bias, T5Bias)
    assert load_recording(path)._all[0].runs[0].proof == PROOF


# What cannot be saved


class Odd(Mask):
    """A mask of a user's own, without a form."""

    def visible(self, at: At) -> Tensor:
        return at.key_pos % 2 == 0

    def region(self, rect) -> None:
        return None


def test_a_mask_without_a_form_names_its_layer(path):
    says = r"Layer 1, h\.1, cannot be saved\.\nOdd has no form\.\nName the arguments"
    with pytest.raises(KindError, match=says):
        write_recording(path, model_of(AttentionMap(*qk()), AttentionMap(*qk(), mask=Odd())))
    assert not path.exists()


def test_a_tensor_that_was_changed_since_names_its_layer(path):
    q, k = qk()
    maps = [AttentionMap(*qk(1)), AttentionMap(q, k)]
    k += 1
    says = r"Layer 1, h\.1, cannot be saved\.\nA tensor that this map is made of was changed in"
    with pytest.raises(ArgumentError, match=says):
        write_recording(path, model_of(*maps))
    assert not path.exists()


def test_where_it_cannot_be_written(path, tmp_path):
    for bad in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(ArgumentError, match="cannot be written: "):
            written(bad)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_leaves_the_file_that_was_there(path, tmp_path, monkeypatch):
    before = written(path).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(ArgumentError, match=r"cannot be written: OSError: .*No space left"):
            written(path, mask=Causal())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert written(path, mask=Causal()).read_bytes() != before


def test_a_link_leads_to_the_file(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    written(link)
    assert link.is_symlink()
    assert path.stat().st_size > 100


# What cannot be read


def test_a_device_that_cannot_hold_it(path, monkeypatch):
    written(path)
    kept = load_recording(path)

    def full(x: Tensor, *args, **kwargs) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Tensor, "to", full)
    says = r"cannot be made\.\nf32\[2, 6, 5, 11\] on cpu cannot be put on cpu: OutOfMemoryError"
    with pytest.raises(ArgumentError, match=says):
        kept[0]


def test_no_file(path):
    with pytest.raises(ArgumentError, match="is no whole safetensors file: FileNotFoundError"):
        load_recording(path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_file_that_was_cut_short(path, keep):
    path.write_bytes(written(path).read_bytes()[:keep])
    with pytest.raises(ArgumentError, match="is no whole safetensors file: "):
        load_recording(path)


def test_a_foreign_file(path):
    save_file({"a": torch.ones(3)}, path, {"format": "pt"})
    with pytest.raises(ArgumentError, match="is a safetensors file, and no recording"):
        load_recording(path)


def test_nothing_is_unpickled(path, monkeypatch):
    class Harm:
        def __reduce__(self):
            return pytest.fail, ("it was unpickled",)

    with path.open("wb") as file:
        pickle.dump(Harm(), file)
    with pytest.raises(ArgumentError, match="is no whole safetensors file: "):
        load_recording(path)


def changed(path: Path, change) -> None:
    """Change the JSON text of a file, and leave its tensors."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    told = json.loads(header["__metadata__"]["recording"])
    change(told)
    header["__metadata__"]["recording"] = json.dumps(told)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_a_later_format_says_what_to_install(path):
    written(path)
    changed(path, lambda told: told.update(format=FORMAT + 1, wqkv="7.8.9", threads="other"))
    says = (
        rf"is a recording of format {FORMAT + 1}, and this wqkv, 0\.1\.0, reads format {FORMAT}\.\n"
        r"Install wqkv 7\.8\.9, which wrote it, or a later one\."
    )
    with pytest.raises(ArgumentError, match=says):
        load_recording(path)


def test_a_rule_that_was_changed(path):
    written(path, mask=Causal())

    def change(told) -> None:
        told["threads"][0]["layers"][0]["runs"][0]["rules"]["mask"] = {"type": "Full"}

    changed(path, change)
    with pytest.raises(ArgumentError, match="damaged recording: ValueError: its metadata are not"):
        load_recording(path)


def test_a_mask_of_a_class_that_is_not_there(path):
    written(path, mask=Causal())

    def change(told) -> None:
        told["threads"][0]["layers"][0]["runs"][0]["rules"]["mask"] = {"type": "Gone"}
        del told["digest"]
        told["digest"] = _digest(told)

    changed(path, change)
    kept = load_recording(path)
    says = r"A map of '.*' cannot be made\.\nThere is no Form of type 'Gone'\.\nThese are known: .*"
    with pytest.raises(ArgumentError, match=says + r"\nIf its mask .* import that class first"):
        kept[0]


@pytest.mark.parametrize("told", ["[]", "3", "{}", '{"format": "x"}', "{", "[" * 10**5])
def test_metadata_that_are_no_recording(path, told):
    save_file({"a": torch.ones(3)}, path, {"recording": told})
    with pytest.raises(ArgumentError, match="is a damaged recording: "):
        load_recording(path)


@pytest.mark.parametrize("back", range(1, 1500, 101))
def test_a_number_that_was_changed(path, back):
    """No map is shown of numbers that are not those that were recorded."""
    raw = bytearray(written(path).read_bytes())
    raw[-back] ^= 1
    path.write_bytes(raw)
    kept = load_recording(path)
    with pytest.raises(ArgumentError, match="damaged recording: ValueError: the numbers of "):
        kept[0]
