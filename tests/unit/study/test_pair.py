"""Models of two texts: their three attentions as views, against the models themselves."""

import json
import sys

import pytest
import torch

from tests.tiny import READ, TARGET, tiny_bart, tiny_llama, tiny_t5
from wqkv.draw import steps
from wqkv.errors import ArgumentError
from wqkv.study import one_token as story
from wqkv.study import pair as module
from wqkv.study.generate import generate
from wqkv.study.heads import heads
from wqkv.study.model import OpenModel, open_model
from wqkv.study.opening import open_any, open_of_texts
from wqkv.study.pair import PARTS, OpenPair, open_pair
from wqkv.study.view import View
from wqkv.study.whatif import what_if

MODELS = {"t5": tiny_t5, "bart": tiny_bart}
SIZES = {"t5": {"encoder": (3, 6), "decoder": (2, 6), "cross": (2, 6)}}
SIZES["bart"] = {"encoder": (2, 2), "decoder": (3, 4), "cross": (3, 4)}


@pytest.fixture(scope="module", params=MODELS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name) -> OpenPair:
    return MODELS[name]()


@pytest.fixture(scope="module")
def views(model) -> dict[str, View]:
    return model.views(READ, TARGET)


@pytest.fixture(scope="module")
def theirs(name, views):
    """What the model's own eager attention says of the same words."""
    speaker = MODELS[name]().speaker
    speaker.set_attn_implementation("eager")
    with torch.no_grad():
        return speaker(
            input_ids=torch.tensor([views["encoder"].reading.ids]),
            decoder_input_ids=torch.tensor([views["cross"].reading.ids]),
            output_attentions=True,
        )


def test_sizes(name, model):
    assert tuple(model.parts) == PARTS
    for part, (n_layer, n_head) in SIZES[name].items():
        sizes = model.parts[part].sizes
        assert (sizes.n_layer, sizes.n_head) == (n_layer, n_head)


@pytest.mark.parametrize("part", PARTS)
def test_the_weights_are_the_models(views, theirs, part):
    view = views[part]
    own = {"encoder": "encoder_attentions", "decoder": "decoder_attentions"}
    expected = getattr(theirs, own.get(part, "cross_attentions"))
    assert len(expected) == view.model.sizes.n_layer
    for layer, weights in enumerate(expected):
        assert weights.shape[1:] == (view.model.sizes.n_head, view.n, view.m)
        for head in range(view.model.sizes.n_head):
            found = view.tile(layer, head, 0, view.n, 0, view.m)
            torch.testing.assert_close(found, weights[0, head], rtol=1e-4, atol=2e-6)
        assert view.proof(layer).holds and view.proof(layer).rows == view.n


def test_the_words(name, views):
    marks = {"t5": ("<pad>", 0), "bart": ("<s>", 3)}
    written, read = views["cross"].reading, views["cross"].keys
    assert written.tokens == (marks[name][0], *TARGET.replace(",", " ,").split())
    assert (written.ids[0], written.special[0]) == (marks[name][1], True)
    assert written.tokens == views["decoder"].reading.tokens
    assert read.tokens == views["encoder"].reading.tokens == (*READ.split(), "</s>")
    assert (read.sentence, written.sentence) == (READ, TARGET)
    assert (views["cross"].n, views["cross"].m) == (len(written.tokens), len(read.tokens))
    assert (views["encoder"].keys, views["encoder"].m) == (read, views["encoder"].n)


def test_answers_between_two_texts(views):
    view, layer, head, i, j = views["cross"], 1, 1, 3, 7
    weights = view.tile(layer, head, 0, view.n, 0, view.m)
    row, column, cell = view.row(layer, head, i), view.column(layer, head, j), view.cell(1, 1, i, j)
    torch.testing.assert_close(row.weights, weights[i])
    torch.testing.assert_close(column.weights, weights[:, j])
    assert row.residual.holds and row.effects.shape == (view.m,)
    assert cell.weight == pytest.approx(weights[i, j].item(), rel=1e-5)
    torch.testing.assert_close(view.received(layer, head).float(), weights.sum(0))
    blocks = view.thumbnail(layer, head, 4)
    assert (blocks.edges[-1], blocks.keys[-1]) == (view.n, view.m)
    first = weights[: blocks.edges[1], : blocks.keys[1]].mean()
    assert blocks.values[0, 0].item() == pytest.approx(first.item(), rel=1e-5)
    best = weights.flatten().topk(5)
    for link, value, at in zip(
        view.links(layer, head, 5), best.values.tolist(), best.indices.tolist(), strict=True
    ):
        assert link[:2] == divmod(at, view.m) and link.weight == pytest.approx(value, rel=1e-5)
    entropy = torch.special.entr(weights).sum(1).mean().item()
    assert view.grid("entropy").values[layer, head].item() == pytest.approx(entropy, rel=1e-4)
    assert view.statistics == ("entropy", "received", "sink")
    assert views["decoder"].statistics == ("entropy", "received", "distance", "sink", "label")


