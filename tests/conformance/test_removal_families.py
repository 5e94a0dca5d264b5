"""Every family that reads a text: links, heads and tokens removed as in the model really run so.

The truth is `tests/removal.py`, in float64; some parts of some models stay float32.
"""

import warnings

import pytest
import torch

from tests.conformance.test_from_hf import CASES, tiny
from tests.conformance.test_view_families import IDS, OTHERS, TWO_TEXTS
from tests.removal import taken_out
from wqkv.effects.asked import OneText, TwoTexts
from wqkv.effects.blocks import hidden_of
from wqkv.effects.candidates import Candidates
from wqkv.effects.passes import HiddenSpan, ModelChange
from wqkv.effects.records import Question
from wqkv.effects.rerun import Rerun
from wqkv.errors import ArgumentError
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair
from wqkv.study.tokens import TokenizedText

ALONE = "of them ask transformers' AttentionInterface for their function"
REFUSED = {
    **dict.fromkeys(["codegen", "gpt_neo", "gptj", "mpnet", "mpt", "mpt, with a scale"], ALONE),
    **dict.fromkeys(
        ["falcon", "falcon, all heads", "falcon, grouped", "falcon, alibi", "bloom"], ALONE
    ),
    "diffllama": "asks for its attention function more often than it has layers",
    "gemma3n_text": r"is given f64\[4, 1, 11, 48\]",
    "qwen3_next": "Layer 0, which the configuration calls 'linear_attention', has no WQ",
}
#: Its blocks hold two layers: the keys of the second one change with the first.
TWO_LAYERS = "albert, in groups"
READS = [case for case in CASES if case not in (*OTHERS, *TWO_TEXTS.split(), "whisper")]
ATOL = 5e-6


def asked_of(case: str) -> OneText | TwoTexts:
    """A direction of the last hidden state of the last token."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of configurations that say too much
        model, words = tiny(case), TokenizedText.of_ids(IDS)
        question, way = Question("function", "way"), torch.randn(48, dtype=torch.float64)

        def read(output):
            return output[0][:, -1] @ way[:, None]

        if case in TWO_TEXTS.split():
            pair, written = OpenPair(model, None, case), TokenizedText.of_ids(IDS[6::-1])
            return TwoTexts(pair, words, written, question, read, model)
        return OneText(OpenModel(model, None, case), words, question, read, model, last_only=True)


@torch.no_grad()
def truth(asked, **what) -> float:
    with taken_out(asked.speaker, **what):
        return float(asked.terms(asked.run()).sum())


def links_of(rerun: Rerun, found: Candidates, count: int = 5):
    """Links of all weights: every so many, where they stand by their effect."""
    some = sorted((*found.others, *found.resting), key=lambda one: -abs(one.effect))
    return [one.link for one in some[:: max(1, len(some) // count)]]


@torch.no_grad()
def behind(asked, modules, number, row, **what):
    """The hidden state of a token behind block number `number`."""
    seen = []
    hooks = [
        module.register_forward_hook(lambda _, __, y: seen.append(hidden_of(y)[0]))
        for module in modules
    ]
    truth(asked, **what)
    for hook in hooks:
        hook.remove()
    return seen[number][row]


@pytest.mark.parametrize("case", [*READS, *TWO_TEXTS.split()])
def test_family(case):
    if case in REFUSED:
        with pytest.raises(ArgumentError, match=REFUSED[case]):
            asked = asked_of(case)
            Rerun(asked.model, asked, Candidates("renormalize"))
        return
    asked = asked_of(case)
    rerun = Rerun(asked.model, asked, found := Candidates("renormalize"))
    assert rerun.off < ATOL and rerun.before == pytest.approx(truth(asked), abs=ATOL)

    def call(site):
        return rerun.sites.index(site)

    links, effects = links_of(rerun, found), []
    for how, kind in (("renormalize", "links"), ("zero", "zeroed")):
        after = rerun.after([ModelChange(links=(link,)) for link in links], how)
        for link, number in zip(links, after, strict=True):
            out = [(call(link.site), link.head, link.query, link.key)]
            assert number == pytest.approx(truth(asked, **{kind: out}), abs=ATOL), (how, link)
            effects.append(abs(number - rerun.before))
    site = rerun.sites[-1]
    number = rerun.after([ModelChange(heads=((site, 1),))])[0]
    assert number == pytest.approx(truth(asked, heads=[(call(site), 1)]), abs=ATOL)
    assert abs(number - rerun.before) > 1e-3
    part = next(iter(asked.texts))
    spans = {part: HiddenSpan(8, 8)}
    if part == "encoder":
        spans["cross"] = HiddenSpan(8, 8, own=False)
    out = [(call(site), 8, 8, spans[site.part].own) for site in rerun.sites if site.part in spans]
    number = rerun.without_tokens(spans)
    assert number == pytest.approx(truth(asked, tokens=out), abs=ATOL)
    effects.append(abs(number - rerun.before))
    assert max(effects) > 1e-3
    if case == TWO_LAYERS:
        return
    modules = rerun._blocks._modules
    for link in links[:2]:
        changes, _ = rerun.block_changes(link.site, [link], "renormalize")
        place = rerun.plain.block_of[link.site], link.query
        out = [(call(link.site), link.head, link.query, link.key)]
        expected = behind(asked, modules, *place, links=out) - behind(asked, modules, *place)
        torch.testing.assert_close(changes[0], expected, rtol=1e-5, atol=ATOL)
