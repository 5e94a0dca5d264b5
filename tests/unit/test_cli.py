import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import wqkv
from tests.tiny import draw_photo, tiny_llama, tiny_vit
from tests.unit.draw import test_diff, test_heads, test_parity
from tests.unit.draw.stories import make
from tests.vision_language import tiny_llava
from wqkv import Quantized, cli
from wqkv.commands.given import EXAMPLE
from wqkv.effects import diff as effects_diff
from wqkv.errors import ArgumentError
from wqkv.explorer import server
from wqkv.explorer.ticket import address_with_ticket
from wqkv.study import heads, loading, opening
from wqkv.study import model as models
from wqkv.study import one_token as story
from wqkv.study import parity as look_parity
from wqkv.study.known_texts import TEXT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def opened(monkeypatch):
    """A stand-in for the model; the list of names it was opened by, and of what it was asked."""
    asked = []

    def open_model(name, progress):
        progress("reading")
        asked.append(name)
        return "the model"

    def clearest_story(model, sentence, word, layer, head):
        assert model == "the model"
        asked.append((sentence, word, layer, head))
        if word == "zebra":
            raise ArgumentError("No word 'zebra'.\n  words: a\n  layer: int 3\nPass one of them.")
        return make(sentence=sentence)

    monkeypatch.setattr(models, "open_model", open_model)
    monkeypatch.setattr(story, "clearest_story", clearest_story)
    return asked


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(capsys, *argv):
    code = cli.main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_see(capsys, opened):
    code, out, err = run(capsys, "see", "One.", "--word", "it", "--layer", "3", "--head", "1")
    assert (code, err) == (0, "")
    assert opened == [None, ("One.", "it", 3, 1)]
    assert out.count("PROOF HOLDS") == 1
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (" IT ", ""),
        ("7", ""),
        (
            "ity",
            "wqkv: 'ity' is not one token of the model: the token 'it', number 7, is followed\n",
        ),
        ("i\x1b", "wqkv: 'i\\x1b' is not one token of the model: the token 'it', number 7, is fol"),
    ],
)
def test_see_says_which_token_it_follows(capsys, opened, word, says):
    err = run(capsys, "see", "One.", "--word", word, "--json")[2]
    assert err.startswith(says) and bool(err) == bool(says)


def test_several_sentences(capsys, opened, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two.\n\n  Three.  \n"))
    code, out, _ = run(capsys, "see", "One.", "-", "--model", "somewhere")
    assert code == 0
    assert opened[0] == "somewhere"
    assert [asked[0] for asked in opened[1:]] == ["One.", "Two.", "Three."]
    assert out.count("PROOF HOLDS") == 3


def test_json_is_all_of_stdout(capsys, opened):
    code, out, err = run(capsys, "see", "One.", "Two.", "--json")
    assert (code, err) == (0, "")
    assert [told["sentence"] for told in json.loads(out)["stories"]] == ["One.", "Two."]


def test_files(capsys, opened, tmp_path):
    html, image = tmp_path / "猫.html", tmp_path / "map.png"
    code, out, err = run(capsys, "see", "猫", "--html", str(html), "--output", str(image))
    assert (code, out) == (0, "")
    # If no font has the character, a note about it is printed between the two lines.
    written = [line for line in err.splitlines() if "no font here has" not in line]
    assert written == [f"wqkv: wrote {html}", f"wqkv: wrote {image}"]
    assert "猫" in html.read_text("utf-8")
    assert image.read_bytes().startswith(b"\x89PNG")


def test_files_with_json(capsys, opened, tmp_path):
    code, out, _ = run(capsys, "see", "One.", "--json", "--html", str(tmp_path / "a.html"))
    assert code == 0
    assert json.loads(out)["model"] == "tiny-model"
    assert (tmp_path / "a.html").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND; see wqkv --help"),
        (["sea"], "'sea'"),
        (["see", "One.", "--layer", "x"], "--layer: invalid int value: 'x'; see wqkv see --help"),
        (["see", "One.", "--lay", "3"], "--lay"),
        (["see"], f'No sentence was given. Call wqkv see "{EXAMPLE}", or wqkv see - to'),
        (["see", "One.", " "], "Sentence 2 of 2 is empty: ' '."),
        (["see", "\udcff"], r"The sentence '\udcff' is not valid UTF-8."),
        (["see", "-"], "Standard input has no sentence. Pass one sentence a line."),
        (["see", "One.", "--html", "a.png"], "'a.png' needs a name ending in .html or .htm."),
        (
            ["see", "One.", "--output", "a.jpg"],
            "'a.jpg' ends in '.jpg'. Pass a name ending in",
        ),
        (["see", "A", "B", "--output", "a.png"], "the map of one sentence, and there are 2. Pass"),
        (["see", "One.", "--html", "gone/a.html"], "folder 'gone' of 'gone/a.html' is not there."),
        (["see", "One.", "--html", "folder.html"], "'folder.html' is a folder. Pass the name"),
    ],
)
def test_mistakes_before_the_model_opens(capsys, opened, monkeypatch, tmp_path, argv, message):
    (tmp_path / "folder.html").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n \n"))
    code, out, err = run(capsys, *argv)
    assert (code, out, opened) == (2, "", [])
    assert err.startswith("wqkv: ")
    assert message in err
    assert err.count("\n") == 1


