"""The explorer's answers as JSON has them: the keys of each, and the types of their values.

The page's own types, page/types.d.ts, are generated from these records. Layers, heads and positions
count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

Number = float | None  # None stands for what JSON has no number for: an infinity or NaN
Numbers = Sequence[Number]
Table = Sequence[Numbers]
QuestionKind = Literal["next token", "masked token", "similarity", "function"]
#: What the page can show below the steps.
Tab = Literal["cards", "text", "grid", "map", "matters", "whatif", "generate"]
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]


# Parts of answers


class PartFacts(TypedDict):
    """What the layers of a model are, or those of one of its parts."""

    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_k: int
    d_v: int
    causal: bool
    position: str  # "" where the layers do not place q and k themselves
    scale: float
    softcap: float | None
    sinks: bool


class PictureFacts(TypedDict):
    """A picture as the model saw it: a data: address of a PNG, cut into rows x columns cells.

    The tokens from `first` on are its cells, row by row.
    """

    image: str
    rows: int
    columns: int
    first: int
    name: str


class TextFacts(TypedDict):
    """A text and its tokens; a span is where a token stands in the text, in characters.

    `tokens` are marked where the model reads something else than what was `typed` there. A cell of
    one of the `pictures` stands nowhere in the text: its token is "row,column", its span (0, 0).
    """

    text: str
    tokens: Sequence[str]
    typed: Sequence[str]
    special: Sequence[bool]  # [CLS], <s> and their like
    spans: Sequence[tuple[int, int]]
    pictures: Sequence[PictureFacts]


class WindowFacts(TypedDict):
    """Which window of a long text is open; see `study.windows.TextWindow`."""

    number: int
    windows: int
    first: int
    last: int
    tokens: int


class ProofFacts(TypedDict):
    """What the proof of a layer found; see `maps.proof.Proof`."""

    difference: Number
    size: Number
    tolerance: Number
    rows: int
    empty: int  # rows that may see no key
    holds: bool


class PlaceFacts(TypedDict):
    """The row at which a text opens, because the clearest link starts there."""

    layer: int
    head: int
    token: int


class RankedFacts(TypedDict):
    """A token that is looked at; `position` is its number in the text."""

    token: str
    position: int
    weight: Number


class SourceFacts(TypedDict):
    """The token of the text that was read that is looked at most, and its state."""

    token: int
    x: Numbers


class MatrixFacts(TypedDict):
    """A matrix of rows x columns; each of `numbers` is the extreme of a block of per[0] x per[1].

    They are base64 of float32, row by row, the low byte first; at 1 x 1 they are the matrix. A
    saved page may have them as multiples of `step`, which is None where they are exact. `between`
    is what the layer does to the product before it is used.
    """

    rows: int
    columns: int
    per: tuple[int, int]
    numbers: str
    step: Number
    bias: Numbers | None
    between: Sequence[Literal["norm", "clip", "RoPE", "temperature", "gate"]]


class StepFacts(TypedDict):
    """One of the seven steps in words."""

    name: str
    sentence: str
    sentence2: str
    formula: str


class TermFacts(TypedDict):
    """One of the d_k products of a score."""

    q: Number
    k: Number
    product: Number


class StrongFacts(TypedDict):
    """One of the strongest weights of a long row, and the length of what comes of it."""

    index: int
    weight: Number
    effect: Number


class MeansFacts(TypedDict):
    """Means of blocks: block b holds positions edges[b] to edges[b + 1] - 1."""

    edges: Sequence[int]
    values: Numbers


class LinkFacts(TypedDict):
    """The weight from token i to token j."""

    i: int
    j: int
    weight: Number


class NextFacts(TypedDict):
    """A token that may come next."""

    token: str
    probability: Number
    id: int


class WrittenFacts(NextFacts):
    """A token that was written, its position, and the likeliest ones at that place."""

    position: int
    top: Sequence[NextFacts]


class DrawnFacts(NextFacts):
    """A token that may come next, and its probability `after` temperature, top-k and top-p."""

    after: Number


class OutcomeFacts(TypedDict):
    """What comes of a text: the likeliest next tokens, or the similarity to the text before.

    Of a picture `top` are the likeliest classes, if the model tells classes apart.
    """

    similarity: NotRequired[Number]
    top: NotRequired[Sequence[NextFacts]]


class LinkEffectFacts(TypedDict):
    """What removing one link does: see `effects.records.LinkEffect`."""

    part: str
    layer: int
    head: int
    query: int
    key: int
    weight: Number
    predicted: Number
    change: Number
    block: Number
    true: Number
    warning: str
    miss: str


class GroupFacts(TypedDict):
    """What removing a head, a token or a sentence does: see `effects.records.GroupEffect`."""

    by: str
    part: str
    label: str
    true: Number
    layer: int | None
    head: int | None
    first: int | None
    last: int | None


class JointFacts(TypedDict):
    """The number with links removed together; in draws of as many others, `low` to `high`."""

    links: int
    after: Number
    kept: int
    draws: int
    low: Number
    high: Number


class CheckedFacts(TypedDict):
    """How good predictions were, and what was not looked at: see `effects.records.Checked`."""

    removed: int
    judged: int
    sign: int
    close: int
    left: int
    share: Number
    largest: Number
    heavy: int


class AskedFacts(TypedDict):
    """What is asked of a head: see `experiments.HEAD_QUESTIONS`."""

    question: str
    change: str
    limits: str


class CardFacts(TypedDict):
    """What an experiment's card says in one language: see `draw.cards.Card`."""

    guesses: Sequence[str]
    headline: str
    answer: str
    reason: str


