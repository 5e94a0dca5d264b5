"""`--lang zh`: every command on a tiny model, and what is wrong with what was typed."""

import re
from html.parser import HTMLParser

import pytest

from tests.tiny import WORDS, text, tiny_llama
from wqkv import cli

#: Three English words in a row, none of which is a part of a name, a path, code or a number.
ENGLISH = re.compile(r"(?<![\w@<./'-])[A-Za-z]+(?:[ ,]+[A-Za-z]+){2,}(?![\w@>./'])")
#: What may stay Latin: what was typed, tokens, code.
QUOTED = re.compile(r"'[^']*'|`[^`]*`|\"[^\"]*\"")

#: The names of formulas, which are the paper's in every language.
FORMULA = ("x", "WQ", "WK", "WV", "WO", "q", "k", "v", "context", "share")


def english(said):
    """The lines in which there is an English sentence; tokens of the text and formulas are none."""
    known = {*WORDS, "s", "unk", *FORMULA}
    found = []
    for line in said.splitlines():
        for match in ENGLISH.finditer(QUOTED.sub("“”", line)):
            if not known.issuperset(re.findall(r"\w+", match[0])):
                found.append(line)
    return found


class Page(HTMLParser):
    """The texts of a page, and what its parts are called, without style and script."""

    def __init__(self, page):
        super().__init__()
        self.said, self._inside = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.said += [value for name, value in attrs if name in ("title", "aria-label")]

    def handle_data(self, data):
        if self._inside not in ("style", "script"):
            self.said.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny causal model as it lies on a disk."""
    path, model = tmp_path_factory.mktemp("models") / "tiny-llama", tiny_llama(2)
    model.speaker.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return str(path)


def run(capsys, *argv):
    """Run a command in Chinese: its status, and all that it said."""
    code = cli.main([*argv, "--lang", "zh"])
    out, err = capsys.readouterr()
    return code, out + err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["see", "the lamp", "--model"], "标出的是 WQ 的第"),
        (["see", "the lamp", "--html", "see.html", "--model"], "已写入 see.html"),
        (["heads", text(40), "--model"], "落在那里的注意力权重超过 0.50"),
        (["heads", "--model"], "随机词元，读两遍（随机种子 0）"),
        (["why", text(17), "--by", "head", "--by", "span", "--model"], "这并不证明"),
        (["why", text(7), "--by", "token", "--model"], "各个词元，逐一在所有层和头里"),
        (["why", text(17), "--how", "zero", "--budget", "1", "--model"], "带来的值变为 0"),
        (["diff", "--cache-bits", "4", "--text", "text.txt"], "每次只把一层的键舍入到 4 位"),
        (["parity"], "2 层中有 2 层一致"),
        (["survey", "--workers", "1", "--out", "out", "--data", "docs", "--part", "7"], "跳过：1"),
        (["open", "the lamp", "--export", "page.html", "--model"], "已写入 page.html"),
        (["models"], "--model 也可以是一个文件夹"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)  # fmt: skip
def test_a_command_speaks_chinese(capsys, folder, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "text.txt").write_text(text(17), "utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text(text(61), "utf-8")
    (tmp_path / "docs" / "b.jsonl").write_text('{"text": ""}\n', "utf-8")
    given = [argv[0], folder, *argv[1:]] if argv[0] in ("diff", "parity", "survey") else argv
    given = [*argv, folder] if argv[-1] == "--model" else given
    code, told = run(capsys, *given)
    assert code == 0, told
    assert said in "".join(told.split("\n")), told
    assert english(told) == []
    if "see.html" in argv:
        page = (tmp_path / "see.html").read_text("utf-8")
        assert '<html lang="zh">' in page and "x 乘以这一列" in page
        assert english("\n".join(Page(page).said)) == []
    if argv[0] == "survey":
        page = (tmp_path / "out" / "survey.html").read_text("utf-8")
        assert '<html lang="zh">' in page and "的各个注意力头在做什么？" in page
        assert english("\n".join(Page(page).said)) == []


@pytest.mark.parametrize(
    "command", ["see", "heads", "why", "diff", "parity", "survey", "open", "models"]
)
def test_a_command_has_the_option(capsys, command):
    assert cli.main([command, "--help"]) == 0
    assert "--lang" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["heads", ""], "1 段文本中的第 1 段是空的。请至少输入一个词。"),
        (["heads", "A", "--text", "b.txt"], "同时给出了 TEXT 和 --text b.txt。请只给其中一个。"),
        (["heads", "--text", "gone.txt"], "gone.txt: 没有这个文件或文件夹"),
        (["heads", "--text", "."], ".: 是一个文件夹"),
        (["heads", "--text", "bytes.txt"], "'bytes.txt' 不是 UTF-8 文本：位置 0 处的字节为 0xff。"),
        (["heads", "--text", "empty.txt"], "'empty.txt' 是空的。请指定一个至少有一个词的文件。"),
        (["heads", "\udcff"], r"文本 '\udcff' 不是有效的 UTF-8。"),
        (["heads", "A", "--csv", "a.txt"], "表格 'a.txt' 的文件名必须以 .csv 结尾。"),
        (["heads", "A", "--csv", "x/a.csv"], "'x/a.csv' 所在的文件夹 'x' 不存在。"),
        (["heads", "A", "--csv", "folder.csv"], "'folder.csv' 是文件夹。请给出文件名。"),
        (["heads", "A", "--model", "a/b/c"], "没有模型 'a/b/c'：没有这个文件夹，不是 hub 上的名称"),
        (["heads", "A", "--model", "folder.csv"], "'folder.csv' 不是模型：里面没有 config.json"),
        (["heads", "A", "--model", "empty.txt"], "'empty.txt' 是一个文件。请给出文件夹，或 .gguf"),
        (["see", "the lamp", "--layer", "7"], "没有第 7 层：模型有 2 层，编号 0 到 1。"),
        (["see", "the lamp", "--head", "7"], "没有第 7 个头：模型有 6 个头，编号 0 到 5。"),
        (["see", "the lamp", "--word", "sea"], "句子里没有词元 'sea'。句子的词元：<s> the"),
        (["see"], "没有给出句子。请用 wqkv see"),
        (["see", "A", " "], "2 个句子中的第 2 个是空的：' '。"),
        (["see", "A", "--output", "a.jpg"], "图片文件 'a.jpg' 以 '.jpg' 结尾。文件名请以"),
        (["see", "A", "B", "--output", "a.png"], "--output 只能存一个句子的图，而这里有 2 个。"),
        (["why"], "没有给出文本。请用 wqkv why"),
        (["why", "the lamp", "--at", "7"], "没有第 7 个词元：文本有 3 个词元，编号 0 到 2。"),
        (["why", "the lamp", "--budget", "0"], "`budget` 为 0，即要去掉的连接数。至少为 1。"),
        (["why", "the", "--answer", "it", "--against", "it"], "的第一个词元相同，都是 '<unk>'。"),
        (["why", "the", "--target", "it"], "tiny-llama 不写第二段文本，却给出了目标文本。"),
        (["diff", "a"], "只有一个模型。请再给一个，或给 --cache-bits。"),
        (["diff", "a", "b", "c", "d"], "两个模型之后有 2 段文本。请只给一段，并加引号。"),
        (["open", "A", "--port", "77777"], "没有端口 77777。请给 1 到 65535，或给 0 任选一个。"),
        (["open", "A", "--host", "0.0.0.0"], "浏览器无法访问主机名 '0.0.0.0'。"),
        (["open", "A", "--host", "192.0.2.7"], "其他机器可以访问 192.0.2.7："),
        (["survey", "--data", "gone", "--out", "out"], "没有文件或文件夹 'gone'。"),
        (["survey", "--data", ".", "--out", "out", "--part", "0"], "`documents` 为 0。"),
        (["survey", "--data", "empty", "--out", "out"], "empty 里没有文档。"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_chinese(capsys, folder, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    for name in ("folder.csv", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "bytes.txt").write_bytes(b"\xff")
    (tmp_path / "empty.txt").write_text(" ")
    opens = argv[0] in ("see", "why", "heads") and "--model" not in argv
    model = ["--model", folder] * opens + ([folder, "--workers", "1"] * (argv[0] == "survey"))
    code, told = run(capsys, *argv, *model)
    assert code == 2
    assert told.startswith("wqkv: ") and said in told and told.count("\n") == 1
    assert english(told) == []


def test_an_english_sentence_is_found():
    assert english("层 头\nThere is no layer 7: the model has 2 layers.") != []
    assert english("没有模型 'no such model'，the lamp was (owner/model)。") == []