def test_stdin_that_is_not_text(capsys, opened, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"fine\n\xff\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    code, _, err = run(capsys, "see", "-")
    assert (code, opened) == (2, [])
    assert err.startswith("wqkv: Standard input is not text in UTF-8: byte 0xff at 5.")


def test_errors_of_the_model_on_one_line(capsys, opened):
    code, out, err = run(capsys, "see", "One.", "--word", "zebra")
    assert (code, out) == (2, "")
    assert err == "wqkv: No word 'zebra'. (words: a; layer: int 3) Pass one of them.\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "a.html"), "wqkv: a.html: Permission denied\n"),
        (OSError("the disk\nis gone"), "wqkv: the disk is gone\n"),
    ],
)
def test_unwritable_file(capsys, opened, monkeypatch, tmp_path, error, line):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(Path, "write_text", refuse)
    code, out, err = run(capsys, "see", "One.", "--html", str(tmp_path / "a.html"))
    assert (code, out, err) == (2, "", line)


def test_interrupt(capsys, opened, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "open_model", interrupt)
    assert run(capsys, "see", "One.") == (130, "", "wqkv: interrupted\n")


@pytest.mark.process
def test_the_package_runs_as_the_command():
    asked = [sys.executable, "-m", "wqkv", "--version"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout == f"wqkv {wqkv.__version__}\n"


def test_version_and_help(capsys):
    assert run(capsys, "--version") == (0, f"wqkv {wqkv.__version__}\n", "")
    code, out, err = run(capsys, "see", "--help")
    assert (code, err) == (0, "")
    assert EXAMPLE.split()[0] in out


@pytest.mark.parametrize(("module", "argv"), [("rich", []), ("matplotlib", ["--output", "a.png"])])
def test_missing_extra(capsys, opened, monkeypatch, module, argv):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(capsys, "see", "One.", *argv)
    assert (code, opened) == (2, [])
    assert f"needs the package `{module}`" in err
    assert "pip install 'wqkv[show]'" in err


@pytest.mark.parametrize(("no_color", "spins"), [("", True), ("1", False)])
def test_progress_on_a_terminal(capsys, opened, monkeypatch, no_color, spins):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert cli.main(["see", "One.", "--json"]) == 0
    assert ("\x1b" in terminal.getvalue()) == spins
    json.loads(capsys.readouterr().out)


@pytest.mark.process
@pytest.mark.parametrize("json_or_not", [["--json"], []])
def test_closed_pipe_ends_quietly(json_or_not):
    code = (
        "import sys; from wqkv import cli\n"
        "from wqkv.study import model as models, one_token as story\n"
        "from tests.unit.draw.stories import make\n"
        "models.open_model = lambda *_: None\n"
        "story.clearest_story = lambda *_: make([f'w{i}' for i in range(211)])\n"
        "sys.exit(cli.main(['see', *map(str, range(9)), *sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", code, *json_or_not]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        process.stdout.read(7)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_see_a_pair(capsys, minilm, monkeypatch):
    monkeypatch.setattr("wqkv.study.model.open_model", lambda name, progress: minilm)
    argv = ("see", "Who lit it?", "--pair", "The keeper.", "--word", "keeper", "--json")
    code, out, _ = run(capsys, *argv)
    (story,) = json.loads(out)["stories"]
    assert (code, story["sentence"]) == (0, "Who lit it?\nThe keeper.")
    assert story["tokens"].count("[SEP]") == 2
    code, _, err = run(capsys, "see", "One.", "--pair", "\udcff")
    assert (code, err) == (2, "wqkv: The sentence '\\udcff' is not valid UTF-8.\n")


# open


def test_open_a_pair(capsys, explored):
    assert run(capsys, "open", "Who?", "--pair", "The keeper.")[0] == 0
    assert explored[1][1] == ("Who?", "The keeper.", 0)


@pytest.fixture
def explored(monkeypatch):
    """A stand-in for the model, the server and the browser; what was asked of them."""
    asked = []

    def open_model(name, progress):
        asked.append(name)
        return "the model"

    def serve(model, text, *, target, pair, picture, window, source, host, port, ready):
        plain = (target, pair, picture, window) == (None, None, None, 0)
        read = text if plain else (text, target or pair or picture, window)
        asked.append((model, read, source, host, port))
        ready("http://the-address/")

    monkeypatch.setattr(opening, "open_any", open_model)
    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr("webbrowser.open", asked.append)
    return asked


def test_open(capsys, explored):
    code, out, err = run(capsys, "open", "One.", "--model", "somewhere", "--port", "8007")
    assert (code, out) == (0, "")
    assert err == "wqkv: http://the-address/\nwqkv: Ctrl-C ends it\n"
    served = ("the model", "One.", "somewhere", "127.0.0.1", 8007)
    assert explored[:2] == ["somewhere", served]


def test_no_process_is_told_the_token(capsys, explored):
    """Only the address of a ticket, since all users of a machine see the arguments."""
    assert run(capsys, "open", "One.")[0] == 0
    assert explored[2] == address_with_ticket("http://the-address/") != "http://the-address/"
    assert "the-address" not in explored[2]


def test_open_in_chinese(capsys, explored):
    code, out, err = run(capsys, "open", "One.", "--lang", "zh")
    assert (code, out) == (0, "")
    assert err == "wqkv: http://the-address/#lang=zh\nwqkv: 按 Ctrl-C 结束\n"
    assert explored[2] == address_with_ticket("http://the-address/") + "#lang=zh"


def test_open_without_a_browser_or_a_text(capsys, explored, monkeypatch, tmp_path):
    assert run(capsys, "open", "--no-browser")[0] == 0
    assert explored == [None, ("the model", EXAMPLE, None, "127.0.0.1", 0)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two.\nThree."))
    assert run(capsys, "open", "-", "--no-browser")[0] == 0
    assert explored[-1][1] == "Two.\nThree."
    (tmp_path / "猫.txt").write_text("\ufeffFour.\n", "utf-8")
    assert run(capsys, "open", "--text", str(tmp_path / "猫.txt"), "--no-browser")[0] == 0
    assert explored[-1][1] == "Four.\n"


def test_open_two_texts(capsys, explored):
    assert run(capsys, "open", "One.", "--target", "Eins.", "--no-browser")[0] == 0
    assert explored[-1][1] == ("One.", "Eins.", 0)
    code, _, err = run(capsys, "open", "One.", "--target", "\udcff")
    assert (code, err) == (2, "wqkv: The text '\\udcff' is not valid UTF-8.\n")


def test_open_at_a_window(capsys, explored):
    assert run(capsys, "open", "One.", "--window", "3", "--no-browser")[0] == 0
    assert explored[-1][1] == ("One.", None, 3)


def test_open_a_conversation(capsys, explored, monkeypatch):
    """Its template is asked before the server starts."""
    model = tiny_llama(layers=1)
    monkeypatch.setattr(opening, "open_any", lambda name, progress: model)
    code, _, err = run(capsys, "open", "One.", "--chat", "--no-browser")
    assert code == 2 and "tiny-llama has no template for a conversation" in err
    model.tokenizer.chat_template = "<s>{{ messages[0].content }}"
    assert run(capsys, "open", "One.", "--chat", "--no-browser")[0] == 0
    assert explored[-1][1] == "One."


def test_open_for_others(capsys, explored):
    assert run(capsys, "open", "One.", "--host", "192.0.2.7", "--others", "--no-browser")[0] == 0
    assert explored[-1][3] == "192.0.2.7"
    for host in ("localhost", "::1", "[0:0:0:0:0:0:0:1]", "LOCALHOST.", "127.1", "127.0.0.2"):
        assert run(capsys, "open", "One.", "--host", host, "--no-browser")[0] == 0


@pytest.mark.parametrize(
    ("lang", "option", "wrote"), [("en", "--save", "wrote"), ("zh", "--export", "已写入")]
)
def test_open_writes_a_page(capsys, monkeypatch, tmp_path, lang, option, wrote):
    monkeypatch.setattr(opening, "open_any", lambda name, progress: tiny_llama(layers=1))
    path = tmp_path / "猫.html"
    argv = ("open", "the sea", "--model", "a/b", option, str(path), "--lang", lang)
    assert run(capsys, *argv) == (0, "", f"wqkv: {wrote} {path}\n")
    page = path.read_text("utf-8")
    assert f"lang={lang}" in page.partition("</head>")[0]
    assert "open_model('a/b')" in page and '"layers": ["H4sI' in page  # H4sI: gzip in base64


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["One.", "--text", "text.txt"], "There is a TEXT and --text text.txt. Pass one of them."),
        (["--text", "gone.txt"], "gone.txt: No such file or directory"),
        ([""], "Text 1 of 1 is empty. Pass at least one word."),
        (["-"], "Standard input is empty. Pass at least one word."),
        (["\udcff"], r"The text '\udcff' is not valid UTF-8."),
        (["One.", "--export", "a.png"], "The page 'a.png' needs a name ending in .html or .htm."),
        (["One.", "--export", "gone/a.html"], "The folder 'gone' of 'gone/a.html' is not there."),
        (["One.", "--lang", "fr"], "argument --lang: invalid choice: 'fr'"),
        (["One.", "--port", "65536"], "There is no port 65536. Pass 1 to 65535, or 0 for any."),
        (["One.", "--port", "-1"], "There is no port -1."),
        (
            ["One.", "--host", "192.0.2.7"],
            "Other machines can reach 192.0.2.7: whoever knows the address could read your texts",
        ),
        (["--host", "0.0.0.0", "--others"], "The host '0.0.0.0' is not a name that a browser can"),
        (["--host", "0", "--others"], "The host '0' is not a name that a browser can"),
        (["--host", "0:0::0", "--others"], "The host '0:0::0' is not a name that a browser can"),
        (["One.", "Two."], "unrecognized arguments: Two."),
    ],
)
def test_mistakes_of_open(capsys, explored, monkeypatch, tmp_path, argv, message):
    (tmp_path / "text.txt").write_text("One.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n \n"))
    code, out, err = run(capsys, "open", *argv)
    assert (code, out, explored) == (2, "", [])
    assert err.startswith("wqkv: ") and message in err
    assert err.count("\n") == 1


