"""One head and one word: known numbers, which agree with each other and with transformers."""

import copy
import dataclasses

import pytest
import torch
import transformers

from tests.pieces import blanks, bytewise
from tests.tiny import text, tiny_llama
from wqkv.draw.to_json import as_json
from wqkv.errors import ArgumentError
from wqkv.study import one_token as module
from wqkv.study import opened_layer as opened
from wqkv.study import tokens
from wqkv.study.model import OpenModel
from wqkv.study.one_token import TokenStory, clearest_link, clearest_story, find_token, token_story
from wqkv.study.tokens import TokenizedText, Unread
from wqkv.study.view import View

TIRED = "The animal didn't cross the street because it was too tired."
WIDE = TIRED.replace("tired", "wide")
CAUSAL = "The cat sat on the mat because it was warm."


@pytest.fixture(scope="module")
def tired(minilm) -> TokenStory:
    return clearest_story(minilm, TIRED, "it", 3, 1)


def weight(story: TokenStory, word: str) -> float:
    return story.weights[story.tokens.index(word)].item()


def test_it_is_the_animal_that_is_tired(tired):
    assert tired.tokens[tired.ranked[0]] == "animal"
    assert weight(tired, "animal") == pytest.approx(0.677, abs=5e-4)
    assert weight(tired, "street") == pytest.approx(0.050, abs=5e-4)


def test_wide_moves_weight_to_the_street(minilm):
    story = clearest_story(minilm, WIDE, "it", 3, 1)
    assert weight(story, "animal") == pytest.approx(0.281, abs=5e-4)
    assert weight(story, "street") == pytest.approx(0.121, abs=5e-4)


@pytest.mark.parametrize(
    "given", [{}, {"layer": 3}, {"layer": 3, "head": 1}, {"word": "it", "layer": 3}, {"head": 1}]
)
def test_what_is_not_given_is_chosen(minilm, tired, given):
    story = clearest_story(minilm, TIRED, **given)
    assert (story.layer, story.head, story.token) == (3, 1, 10)
    assert torch.equal(story.weights, tired.weights)


@pytest.mark.parametrize(
    "given", [{"layer": 0}, {"head": 5}, {"word": "street"}, {"word": "[SEP]"}, {"word": "."}]
)
def test_what_is_given_is_kept(minilm, given):
    story = clearest_story(minilm, TIRED, **given)
    assert given.get("layer", story.layer) == story.layer
    assert given.get("head", story.head) == story.head
    assert given.get("word", story.tokens[story.token]) == story.tokens[story.token]


def test_the_same_word_again_is_no_link(minilm):
    story = clearest_story(minilm, "The dog saw a cat and the Dog ran.")
    assert (story.tokens[story.token].lower(), story.tokens[story.ranked[0]]) == ("dog", "saw")
    assert clearest_story(minilm, "yes Yes yes").map.shape == (5, 5)


def test_blocks_do_not_change_what_is_told(minilm, tired, monkeypatch):
    monkeypatch.setattr(opened, "BLOCK", 12 * 16 * 3)  # three words at a time
    story = clearest_story(minilm, TIRED)
    assert (story.layer, story.head, story.token) == (3, 1, 10)
    torch.testing.assert_close(story.map, tired.map)


@pytest.mark.parametrize("sentence", ["猫坐在垫子上。", "hi", "!", "yes yes yes", "a 🙂"])
def test_any_sentence_has_a_story(minilm, sentence):
    story = clearest_story(minilm, sentence)
    assert not story.special[story.token]
    assert story.weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert story.proof.holds


# The numbers


def test_facts(tired):
    assert (tired.model, tired.family, tired.sentence) == ("all-MiniLM-L6-v2", "bert", TIRED)
    sizes = (tired.n_layer, tired.n_head, tired.n_kv_head, tired.d_model, tired.d_k)
    assert sizes == (6, 12, 12, 384, 32)
    assert (tired.mask, tired.position) == ("Full()", "")
    assert tired.scale == pytest.approx(32**-0.5)