class MeasuredFacts(TypedDict):
    """A number before and after a change, and both with its name and unit in each language."""

    name: str
    unit: str
    said: dict[str, str]
    before: Number
    after: Number


class ChangedLinkFacts(TypedDict):
    """The weight of a key before and after a change."""

    key: int
    before: Number
    after: Number


class ChangedFacts(TypedDict):
    """What one change does to a row: the weight on itself, that of a link, and the output."""

    change: dict[str, str]
    own: Number
    link: Number
    output: Number


class MadeFacts(TypedDict):
    """An experiment that can be made.

    `names` are the guesses in the order in which the cards say them, `right` one of them. `links`
    are the strongest of the row, and `outputs` what is added before and after, where the card is
    about it. `beside` are other changes of the same row, the trained head first.
    """

    cards: dict[str, CardFacts]
    key: int
    names: Sequence[str]
    right: str | None
    headline: tuple[str, str]
    numbers: Sequence[MeasuredFacts]
    shows: Literal["weights", "outputs", "numbers"]
    links: Sequence[ChangedLinkFacts]
    outputs: Sequence[Numbers]
    proof: ProofFacts | None
    same: ProofFacts | None
    changes: bool  # whether the model can run on from it
    beside: Sequence[ChangedFacts]


class StartFacts(TypedDict):
    """What the page opens with: a view, or the job that reads it."""

    view: NotRequired[str]
    job: NotRequired[str]


# Answers; `python` are the lines that give the same numbers


class ModelAnswer(PartFacts):
    """The model; one of two texts has three `parts`, and its own facts are those of "cross".

    Where it reads a picture, a text to open is the data: address of a PNG, JPEG or WebP file. Where
    it reads both, {"text": "...", "picture": a data: address} opens a text with another picture
    than the one that it was started with.
    """

    name: str
    family: str
    dtype: str
    longest: int | None
    bits: int | None  # per weight in a packaged file, if fewer than in training
    reads: Literal["text", "picture", "both"]
    generates: bool
    parts: dict[str, PartFacts]
    version: str
    python: str


class ServedModel(ModelAnswer):
    """The model, and the text that the page opens with, if there is one."""

    start: StartFacts | None


class ViewAnswer(TextFacts):
    """A text as one attention of a model read it.

    `read` is what was typed, `window` which part of it was read if it is long, `target` what was
    given to be written, `pair` the second sentence if `read` is the first of a pair, `keys` the
    text whose tokens are looked at where it is another one, `cannotRead` what is said in each
    language if the model cannot read all that was typed, `tabs` what there is to show of it, and
    `questions` the experiments in order.
    """

    n: int
    part: str | None
    parts: Sequence[str]
    target: str | None
    read: str
    pair: str | None
    window: WindowFacts | None
    keys: TextFacts | None
    cannotRead: dict[str, str]
    tabs: Sequence[Tab]
    questions: Sequence[str]
    statistics: Sequence[str]
    proofs: Sequence[ProofFacts]
    first: PlaceFacts
    engine: str
    seconds: float
    python: str


class ToldSteps(TypedDict):
    """What a story says in words: the seven steps, the proof, and the lines of Python."""

    steps: Sequence[StepFacts]
    proofSentence: str
    rate: str
    python: str