def test_open_a_picture(capsys, explored, monkeypatch, tmp_path):
    model, photo = tiny_vit(), str(draw_photo(tmp_path / "photo.png"))
    monkeypatch.setattr(opening, "open_any", lambda name, progress: model)
    assert run(capsys, "open", photo, "--no-browser")[0] == 0
    assert explored[-1][:2] == (model, photo)
    page = tmp_path / "page.html"
    assert run(capsys, "open", photo, "--save", str(page))[0] == 0
    assert "data:image/png" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "tiny-vit reads a picture, and no text. Pass the path of a picture"),
        (["photo.png", "--pair", "A dog."], "tiny-vit reads a picture, and no text."),
        (["photo.png", "--chat"], "tiny-vit reads a picture, and no text."),
        (["What is this?"], "there is no file 'What is this?'. Pass the path of a picture"),
        (["text.txt"], "'text.txt' is no picture that opens (Unidentified"),
        (["photo.png", "--lang", "zh", "--chat"], "tiny-vit 读的是图片，不读文本。"),
    ],
)
def test_mistakes_of_open_with_a_picture(capsys, explored, monkeypatch, tmp_path, argv, message):
    draw_photo(tmp_path / "photo.png")
    (tmp_path / "text.txt").write_text("A text.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(opening, "open_any", lambda name, progress: tiny_vit())
    code, out, err = run(capsys, "open", *argv, "--no-browser")
    assert (code, out, explored) == (2, "", []) and message in err


def test_a_picture_for_a_model_of_texts(capsys, explored, monkeypatch, tmp_path):
    photo = str(draw_photo(tmp_path / "photo.JPG"))
    monkeypatch.setattr(opening, "open_any", lambda name, progress: tiny_llama(layers=1))
    code, _, err = run(capsys, "open", photo)
    assert code == 2 and f"tiny-llama reads a text, and {photo!r} is a picture." in err


def test_open_a_text_with_a_picture(capsys, explored, monkeypatch, tmp_path):
    model, photo = tiny_llava(), str(draw_photo(tmp_path / "photo.png"))
    monkeypatch.setattr(opening, "open_any", lambda name, progress: model)
    asked = ("open", "what is here", "--picture", photo, "--no-browser")
    assert run(capsys, *asked)[0] == 0
    assert explored[-1][1] == ("what is here", photo, 0)
    assert run(capsys, "open", "what is here", "--no-browser")[0] == 0
    assert explored[-1][1] == "what is here"
    page = tmp_path / "page.html"
    assert run(capsys, *asked, "--save", str(page))[0] == 0
    assert "data:image/png" in page.read_text("utf-8")
    code, _, err = run(capsys, "open", "what is here", "--picture", "gone.png")
    assert code == 2 and "and there is no file 'gone.png'" in err
    monkeypatch.setattr(opening, "open_any", lambda name, progress: tiny_llama(layers=1))
    code, _, err = run(capsys, *asked, "--lang", "zh")
    assert code == 2 and "tiny-llama 不会同时读文本和图片。" in err


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_open_with_a_missing_extra(capsys, explored, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(capsys, "open", "One.")
    assert (code, explored) == (2, [])
    assert f"The explorer needs the package `{module}`" in err
    assert "pip install 'wqkv[show]'" in err


def test_open_where_the_port_is_taken(capsys, explored, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(opening, "open_any", lambda name, progress: tiny_llama(layers=1))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = run(capsys, "open", "One.", "--no-browser", "--port", port)
    assert code == 2 and err.startswith(f"wqkv: Port {port} of 127.0.0.1 cannot be used: Addr")


# heads


@pytest.fixture
def headed(monkeypatch):
    """A stand-in for the model and its heads; what was asked of them."""
    asked = []

    def open_model(name, progress):
        asked.append(name)
        return SimpleNamespace(name="tiny-model")

    def read(model, texts, source, progress):
        progress(1, 2)
        asked.append((texts, source))
        return test_heads.make(source=source)

    def label_model(model, progress):
        progress(1, 2)
        asked.append("no text")
        return test_heads.make(source="random words")

    monkeypatch.setattr(models, "open_model", open_model)
    monkeypatch.setattr(heads, "read", read)
    monkeypatch.setattr(heads, "label_model", label_model)
    return asked


def test_heads_reads_the_text_that_is_given(capsys, headed, monkeypatch, tmp_path):
    code, out, err = run(capsys, "heads", "One.", "--model", "somewhere")
    assert (code, err) == (0, "")
    assert headed == ["somewhere", (["One."], "the given text")]
    assert out.startswith("tiny-model, 3 layers x 5 heads, over 1,234 tokens: the given")
    assert "\x1b" not in out
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two.\nThree."))
    assert run(capsys, "heads", "One.", "-")[0] == 0
    assert headed[-1] == (["One.", "Two.\nThree."], "the 2 given texts")
    (tmp_path / "猫.txt").write_text("\ufeffFour.\n", "utf-8")
    assert run(capsys, "heads", "--text", str(tmp_path / "猫.txt"))[0] == 0
    assert headed[-1] == (["Four.\n"], "the text of 猫.txt")


def test_heads_without_a_text(capsys, headed):
    assert "random words" in run(capsys, "heads", "--model", "causal")[1]
    assert headed == ["causal", "no text"]


def test_heads_writes_files_too(capsys, headed, tmp_path):
    table, picture = tmp_path / "a.csv", tmp_path / "a.PNG"
    code, out, err = run(capsys, "heads", "--json", "--csv", str(table), "--png", str(picture))
    assert (code, err) == (0, f"wqkv: wrote {table}\nwqkv: wrote {picture}\n")
    assert len(json.loads(out)["heads"]) == 15
    assert len(table.read_text("utf-8").splitlines()) == 16
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "prev .51" in run(capsys, "heads", "--csv", str(table))[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["One.", "--text", "text.txt"], "There is a TEXT and --text text.txt. Pass one of them."),
        (["--text", "gone.txt"], "gone.txt: No such file or directory"),
        (["--text", "folder.png"], "folder.png: Is a directory"),
        (["--text", "empty.txt"], "'empty.txt' is empty. Name a file with at least one word."),
        (["--text", "bytes.txt"], "'bytes.txt' is not text in UTF-8: byte 0xff at 5."),
        (["One.", " "], "Text 2 of 2 is empty. Pass at least one word."),
        (["-"], "Standard input is empty. Pass at least one word."),
        (["\udcff"], r"The text '\udcff' is not valid UTF-8."),
        (["--csv", "a.txt"], "The table 'a.txt' needs a name ending in .csv."),
        (["--png", "a"], "The image 'a' needs a name ending in .png."),
        (["--png", "a.svg"], "The image 'a.svg' needs a name ending in .png."),
        (["--csv", "gone/a.csv"], "The folder 'gone' of 'gone/a.csv' is not there."),
        (["--png", "folder.png"], "'folder.png' is a folder. Pass the name of a file."),
        (["--layer", "3"], "unrecognized arguments: --layer; see wqkv --help"),
    ],
)
def test_mistakes_of_heads(capsys, headed, monkeypatch, tmp_path, argv, message):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.txt").write_text("One.")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "bytes.txt").write_bytes(b"fine\n\xff\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n \n"))
    code, out, err = run(capsys, "heads", *argv)
    assert (code, out, headed) == (2, "", [])
    assert err.startswith("wqkv: ") and message in err
    assert err.count("\n") == 1


def test_heads_of_stdin_that_is_not_text(capsys, headed, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    code, _, err = run(capsys, "heads", "-")
    assert (code, headed) == (2, [])
    assert err.startswith("wqkv: Standard input is not text in UTF-8: byte 0xff at 0.")


@pytest.mark.parametrize(("module", "argv"), [("rich", []), ("matplotlib", ["--png", "a.png"])])
def test_heads_with_a_missing_extra(capsys, headed, monkeypatch, module, argv):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(capsys, "heads", "One.", *argv)
    assert (code, headed) == (2, [])
    assert f"needs the package `{module}`" in err
    assert "pip install 'wqkv[show]'" in err


@pytest.mark.parametrize(("no_color", "moves"), [("", True), ("1", False)])
def test_bar_on_a_terminal(capsys, headed, monkeypatch, no_color, moves):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert cli.main(["heads", "One.", "--json"]) == 0
    assert ("reading with tiny-model" in terminal.getvalue()) == moves
    assert ("1 of 2 layers" in terminal.getvalue()) == moves
    json.loads(capsys.readouterr().out)


# diff


@pytest.fixture
def differed(monkeypatch):
    """A stand-in for the models and their difference; what was asked of them."""
    asked = []
    found = test_diff.make()

    def open_model(name, progress):
        asked.append(name)
        return SimpleNamespace(name=name)

    def diff(a, b, text, progress):
        progress(1, 9)
        asked.append((a.name, getattr(b, "name", b), text))
        return found

    monkeypatch.setattr(models, "open_model", open_model)
    monkeypatch.setattr(effects_diff, "diff", diff)
    return asked


def test_diff_of_two_models(capsys, differed, monkeypatch, tmp_path):
    code, out, err = run(capsys, "diff", "one", "two", "A cat.")
    assert (code, err) == (0, "")
    assert differed == ["one", "two", ("one", "two", "A cat.")]
    assert out.startswith("A: tiny-llama\nB: ") and "\x1b" not in out
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two.\nThree."))
    assert run(capsys, "diff", "one", "two", "-")[0] == 0
    assert differed[-1][2] == "Two.\nThree."
    (tmp_path / "猫.txt").write_text("\ufeffFour.\n", "utf-8")
    assert run(capsys, "diff", "one", "two", "--text", str(tmp_path / "猫.txt"))[0] == 0
    assert differed[-1][2] == "Four.\n"
    assert run(capsys, "diff", "one", "two")[0] == 0
    assert differed[-1][2] == TEXT


@pytest.mark.parametrize(
    "argv",
    [
        ["one", "--cache-bits", "4", "A cat."],
        ["one", "A cat.", "--cache-bits", "4"],
        ["--cache-bits", "4", "one", "A cat."],
    ],
)
def test_diff_of_keys_in_a_cache(capsys, differed, argv):
    """A text may stand behind an option."""
    assert run(capsys, "diff", *argv)[0] == 0
    name, cache, text = differed[-1]
    assert (differed[0], name, text, len(differed)) == ("one", "one", "A cat.", 2)
    assert isinstance(cache, Quantized) and (cache.bits, cache.group) == (4, None)


def test_diff_writes_files_too(capsys, differed, tmp_path):
    table, picture = tmp_path / "a.csv", tmp_path / "a.PNG"
    files = ["--csv", str(table), "--png", str(picture)]
    code, out, err = run(capsys, "diff", "one", "two", "--json", *files)
    assert (code, err) == (0, f"wqkv: wrote {table}\nwqkv: wrote {picture}\n")
    assert len(json.loads(out)["heads"]) == 18
    assert len(table.read_text("utf-8").splitlines()) == 19
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: A"),
        (["one"], "There is one model. Pass a second one, or --cache-bits."),
        (["one", "two", "A", "cat"], "There are two models, and behind them come 2 texts."),
        (["one", "two", "A cat.", "--cache-bits", "4"], "--cache-bits compares one model with its"),
        (["one", "--cache-bits", "3", "A cat."], "argument --cache-bits: invalid choice: 3"),
        (["one", "two", "A", "--text", "b.txt"], "There is a TEXT and --text b.txt. Pass one"),
        (["one", "two", " "], "Text 1 of 1 is empty. Pass at least one word."),
        (["one", "two", "\udcff"], r"The text '\udcff' is not valid UTF-8."),
        (["one", "two", "--csv", "a.txt"], "The table 'a.txt' needs a name ending in .csv."),
        (["one", "two", "--png", "a.svg"], "The image 'a.svg' needs a name ending in .png."),
        (["one", "two", "A cat.", "--layer", "3"], "unrecognized arguments: --layer"),
    ],
)
def test_mistakes_of_diff(capsys, differed, argv, message):
    code, out, err = run(capsys, "diff", *argv)
    assert (code, out, differed) == (2, "", [])
    assert err.startswith("wqkv: ") and message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("module", "argv"), [("rich", []), ("matplotlib", ["--png", "a.png"])])