def check_numbers(model: OpenModel, sentence: str, word: str, layer: int) -> None:
    """Every number of a story, from those before it and the matrices; of every head of a layer."""
    ours, x = model.layer(layer), model.read(sentence).inputs[layer]
    group = ours.n_head // ours.n_kv_head
    with torch.no_grad():
        trace = ours.trace(x)
    shares = []
    for head in range(ours.n_head):
        story = clearest_story(model, sentence, word, layer, head)
        here, n = story.token, len(story.tokens)
        assert torch.equal(story.x, x[0, here])
        torch.testing.assert_close(story.q, trace.q[0, head, here])
        torch.testing.assert_close(story.k, trace.k[0, head // group, here])
        torch.testing.assert_close(story.v, trace.v[0, head // group, here])
        scores = trace.k[0, head // group] @ story.q * story.scale
        hidden = torch.arange(n) > (here if story.mask == "Causal()" else n)
        torch.testing.assert_close(story.scores, scores.masked_fill(hidden, -torch.inf))
        torch.testing.assert_close(story.weights, story.scores.softmax(0))
        torch.testing.assert_close(story.context, story.weights @ trace.v[0, head // group])
        assert (story.map.shape, story.special[here]) == ((n, n), False)
        torch.testing.assert_close(story.map[here], story.weights)
        torch.testing.assert_close(story.map.sum(1), torch.ones(n))
        ranked = story.weights[story.ranked].tolist()
        assert ranked == sorted(story.weights.tolist(), reverse=True)
        assert story.proof.holds and story.proof.size > 0.01
        shares.append(story.share)
    bias = 0 if ours.WO.bias is None else ours.WO.bias.detach()
    torch.testing.assert_close(sum(shares) + bias, story.output, rtol=1e-4, atol=1e-5)
    theirs = model.read(sentence).outputs[layer][0, here]
    torch.testing.assert_close(story.output, theirs, rtol=0, atol=story.proof.tolerance)


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_numbers_agree(minilm, layer):
    check_numbers(minilm, TIRED, "it", layer)


def test_q_is_the_word_times_its_columns(minilm, tired):
    WQ = minilm.layer(3).WQ
    q = tired.x @ WQ.weight.T[:, 32:64] + WQ.bias[32:64]
    torch.testing.assert_close(tired.q, q.detach())


def test_map_is_that_of_transformers(minilm, tired, weights):
    theirs = transformers.AutoModel.from_pretrained(weights, attn_implementation="eager").eval()
    with torch.no_grad():
        ids = torch.tensor([minilm.tokenizer(TIRED)["input_ids"]])
        maps = theirs(input_ids=ids, output_attentions=True).attentions
    torch.testing.assert_close(tired.map, maps[3][0, 1], rtol=1e-4, atol=1e-6)


def test_equal_weights_are_ranked_in_reading_order(tired):
    even = copy.copy(tired)
    object.__setattr__(even, "weights", torch.tensor([0.25] * 3 + [0.5] + [0.25] * 12))
    assert even.ranked == [3, 0, 1, 2, *range(4, 16)]


def test_proof_fails_on_another_layer(minilm):
    """One changed weight in 384 x 384 is enough."""
    other = copy.copy(minilm)
    other._layers = copy.deepcopy(minilm._layers)
    with torch.no_grad():
        other._layers[3].WQ.weight[0, 0] += 1
    proof = clearest_story(other, TIRED, "it", 3, 1).proof
    assert not proof.holds
    assert clearest_story(other, TIRED, "it", 2, 1).proof.holds


def test_the_page_and_the_terminal_are_told_the_same(minilm, tired):
    """A story is what the page's answers are made of, and a map."""
    view = minilm.view(TIRED)
    told = token_story(view, 3, 1, 10)
    for field in dataclasses.fields(TokenStory):
        ours, theirs = getattr(told, field.name), getattr(tired, field.name)
        if field.name == "map":
            assert ours is None
            torch.testing.assert_close(theirs, view.tile(3, 1, 0, 16, 0, 16))
        elif field.name == "matrices":
            assert torch.equal(ours.WQ, theirs.WQ) and torch.equal(ours.bV, theirs.bV)
        elif isinstance(ours, torch.Tensor):
            torch.testing.assert_close(ours, theirs)
        else:
            assert ours == theirs
    assert as_json([told])["stories"][0].keys() == as_json([tired])["stories"][0].keys()


def test_a_long_text_is_looked_through_in_part(minilm, monkeypatch):
    """Of its words some are asked where they look; the link that is found is one of theirs."""
    monkeypatch.setattr(module, "ALL_ROWS", 15)
    monkeypatch.setattr(module, "SAMPLED_ROWS", 4)
    view = minilm.view(TIRED)
    found = [clearest_link(view, layer) for layer in range(6)]
    assert {link.token for link in found} <= {0, 5, 10, 15}
    best = max(found, key=lambda link: link.clearness)
    weights = view.row(best.layer, best.head, best.token).weights
    assert 0 < best.clearness <= float(weights.max()) * 4


# Which word


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("it", 10),
        ("IT", 10),
        (" it ", 10),
        ("The", 1),
        ("the", 1),
        ("didn", 3),
        ("didn't", 5),
        ("DIDN'T", 5),
        ("because it", 10),
        (".", 14),
        ("[CLS]", 0),
        ("[sep]", 15),
        ("0", 0),
        ("7", 7),
        ("15", 15),
    ],
)
def test_word(minilm, word, place):
    assert clearest_story(minilm, TIRED, word, 0, 0).token == place


def test_a_number_that_is_a_word_is_the_word(minilm):
    assert clearest_story(minilm, "I saw 2 of 5 cats", "2", 0, 0).token == 3


@pytest.mark.parametrize("word", ["dog", "anim", "idn't", "16", "-1", "", " "])
def test_unknown_word(minilm, word):
    says = rf"no token {word!r} in the sentence. Its tokens: \[CLS\] The animal .* from 0 to 15"
    with pytest.raises(ArgumentError, match=says):
        clearest_story(minilm, TIRED, word)


def test_unknown_word_of_a_long_sentence(minilm):
    with pytest.raises(ArgumentError, match=r"x x \.\.\. \(or a number from 0 to 54"):
        clearest_story(minilm, "x " * 53, "y")


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("他", 2),
        ("他说", 1),
        ("来了", 3),
        ("说", 1),
        ("来", 3),
        ("说他", 2),
        ("他来了", 3),
        ("1", 1),
    ],
)
def test_word_in_a_script_without_blanks(word, place):
    """The token itself, the last of several, a number, the token that holds it."""
    assert find_token(tokens.tokenize(blanks(), "他说他来了", "made", None), word) == place


@pytest.mark.parametrize(
    ("word", "place"), [("它", 2), ("累", 5), ("累了", 8), ("它累了", 8), ("4", 4)]
)
def test_word_of_which_a_piece_is_a_part_of_a_character(word, place):
    assert find_token(tokens.tokenize(bytewise(), "它累了", "made", None), word) == place


def test_a_number_is_that_of_a_token_before_it_is_a_part_of_one():
    words = TokenizedText("他3说", ("他3说",), (False,), ((0, 3),), (1,), (False,))
    assert find_token(words, "3") == 0
    four = TokenizedText(
        "他3说来了他",
        ("他3说", *"来了他"),
        (False,) * 4,
        ((0, 3), (3, 4), (4, 5), (5, 6)),
        (1,) * 4,
        (False,) * 4,
    )
    assert find_token(four, "3") == 3


@pytest.mark.parametrize("blank", ["\u2581", "\u2581\u2581", " ", "\n"])
def test_a_blank_is_not_chosen(minilm, blank):
    """Where no link is clear, the first word is told of, which a piece of nothing is not."""
    words = TokenizedText(
        "!",
        ("[CLS]", blank, "!"),
        (True, False, False),
        ((0, 0), (0, 0), (0, 1)),
        (101, 102, 999),
        (False,) * 3,
    )
    assert clearest_link(minilm.view(words), 0).token == 2


@pytest.mark.parametrize(
    ("text", "spans", "numbers"),
    [
        ("猫坐在", [(0, 1), (1, 2), (2, 3)], [0, 1, 2]),
        ("a猫b", [(0, 1), (1, 2), (2, 3)], [0, 1, 2]),
        ("它累", [(0, 1)] * 3 + [(1, 2)] * 3, [0, 0, 0, 1, 1, 1]),
        ("it's", [(0, 2), (2, 3), (3, 4)], [0, 0, 0]),
        ("a b", [(0, 0), (0, 1), (2, 3), (0, 0)], [0, 1, 2, 3]),
        ("a\nb", [(0, 1), (1, 2), (2, 3)], [0, 1, 2]),
    ],
)
def test_words_as_they_are_written(text, spans, numbers):
    """Chinese stands side by side, one word a token; English has blanks between its words."""
    n = len(spans)
    words = TokenizedText(text, ("",) * n, (False,) * n, tuple(spans), (0,) * n, (False,) * n)
    assert module.written_words(words) == numbers


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"layer": 6}, "no layer 6: the model has 6 layers, 0 to 5"),
        ({"layer": -1}, "no layer -1: the model has 6 layers"),
        ({"head": 12}, "no head 12: the model has 12 heads, 0 to 11"),
        ({"head": -1}, "no head -1: the model has 12 heads"),
    ],
)
def test_out_of_range(minilm, given, says):
    with pytest.raises(ArgumentError, match=says):
        clearest_story(minilm, TIRED, **given)


