"""English to Chinese on LibreOffice's messages, with cross-attention from one to the other.

They come with Debian's package libreoffice-l10n-zh-cn (MPL-2.0) and are read through gettext;
`make examples` fetches it. Every Chinese character is written with a look at those before it and,
through the cross-attention that is drawn, at the English words.
"""

import argparse
import gettext
import re
from difflib import SequenceMatcher
from pathlib import Path

import torch
from block import train
from encoder_decoder import START, Translator
from matplotlib.figure import Figure

from wqkv.show.plots import fonts

DATA = "/usr/lib/libreoffice/program/resource/zh_CN"
LONGEST, BATCH = 16, 64
DRAWN = "select the font from the list"  # never learned from


def messages(folder: str) -> dict[str, str]:
    """Short ones without the marks of keys: "_Open..." and "打开(_O)..." are "open" and "打开"."""
    found = {}
    for path in sorted(Path(folder).rglob("*.mo")):
        with path.open("rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog  # there is no public way to list it
        for message, chinese in catalog.items():
            english = re.sub("[_~]", "", str(message).rpartition("\4")[2]).lower()
            words = re.findall(r"[a-z0-9]+|\S", english.strip(" .:…"))
            chinese = re.sub(r"\s*\([_~]\w\)|[_~]", "", chinese).strip(" .:…：。")
            if 0 < len(words) <= LONGEST / 2 and 0 < len(chinese) < LONGEST:
                found[" ".join(words)] = chinese
    if not found:
        raise SystemExit(
            f"No messages in {folder}. With Debian or Ubuntu: make examples, or\n"
            "apt-get install libreoffice-l10n-zh-cn; else unpack that package and name it: --data"
        )
    return found


def draw(model: Translator, path: str) -> None:
    """Which English word each Chinese character came from: the first block, mean of its heads."""
    chinese, seen = model.translate([DRAWN], LONGEST)[0], []
    cross = model.decoder[0].cross
    cross.register_forward_pre_hook(
        lambda _, given, rest: seen.append(cross.trace(*given, **rest).weights), with_kwargs=True
    )
    model([DRAWN], [[START, *chinese]])
    words, characters = model.spell(DRAWN), [*chinese, "end"]
    axes = Figure(figsize=(5, 6), layout="constrained").subplots()
    axes.imshow(seen[0][0].mean(0).numpy(), cmap="Blues", vmin=0)
    axes.set_xticks(range(len(words)), words, rotation=45, ha="right")
    families, missing = fonts(chinese)
    characters = [character.translate(missing) for character in characters]
    axes.set_yticks(range(len(characters)), characters, fontfamily=families)
    axes.figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=DATA, help="the folder with the package's .mo files")
    parser.add_argument("--output", default="translate.png", help="where to draw an alignment")
    parser.add_argument("--quick", action="store_true", help="100 steps instead of 12 epochs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    found = messages(args.data)
    drawn = (DRAWN, found.pop(DRAWN, "not in this data"))
    pairs = list(found.items())
    pairs = [pairs[i] for i in torch.randperm(len(pairs))]
    held, kept = [drawn, *pairs[: len(pairs) // 12]], pairs[len(pairs) // 12 :]
    kept.sort(key=lambda pair: len("".join(pair)))  # a batch has messages of like length
    batches = [kept[i : i + BATCH] for i in range(0, len(kept), BATCH)]
    order = torch.cat([torch.randperm(len(batches)) for _ in range(12)])
    model = Translator(kept)
    train(model, [batches[i] for i in order[: 100 if args.quick else None]], model.loss, 3e-3)
    model.requires_grad_(False)
    written = model.translate([english for english, _ in held], LONGEST)
    results = [(ours, *pair) for pair, ours in zip(held, written, strict=True)]
    for ours, english, theirs in results[:20]:
        print(f"{english}: {ours}" + (f" (LibreOffice: {theirs})" if ours != theirs else ""))
    same = sum(ours == theirs for ours, _, theirs in results) / len(held)
    like = sum(SequenceMatcher(None, ours, theirs).ratio() for ours, _, theirs in results) / len(
        held
    )
    print(
        f"{same:.1%} of {len(held)} held-out messages as in LibreOffice, {like:.1%} of characters"
    )
    draw(model, args.output)
    print(f"where each character came from: {args.output}")


if __name__ == "__main__":
    main()