def test_the_clearest_link_is_the_strongest_between_words(views):
    view = views["cross"]
    found = max(story.clearest_link(view, layer) for layer in range(view.model.sizes.n_layer))
    strongest = 0.0
    for layer in range(view.model.sizes.n_layer):
        for head in range(view.model.sizes.n_head):
            tile = view.tile(layer, head, 1, view.n, 0, view.m - 1)  # without <pad> and </s>
            rows = [w != "," for w in view.reading.tokens[1:]]
            keys = [w != "," for w in view.keys.tokens[:-1]]
            strongest = max(strongest, tile[rows][:, keys].max().item())
    assert found.clearness == pytest.approx(strongest, rel=1e-5)


def test_a_story_between_two_texts(views):
    view = views["cross"]
    told = story.token_story(view, 1, 1, 3)
    best = int(told.weights.argmax())
    assert (told.source.token, told.keys) == (best, view.keys.tokens)
    assert torch.equal(told.source.x, view.keys.final[0, best])
    layer = view.model.layer(1)
    with torch.no_grad():
        k = layer.WK(told.source.x).unflatten(0, (view.model.sizes.n_head, -1))[1]
    torch.testing.assert_close(told.k, k)
    said = steps.tell(told)
    assert f'k, the key: how "{view.keys.tokens[best]}" is found' in said[2].sentence
    assert (
        f"The encoder has read {view.m} words (tokens), and the decoder {view.n}"
        in said[0].sentence
    )
    assert view.keys.tokens[best] in said[4].formula
    assert story.token_story(views["decoder"], 1, 1, 3).source is None


def test_labels_of_one_text(views):
    view = views["encoder"]
    maps = [view.layer(i).whole for i in range(view.model.sizes.n_layer)]
    assert len(heads(maps, view.reading.tokens, view.reading.special).all) == (
        view.model.sizes.n_layer * view.model.sizes.n_head
    )


# What models of one text and of two both answer


def shape(model):
    return model.main, list(model.parts), model.opener


def test_one_interface(model):
    one = tiny_llama()
    assert shape(one) == ("text", ["text"], "open_model")
    assert shape(model) == ("cross", list(PARTS), "open_pair")
    for each, target in ((one, None), (model, TARGET)):
        seen: list[tuple[View, int]] = []
        told: list[tuple[int, int]] = []
        views = each.views(
            READ,
            target,
            lambda done, total, told=told: told.append((done, total)),
            lambda view, layer, seen=seen: seen.append((view, layer)),
        )
        assert views.keys() == each.parts.keys() and each.main in views
        assert getattr(sys.modules[type(each).__module__], each.opener)
        for name, view in views.items():
            assert view.model is each.parts[name] and view.model.part == name
            layers = [layer for shown, layer in seen if shown is view]
            assert layers == list(range(view.model.sizes.n_layer))
        assert told[-1] == (len(seen), len(seen))
        each.check_target(target)


def test_a_model_of_one_text_has_no_target():
    for ask in (tiny_llama().check_target, lambda target: tiny_llama().views(READ, target)):
        with pytest.raises(ArgumentError, match="tiny-llama writes no second text"):
            ask(TARGET)


# Writing


def test_the_model_writes_by_its_own_rules(name, model):
    """Greedy, as `generate` writes by itself; the word that ends it is not read again."""
    told = []
    found = model.views(READ, progress=lambda *at: told.append(at))["cross"].reading
    speaker = MODELS[name]().speaker
    ids = torch.tensor([model.tokenizer(READ)["input_ids"]])
    written = speaker.generate(input_ids=ids, num_beams=1, do_sample=False, max_length=256)
    kept = written[0].tolist()
    assert found.ids == tuple(kept[:-1] if kept[-1] == 1 else kept)
    assert len(set(found.ids[1:])) == len(found.ids) - 1  # no word twice, which is its rule
    assert found.sentence.split() == [w for w in found.tokens if w not in ("<pad>", "<s>")]
    done = [at for at, _ in told]
    assert done == sorted(done) and told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1


def test_what_it_wrote_reads_the_same_when_given(model):
    one = model.views(READ)["cross"]
    assert not any(one.reading.special[1:])
    two = model.views(READ, one.reading.sentence)["cross"]
    assert two.reading.ids == one.reading.ids
    assert torch.equal(two.row(1, 1, 3).weights, one.row(1, 1, 3).weights)


def test_its_length_is_bounded(model, monkeypatch):
    monkeypatch.setattr(module, "MOST_WRITTEN", 7)
    assert model.views(READ)["cross"].n <= 7