class StoryAnswer(ToldSteps):
    """What one head does to one token; see `study.one_token`. A long text has no long lists."""

    model: str
    family: str
    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_k: int
    layer: int
    head: int
    token: int
    mask: str
    position: str
    scale: float
    x: Numbers
    q: Numbers
    k: Numbers
    v: Numbers
    context: Numbers
    gated: Numbers | None  # the context times the layer's gate, where it has one
    share: Numbers
    output: Numbers
    proof: ProofFacts
    source: SourceFacts | None
    ranked: Sequence[RankedFacts]
    sentence: NotRequired[str]
    tokens: NotRequired[Sequence[str]]
    special: NotRequired[Sequence[bool]]
    scores: NotRequired[Numbers]
    weights: NotRequired[Numbers]


class MatricesAnswer(TypedDict):
    """The matrices of one head; see `study.head_matrices`. All heads share the bias of WO."""

    WQ: MatrixFacts
    WK: MatrixFacts
    WV: MatrixFacts
    WO: MatrixFacts
    python: str


class MatrixColumnAnswer(TypedDict):
    """One column of a matrix, exactly: base64 of float32."""

    numbers: str
    python: str


class CellAnswer(TypedDict):
    """How one weight comes about; see `study.answers.Cell`."""

    terms: Sequence[TermFacts]
    dot: Number
    scale: Number
    scaled: Number
    softcap: Number
    capped: Number
    bias: Number
    score: Number
    sink: Number
    lse: Number
    weight: Number
    hidden: bool
    python: str


class RowAnswer(TypedDict):
    """Where one token looks; of a long text the strongest weights, and a curve of means."""

    sink: Number
    lse: Number
    output: Number
    residual: ProofFacts | None
    changed: Number  # by how much the head's output differs, where a link is removed
    python: str
    weights: NotRequired[Numbers]
    effects: NotRequired[Numbers]
    strongest: NotRequired[Sequence[StrongFacts]]
    curve: NotRequired[MeansFacts]


class StreamLayerFacts(TypedDict):
    """The lengths of what the parts of one layer add to a token; see `study.stream.StreamLayer`."""

    attention: Number
    cross: Number
    mlp: Number
    heads: Numbers  # of the attention that is shown
    added: Number
    state: Number
    proof: ProofFacts | None  # None: the parts are not told apart


class StreamAnswer(TypedDict):
    """What a token carries through all layers, and what is added to it.

    `lens` has the likeliest tokens after each layer, where the model has a head for tokens.
    """

    embedding: Number
    normAfter: bool  # what is added is measured before a norm of the sum
    layers: Sequence[StreamLayerFacts]
    lens: Sequence[Sequence[NextFacts]] | None
    python: str


class ColumnAnswer(TypedDict):
    """Who looks at one token."""

    weights: Numbers
    received: Number
    python: str


class TileAnswer(TypedDict):
    """Exact weights of a rectangle, or numbers of its links."""

    values: Table
    python: str


class ThumbnailAnswer(TypedDict):
    """Means of blocks of a whole map: of one head `values`, of all heads of a layer `heads`."""

    edges: Sequence[int]
    keys: Sequence[int]
    python: str
    values: NotRequired[Table]
    heads: NotRequired[Sequence[Table]]


class ReceivedAnswer(TypedDict):
    """What every token receives; of a long text the means of blocks."""

    values: Numbers
    python: str
    edges: NotRequired[Sequence[int]]


class DistancesAnswer(TypedDict):
    """How far one head looks."""

    edges: Sequence[int]
    mass: Numbers
    mean: Number
    python: str


class LinksAnswer(TypedDict):
    """The strongest links of one head."""

    links: Sequence[LinkFacts]
    python: str


class LabelName(TypedDict):
    """What a label is called, and its form of at most four letters."""

    name: str
    brief: str


class GridAnswer(TypedDict):
    """One number per head; of the labels also their names, evidence and source."""

    statistic: str
    unit: str
    low: float
    high: float
    values: Table
    labels: Sequence[Sequence[str]] | None
    evidence: Sequence[Sequence[str]] | None
    python: str
    source: NotRequired[str]
    names: NotRequired[dict[str, LabelName]]