@pytest.mark.parametrize(
    ("sentence", "says"),
    [
        ("", "sentence is empty"),
        ("[SEP]", "sees no token"),
        ("a " * 511, "513 tokens, and .* takes 512"),
    ],
)
def test_sentence_that_cannot_be_told(minilm, sentence, says):
    with pytest.raises(ArgumentError, match=says):
        clearest_story(minilm, sentence)


# A causal model with rotary positions and grouped heads


def test_every_layer_of_a_causal_model_is_proven(smollm):
    for layer in range(30):
        assert clearest_story(smollm, CAUSAL, "it", layer, 4).proof.holds, layer


@pytest.mark.parametrize("layer", [0, 17])
def test_numbers_of_a_causal_model_agree(smollm, layer):
    check_numbers(smollm, CAUSAL, "it", layer)


def test_facts_of_a_causal_model(smollm):
    story = clearest_story(smollm, CAUSAL, "it", 17, 4)
    assert (story.n_head, story.n_kv_head, story.mask) == (9, 3, "Causal()")
    assert story.position.startswith("RoPE(theta=100000.0")
    assert not story.map.triu(1).any()
    assert story.scores[story.token + 1 :].tolist() == [-torch.inf] * (len(story.tokens) - 8)


def test_first_word_of_a_causal_model_is_not_chosen(smollm):
    """Heads put there what they do not need."""
    story = clearest_story(smollm, CAUSAL)
    reach = [j for j in story.ranked if j not in (0, story.token)]
    assert story.weights[reach[0]] > 0.1
    assert story.token > 1


def test_a_story_marks_what_the_model_cannot_read(minilm):
    story = clearest_story(minilm, "我喜欢 it", "喜", 2, 3)
    assert story.tokens == ("[CLS]", "我", "喜[UNK]", "欢[UNK]", "it", "[SEP]")
    assert (story.token, story.unread) == (2, Unread(4, 2, 0, "喜欢"))


def test_a_story_says_what_it_is():
    model = tiny_llama(layers=1)
    story = token_story(View(model, model.read(text(5))), 0, 4, 2)
    token, best = story.tokens[2], story.ranked[0]
    where = f"TokenStory of {token!r} (2 of 6) in layer 0, head 4 of tiny-llama"
    most = f"it looks most at {story.tokens[best]!r}, {float(story.weights[best]):.3f}"
    assert repr(story) == f"{where}: {most}; wqkv.open(model, text) shows it"
