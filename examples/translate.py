"""English to Chinese on LibreOffice's messages, with cross-attention from one to the other.

They come with Debian's package libreoffice-l10n-zh-cn (MPL-2.0) and are read through gettext.
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

from wqkv.draw.plots import fonts

FETCHED = Path(__file__).parents[1] / ".venv/libreoffice"  # by `make examples`
LONGEST, BATCH, EPOCHS = 16, 64, 12
DRAWN = (  # never learned from
    "select the font from the list",
    "enter a width for the graphic",
    "the table could not be inserted",
)


def messages(folders: list[str | Path]) -> dict[str, str]:
    """Short ones without the marks of keys: "_Open..." and "打开(_O)..." are "open" and "打开"."""
    found = {}
    for path in sorted(path for folder in folders for path in Path(folder).rglob("zh_CN/**/*.mo")):
        with path.open("rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog  # there is no public way to list it
        for message, chinese in catalog.items():
            if isinstance(message, tuple):  # one for each number of things
                continue
            english = re.sub("[_~]", "", message.rpartition("\4")[2]).lower()
            words = re.findall(r"[a-z0-9]+|\S", english.strip(" .:…"))
            chinese = re.sub(r"\s*\([_~]\w\)|[_~]", "", chinese).strip(" .:…：。")
            if 0 < len(words) <= LONGEST / 2 and 0 < len(chinese) < LONGEST:
                found[" ".join(words)] = chinese
    return found


def draw(model: Translator, path: str) -> None:
    """Which words each character comes from: the last block's cross-attention, mean of heads."""
    cross, seen = model.decoder[-1].cross, []
    cross.register_forward_pre_hook(
        lambda _, given, named: seen.append(cross.trace(*given, **named).weights), with_kwargs=True
    )
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, english in zip(figure.subplots(1, len(DRAWN)), DRAWN, strict=True):
        (chinese,), words = model.translate([english], LONGEST), model.spell(english)
        model.write([[START, *chinese]], *model.read([english]))
        weights = seen[-1][0].mean(0)[:-1]  # (character, word), without the end's row
        families, missing = fonts(chinese)
        rows = [character.translate(missing) for character in chinese]
        axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set_yticks(range(len(rows)), rows, family=families)
        axes.set_xticks(range(len(words)), words, rotation=45, ha="right")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["/usr/lib/libreoffice", FETCHED])
    parser.add_argument("--output", default="translate.png", help="where to draw the alignment")
    parser.add_argument("--quick", action="store_true", help=f"100 steps, not {EPOCHS} epochs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    found = messages(args.data)
    if not found:
        raise SystemExit("No messages: run `make examples` or apt install libreoffice-l10n-zh-cn")
    drawn = [(english, found.pop(english)) for english in DRAWN if english in found]
    pairs = list(found.items())
    pairs = [pairs[i] for i in torch.randperm(len(pairs))]
    held, kept = drawn + pairs[: len(pairs) // 12], pairs[len(pairs) // 12 :]
    kept.sort(key=lambda pair: len("".join(pair)))  # a batch has messages of like length
    batches = [kept[i : i + BATCH] for i in range(0, len(kept), BATCH)]
    steps = [batches[i] for _ in range(EPOCHS) for i in torch.randperm(len(batches))]
    model = Translator(kept)
    train(model, steps[:100] if args.quick else steps, model.loss, 3e-3)
    model.requires_grad_(False)
    written = model.translate([english for english, _ in held], LONGEST)
    results = [(*pair, ours) for pair, ours in zip(held, written, strict=True)]
    for english, theirs, ours in results[:20]:
        print(f"{english}: {ours}" + (f" (LibreOffice: {theirs})" if ours != theirs else ""))
    same = sum(theirs == ours for _, theirs, ours in results) / len(held)
    like = sum(SequenceMatcher(None, *both).ratio() for _, *both in results) / len(held)
    print(f"{same:.1%} of {len(held)} held-out messages, {like:.1%} of their characters as theirs")
    draw(model, args.output)
    print(f"where each character came from: {args.output}")


if __name__ == "__main__":
    main()