class WhatIfAnswer(TypedDict):
    """A text before and after a change; `view` is the changed text where no head is off.

    It is asked for by {"off": [[layer, head]], "edits": [{"token": number, "text": "..."}]}. The
    text "" hides a cell of a picture: its pixels are 0 as the model reads them, the mean color that
    its processor takes away. A cell can be given no other text.
    """

    before: OutcomeFacts
    after: OutcomeFacts
    change: Number
    layers: Numbers
    tokens: Sequence[str]
    view: str | None
    python: str


class NextAnswer(TypedDict):
    """The likeliest next tokens before and after sampling: see `study.sampling.NextTokens`."""

    top: Sequence[DrawnFacts]
    vocabulary: int
    kept: int
    held: Number
    python: str


class GenerateAnswer(TypedDict):
    """What the model wrote, and the whole text as a view."""

    tokens: Sequence[str]
    steps: Sequence[WrittenFacts]
    view: str
    python: str


class ChoicesAnswer(TypedDict):
    """What can be asked about a text: the likeliest tokens, or none for how like two texts are.

    `at` is the token behind which one is predicted, or the masked one, and `budget` how many links
    would be removed.
    """

    kind: QuestionKind
    at: int | None
    top: Sequence[NextFacts]
    budget: int
    python: str


class WhyAnswer(TypedDict):
    """What an answer rests on: see `effects.records.Why`.

    `heaviest` are the links of largest weight, removed too.
    """

    kind: QuestionKind
    number: str
    answer: str | None
    against: str | None
    at: int | None
    how: str
    tokens: dict[str, Sequence[str]]
    keys: dict[str, Sequence[str]]
    before: float
    rounding: float
    count: int
    budget: int
    links: Sequence[LinkEffectFacts]
    resting: Sequence[LinkEffectFacts]
    heaviest: Sequence[LinkEffectFacts]
    checked: CheckedFacts
    together: JointFacts | None
    seconds: float
    python: str


class GroupsAnswer(TypedDict):
    """Heads, tokens or sentences, each removed for real, by falling size of the effect."""

    by: str
    number: str
    before: float
    rounding: float
    groups: Sequence[GroupFacts]
    python: str


class ExperimentAnswer(TypedDict):
    """A question about one row of a head; `made` is None where it is refused, in each language.

    `rank` and `ranks` are the r of low_rank and the largest one.
    """

    name: str
    asked: dict[str, AskedFacts]
    made: MadeFacts | None
    refused: dict[str, str] | None
    rank: int | None
    ranks: int | None
    python: str


class ChangedMapsAnswer(TypedDict):
    """The maps of a head before and after a change, as means of blocks; and means over all rows."""

    edges: Sequence[int]
    keys: Sequence[int]
    before: Table
    after: Table
    means: Sequence[MeasuredFacts]
    python: str


class OftenAnswer(TypedDict):
    """In how many of all heads an experiment comes out alike; with `layers`, in how many layers."""

    same: int
    total: int
    layers: bool
    python: str


class Answers(TypedDict):
    """The answers about a view, by the last part of their address: api/views/{view}/row."""

    story: StoryAnswer
    matrices: MatricesAnswer
    matrixcolumn: MatrixColumnAnswer
    cell: CellAnswer
    row: RowAnswer
    tile: TileAnswer
    stream: StreamAnswer
    column: ColumnAnswer
    thumbnail: ThumbnailAnswer
    received: ReceivedAnswer
    distances: DistancesAnswer
    links: LinksAnswer
    grid: GridAnswer
    choices: ChoicesAnswer
    effects: TileAnswer
    effectblocks: ThumbnailAnswer
    next: NextAnswer
    experiment: ExperimentAnswer
    changedmaps: ChangedMapsAnswer
    runon: WhatIfAnswer
    often: OftenAnswer


Answer = (
    StoryAnswer
    | MatricesAnswer
    | MatrixColumnAnswer
    | CellAnswer
    | RowAnswer
    | StreamAnswer
    | TileAnswer
    | ColumnAnswer
    | ThumbnailAnswer
    | ReceivedAnswer
    | DistancesAnswer
    | LinksAnswer
    | GridAnswer
    | ChoicesAnswer
    | NextAnswer
    | ExperimentAnswer
    | ChangedMapsAnswer
    | WhatIfAnswer
    | OftenAnswer
)

#: Those that the page posts a question for.
PostedAnswer = WhatIfAnswer | WhyAnswer | GroupsAnswer