def test_diff_with_a_missing_extra(capsys, differed, monkeypatch, module, argv):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(capsys, "diff", "one", "two", *argv)
    assert (code, differed) == (2, [])
    assert f"needs the package `{module}`" in err and "pip install 'wqkv[show]'" in err


def test_diff_is_interrupted(capsys, differed, monkeypatch):
    def stop(a, b, text, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(effects_diff, "diff", stop)
    assert run(capsys, "diff", "one", "two") == (130, "", "wqkv: interrupted\n")


# parity


@pytest.fixture
def compared(monkeypatch):
    """A stand-in for the model and its parity; the names it was opened by."""
    asked = []

    def load_bare(name, progress):
        progress("reading")
        asked.append(name)
        return "the model", "tiny-model"

    def found(model, progress):
        assert model == "the model"
        progress(1, 2)
        return test_parity.make(1e-7, 0.5 if asked[-1] == "wrong" else 1e-6)

    monkeypatch.setattr(loading, "load_bare", load_bare)
    monkeypatch.setattr(look_parity, "parity", found)
    return asked


def test_parity_exits_with_1_where_it_fails(capsys, compared):
    code, out, err = run(capsys, "parity")
    assert (code, err) == (0, "")
    assert "parity holds in 2 of 2 layers" in out
    code, out, err = run(capsys, "parity", "wrong")
    assert (code, err) == (1, "")
    assert "EXCEEDS" in out
    assert compared == [None, "wrong"]


def test_parity_as_json(capsys, compared, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    code, out, _ = run(capsys, "parity", "wrong", "--json")
    assert (code, json.loads(out)["holds"]) == (1, False)
    assert run(capsys, "parity", "right", "--json")[0] == 0


def test_mistakes_of_parity(capsys, compared, monkeypatch):
    code, _, err = run(capsys, "parity", "a", "b")
    assert (code, err.count("\n")) == (2, 1)
    monkeypatch.setitem(sys.modules, "rich", None)
    code, _, err = run(capsys, "parity")
    assert (code, compared) == (2, [])
    assert "pip install 'wqkv[show]'" in err
