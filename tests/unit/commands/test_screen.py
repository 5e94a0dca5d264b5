"""Whatever a command prints, and by whichever way: no control character reaches the terminal."""

import io
import json
import subprocess
import sys
import textwrap
import threading

import pytest

from tests.unit.draw.stories import make
from wqkv import cli
from wqkv.commands import see
from wqkv.commands.progress import bar, spinner
from wqkv.commands.screen import CleanStream, clean_streams, console, escape_controls, print_json
from wqkv.errors import ArgumentError
from wqkv.study import model as models
from wqkv.study import one_token as story

HOSTILE = "\x1b]0;pwned\x07\r\x7f\x9b2J\u202eback"
SHOWN = r"\x1b]0;pwned\x07\x0d\x7f\x9b2J\u202eback"
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_every_control_character_and_nothing_else():
    for code in range(0x3000):
        c = chr(code)
        control = (code < 32 and c not in "\t\n") or 127 <= code < 160 or c in BIDI
        spelled = f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
        assert escape_controls(f"a{c}b") == f"a{spelled if control else c}b"
    assert escape_controls("猫 👩\u200d🚀 \udcff") == "猫 👩\u200d🚀 \\udcff"


def fails(error):
    def run(args):
        raise error

    return run


def thread(text):
    one = threading.Thread(target=print, args=(text,), kwargs={"file": sys.stderr})
    one.start()
    one.join()


@pytest.mark.parametrize(
    "run",
    [
        lambda args: print(HOSTILE),
        lambda args: print(HOSTILE, file=sys.stderr),
        lambda args: sys.stdout.writelines([HOSTILE]),
        lambda args: thread(HOSTILE),
        fails(ArgumentError(HOSTILE.replace("\r", ""))),
        fails(OSError(2, "No such file", f"{HOSTILE}.jsonl")),
        fails(RuntimeError(HOSTILE)),
    ],
)
def test_every_way_to_print(capsys, monkeypatch, run):
    monkeypatch.setattr(see, "run", run)
    cli.main(["see", "One."])
    printed = "".join(capsys.readouterr())
    assert escape_controls(printed) == printed
    assert r"\x1b]0;pwned\x07" in printed and r"\x9b2J\u202eback" in printed


@pytest.mark.process
def test_what_python_itself_prints():
    """A log without a handler, a warning, a thread that fails: pytest would take them."""
    code = """
        import logging, sys, threading, warnings
        from wqkv import cli
        from wqkv.commands import see
        text = sys.argv[1].encode("latin-1").decode("unicode_escape")
        def fails(): raise RuntimeError(text)
        def run(args):
            logging.getLogger("wqkv").warning(text)
            warnings.warn(text)
            thread = threading.Thread(target=fails)
            thread.start()
            thread.join()
        see.run = run
        sys.exit(cli.main(["see", "One."]))
    """
    said = HOSTILE.encode("unicode_escape").decode()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), said], capture_output=True, check=True
    )
    err = done.stderr.decode()
    assert err.count(SHOWN) == 3 and escape_controls(err) == err


@pytest.mark.parametrize(
    "argv",
    [["see", "One.", HOSTILE + "\n", f"--{HOSTILE}"], [HOSTILE], ["see", "--layer", HOSTILE]],
)
def test_argparse(capsys, argv):
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("wqkv: ") and "pwned" in err and escape_controls(err) == err


def test_what_is_no_users_mistake_is_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(see, "run", fails(ZeroDivisionError("by nothing")))
    assert cli.main(["see", "One."]) == 2
    err = capsys.readouterr().err
    assert err.startswith("wqkv: Traceback (most recent") and "ZeroDivisionError: by nothing" in err


def test_what_was_written(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "open_model", lambda *_: None)
    monkeypatch.setattr(story, "clearest_story", lambda *_: make())
    assert cli.main(["see", "One.", "--html", str(tmp_path / "a\x1b[31m.html")]) == 0
    assert capsys.readouterr().err == rf"wqkv: wrote {tmp_path}/a\x1b[31m.html" + "\n"


def test_rich_keeps_its_codes_and_no_others(monkeypatch):
    """A picture, a spinner and a bar on a terminal in colors."""
    monkeypatch.setenv("TERM", "xterm-256color")
    # rich keeps the codes of a style as the first console drew it, for all tests after this one.
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(models, "open_model", lambda *_: None)
    monkeypatch.setattr(story, "clearest_story", lambda *_: make(model=HOSTILE))
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    assert cli.main(["see", "One."]) == 0
    assert "\x1b[1m" in out.getvalue() and "\x1b]0" not in out.getvalue()
    with clean_streams():
        from rich.text import Text

        console().print(Text(HOSTILE, "bold"), HOSTILE)
        with spinner() as told:
            told(HOSTILE)
            print("\x1b[35mpink")  # rich takes it, so that the spinner stays below
        with bar(HOSTILE) as step:
            step(1, 2)
    assert r"\x1b[35mpink" in err.getvalue()
    for printed in (out.getvalue(), err.getvalue()):
        assert "\x1b[" in printed and r"\x1b]0;pwned\x07" in printed
        assert r"\x9b2J\u202eback" in printed
        assert not [bad for bad in ("\x1b]", "\x07", "\x7f", "\x9b", "\u202e") if bad in printed]


def test_json(capsys):
    with clean_streams():
        print_json({HOSTILE: [HOSTILE, 1.5]})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isascii() and line.isprintable() and r"\u001b]0;pwned\u0007" in line
    assert json.loads(line) == {HOSTILE: [HOSTILE, 1.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))


def test_a_clean_stream_is_no_terminal():
    """Or Python would color its tracebacks and argparse its help, in codes that are shown."""
    screen = CleanStream(Terminal())
    assert not screen.isatty()
    with pytest.raises(io.UnsupportedOperation):
        screen.fileno()
    screen.close()
    print("still there", file=screen, flush=True)
    assert screen.below.getvalue() == "still there\n"