class SavedLayer(TypedDict):
    """What a saved page knows of a layer beside its numbers: see explorer/saved_layer.py.

    `shapes` are those of the numbers, by name; `residuals` the proofs of single tokens; `stories`
    what is told of a head and a token, by language. The experiments of `refused` cannot be made,
    for reasons in each language. `ranks` are of each head the rank of WQ WK^T and what low_rank
    keeps of it, and `shuffled` of each token the largest number of its output, and what
    shuffled_heads changes. `proofs` are those that experiments change nothing, by name, head and
    token; of what all heads do together there is one head.
    """

    shapes: dict[str, Sequence[int]]
    mask: str
    position: str
    scale: float
    softcap: float | None
    residuals: Sequence[ProofFacts | None]
    refused: dict[str, dict[str, str]]
    ranks: Sequence[tuple[int, float]]
    shuffled: Sequence[tuple[float, float, float, float]]
    proofs: dict[str, Sequence[Sequence[ProofFacts | None]]]
    stories: dict[str, Sequence[Sequence[ToldSteps]]]


class SavedRule(TypedDict):
    """The rule that decides whether a guess is right; see `experiments.guesses.GuessRule`."""

    name: str
    of: str
    how: Literal["least", "above", "below"]
    bound: float


class SavedSentences(TypedDict):
    """What a card says in one language, with places for numbers; reasons by the right guess."""

    guesses: dict[str, str]
    headline: str
    answer: str
    reasons: dict[str, str]


class SavedQuestion(TypedDict):
    """A question about a head as a saved page answers it: see explorer/saved_cards.py.

    `headline` names its numbers, and `turn` the place of the right guess. `ofScores`: a row that
    sees one key alone does not answer it.
    """

    name: str
    asked: dict[str, AskedFacts]
    said: dict[str, SavedSentences]
    rules: Sequence[SavedRule]
    turn: int
    headline: Sequence[str]
    shows: Literal["weights", "outputs", "numbers"]
    beside: Sequence[str]
    ofScores: bool


class SavedCards(TypedDict):
    """The questions, and the sentences of all: the rest and single numbers, each by language.

    `places` are the numbers that the sentences name, by their places; `alone` is why big_weight is
    refused for a row of one key; `kept` is the share of d_k that low_rank keeps.
    """

    questions: Sequence[SavedQuestion]
    otherwise: dict[str, dict[str, str]]
    alone: dict[str, str]
    numbers: dict[str, dict[str, str]]
    units: dict[str, dict[str, str]]
    places: dict[str, str]
    links: int
    kept: int


class SavedMatrix(TypedDict):
    """A matrix in a saved page: its `MatrixFacts`, followed by its numbers."""

    rows: int
    columns: int
    per: tuple[int, int]
    step: float
    bias: Numbers | None
    between: Sequence[Literal["norm", "clip", "RoPE", "temperature", "gate"]]


class SavedMatrices(TypedDict):
    """The matrices of a layer by head; of heads that share WK and WV, each once."""

    WQ: Sequence[SavedMatrix]
    WK: Sequence[SavedMatrix]
    WV: Sequence[SavedMatrix]
    WO: Sequence[SavedMatrix]


class SavedPart(TypedDict):
    """One attention of a saved text: its layers as `SavedLayer` packed, None where left out.

    `matrices` are those of the layers as `SavedMatrices` packed, and `streams` the answers
    "stream" of all tokens, packed too. `cards` are what the questions say. `python` are the lines
    that open the view, before those of each answer.
    """

    layers: Sequence[str | None]
    matrices: Sequence[str | None]
    streams: str | None
    cards: SavedCards
    python: str


class Recorded(TypedDict):
    """What a saved page has inside.

    `answers` by the addresses that the page would ask, and `parts`, by the views' addresses, of
    which it computes all others. `left_out` says in each language what did not fit.
    """

    answers: dict[str, ServedModel | ViewAnswer | Answer | PostedAnswer]
    parts: dict[str, SavedPart]
    cap: int
    left_out: dict[str, Sequence[str]]


class JobFacts(TypedDict):
    """How far a job is; `result` once it is done, `error` and `do` if it failed."""

    state: JobState
    what: str
    done: int
    total: int
    result: NotRequired[ViewName | GenerateAnswer | WhyAnswer | GroupsAnswer | Answer]
    error: NotRequired[str]
    do: NotRequired[str]


class ViewName(TypedDict):
    """The name of a view that is open from now on."""

    view: str
