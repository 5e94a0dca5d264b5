"""A tiny model in a folder, and a corpus with everything that can be wrong with a document."""

import json
from pathlib import Path

import torch

from tests.tiny import WORDS, tiny_llama

#: What is wrong with which line.
BROKEN = {
    5: (b"the keeper", "not JSON: Expecting value: line 1 column 1 (char 0)"),
    8: (b'{"text": "the \xff"}', "not UTF-8: byte 0xff at 14"),
    13: (b'{"body": "the keeper"}', "no field 'text' among 'body'"),
    14: (b'{"text": ""}', "empty"),
    21: (b'{"text": 3}', "its 'text' is int, not text"),
}
LINES = 29


def model(folder: Path, longest: int = 53) -> str:
    """Takes so many tokens at once."""
    made = tiny_llama(2)
    assert made.speaker is not None
    made.speaker.config.max_position_embeddings = longest
    made.speaker.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return str(folder)


def corpus(path: Path) -> str:
    """29 lines, of which 5 are broken; texts of 3 to 90 words."""
    draw = torch.Generator().manual_seed(2)
    with path.open("wb") as file:
        for number in range(1, LINES + 1):
            count = int(torch.randint(3, 91, (), generator=draw))
            picks = torch.randint(len(WORDS), (count,), generator=draw).tolist()
            line = json.dumps({"text": " ".join(WORDS[i] for i in picks)}).encode()
            file.write(BROKEN.get(number, (line, ""))[0] + b"\n")
    return str(path)