@pytest.mark.parametrize("layers", [0, 1, 4, 9])
def test_whoever_watches_can_end_it(model, layers):
    """In the encoder, in the first word, between words."""

    def step(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) > layers:
            raise InterruptedError

    calls: list[int] = []
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules()]
    with pytest.raises(InterruptedError):
        model.views(READ, progress=step)
    assert len(calls) == layers + 1
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules()]
    assert after == hooks


def test_only_special_words(model):
    """A decoder that has read its first word alone has a view of one row."""
    view = model.views(READ, "the")["cross"]
    assert (view.n, view.reading.tokens[1]) == (2, "the")
    alone = module.replace(view.reading, special=(True, True))
    assert story.clearest_link(View(view.model, alone), 0).clearness == 0.0


def test_a_model_that_writes_nothing():
    """Its first word is its last: one row, which is a text all the same."""
    model = tiny_t5()
    others = [i for i in range(model.model.config.vocab_size) if i != 1]
    model.speaker.generation_config.update(suppress_tokens=others)
    views = model.views(READ)
    assert (views["cross"].reading.tokens, views["cross"].reading.sentence) == (("<pad>",), "")
    for view in views.values():
        assert view.proof(1).holds
        assert view.row(1, 2, 0).weights.shape == (view.m,)
        assert float(view.received(1, 2).sum()) == pytest.approx(view.n, rel=1e-5)
        assert view.thumbnail(1, 2, 4).values.shape == (min(view.n, 4), min(view.m, 4))
        for statistic in view.statistics:
            if statistic != "label":
                assert view.grid(statistic).values.isfinite().all()


def test_a_target_that_is_too_long():
    model = tiny_bart()
    assert model.views("the", "sea " * 60)["cross"].n == 61  # with the word that it starts with
    with pytest.raises(ArgumentError, match=r"has 62 tokens, and tiny-bart takes 61"):
        model.views("the", "sea " * 61)
    with pytest.raises(ArgumentError, match=r"has 62 tokens, and tiny-bart takes 61"):
        model.views("sea " * 61, "the")  # and the word that ends it


# Opening


@pytest.fixture
def folder(model, tmp_path):
    model.tokenizer.save_pretrained(tmp_path)
    model.speaker.save_pretrained(tmp_path)
    return tmp_path


def test_open(folder, views):
    for opener in (open_pair, open_any, open_of_texts):
        found = opener(str(folder))
        assert isinstance(found, OpenPair) and found.speaker is not None
        view = found.views(READ, TARGET)["cross"]
        torch.testing.assert_close(view.row(1, 1, 3).weights, views["cross"].row(1, 1, 3).weights)
    with pytest.raises(ArgumentError, match=r"(?s)reads one text and writes another.*open_pair"):
        open_model(str(folder))


def test_without_a_head_for_words(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["Some"]}))
    found = open_pair(str(folder))
    assert found.speaker is None
    with pytest.raises(ArgumentError, match=r"predicts no next token\.\nPass the text"):
        found.views(READ)
    assert found.views(READ, TARGET)["cross"].proof(1).holds


def test_a_model_of_one_text(weights):
    with pytest.raises(ArgumentError, match=r"model reads one text\.\nOpen it with `open_model`"):
        open_pair(str(weights))
    assert isinstance(open_any(str(weights)), OpenModel)


def test_a_decoder_that_starts_with_the_language(monkeypatch):
    """mBART has no word to start with: it takes the last one of what it is to write."""
    model = tiny_bart()
    for holder in (model.speaker.generation_config, model.model.config):
        holder.decoder_start_token_id = None
    words = model.views(READ, "the sea")["cross"].reading
    assert words.ids[0] == 1 and words.tokens == ("</s>", "the", "sea")


# What is for one text


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda v: what_if(v, [(0, 0)]), "What if is for models of one text, and tiny-"),
        (lambda v: generate(v, 3), "Writing on is for models of one text, and tiny-"),
        (lambda v: v.distances(0, 0), "no distance between two texts.*\nAsk for one of: entropy,"),
        (lambda v: v.grid("distance"), "no distance between two texts"),
        (lambda v: v.cell(0, 0, 0, 99), "no token 99: the text has 11 tokens, 0 to 10"),
        (lambda v: v.tile(0, 0, 0, 3, 0, 12), "no tokens 0 to 12: the text has 11"),
    ],
)
def test_mistakes(views, ask, says):
    with pytest.raises(ArgumentError, match=says):
        ask(views["cross"])


def test_what_cannot_be_read_of_both_texts():
    views = tiny_t5().views("the 猫 lamp", "a 狗 boat 鸟")
    found = {part: (one.unread.unknown, one.unread.typed) for part, one in views.items()}
    assert found == {"encoder": (1, "猫"), "decoder": (2, "狗鸟"), "cross": (3, "狗鸟猫")}
    told = story.token_story(views["cross"], 1, 1, 2)
    assert told.tokens[2] == "狗<unk>" and told.keys[1] == "猫<unk>"
    assert told.unread == views["cross"].unread
