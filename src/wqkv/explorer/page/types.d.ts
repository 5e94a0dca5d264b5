// The records of explorer/schema.py as types. Generated: python -m tests.browser.page_types

/** What the layers of a model are, or those of one of its parts. */
export interface PartFacts {
  n_layer: number;
  n_head: number;
  n_kv_head: number;
  d_model: number;
  d_k: number;
  d_v: number;
  causal: boolean;
  position: string;
  scale: number;
  softcap: number | null;
  sinks: boolean;
}

/** A picture as the model saw it: a data: address of a PNG, cut into rows x columns cells.
 * 
 * The tokens from `first` on are its cells, row by row. */
export interface PictureFacts {
  image: string;
  rows: number;
  columns: number;
  first: number;
  name: string;
}

/** A text and its tokens; a span is where a token stands in the text, in characters.
 * 
 * `tokens` are marked where the model reads something else than what was `typed` there. A cell of
 * one of the `pictures` stands nowhere in the text: its token is "row,column", its span (0, 0). */
export interface TextFacts {
  text: string;
  tokens: string[];
  typed: string[];
  special: boolean[];
  spans: [number, number][];
  pictures: PictureFacts[];
}

/** Which window of a long text is open; see `study.windows.TextWindow`. */
export interface WindowFacts {
  number: number;
  windows: number;
  first: number;
  last: number;
  tokens: number;
}

/** What the proof of a layer found; see `maps.proof.Proof`. */
export interface ProofFacts {
  difference: number | null;
  size: number | null;
  tolerance: number | null;
  rows: number;
  empty: number;
  holds: boolean;
}

/** The row at which a text opens, because the clearest link starts there. */
export interface PlaceFacts {
  layer: number;
  head: number;
  token: number;
}

/** A token that is looked at; `position` is its number in the text. */
export interface RankedFacts {
  token: string;
  position: number;
  weight: number | null;
}

/** The token of the text that was read that is looked at most, and its state. */
export interface SourceFacts {
  token: number;
  x: (number | null)[];
}

/** A matrix of rows x columns; each of `numbers` is the extreme of a block of per[0] x per[1].
 * 
 * They are base64 of float32, row by row, the low byte first; at 1 x 1 they are the matrix. A
 * saved page may have them as multiples of `step`, which is None where they are exact. `between`
 * is what the layer does to the product before it is used. */
export interface MatrixFacts {
  rows: number;
  columns: number;
  per: [number, number];
  numbers: string;
  step: number | null;
  bias: (number | null)[] | null;
  between: ("norm" | "clip" | "RoPE" | "temperature" | "gate")[];
}

/** One of the seven steps in words. */
export interface StepFacts {
  name: string;
  sentence: string;
  sentence2: string;
  formula: string;
}

/** One of the d_k products of a score. */
export interface TermFacts {
  q: number | null;
  k: number | null;
  product: number | null;
}

/** One of the strongest weights of a long row, and the length of what comes of it. */
export interface StrongFacts {
  index: number;
  weight: number | null;
  effect: number | null;
}

/** Means of blocks: block b holds positions edges[b] to edges[b + 1] - 1. */
export interface MeansFacts {
  edges: number[];
  values: (number | null)[];
}

/** The weight from token i to token j. */
export interface LinkFacts {
  i: number;
  j: number;
  weight: number | null;
}

/** A token that may come next. */
export interface NextFacts {
  token: string;
  probability: number | null;
  id: number;
}

/** A token that was written, its position, and the likeliest ones at that place. */
export interface WrittenFacts {
  token: string;
  probability: number | null;
  id: number;
  position: number;
  top: NextFacts[];
}

/** A token that may come next, and its probability `after` temperature, top-k and top-p. */
export interface DrawnFacts {
  token: string;
  probability: number | null;
  id: number;
  after: number | null;
}

/** What comes of a text: the likeliest next tokens, or the similarity to the text before.
 * 
 * Of a picture `top` are the likeliest classes, if the model tells classes apart. */
export interface OutcomeFacts {
  similarity?: number | null;
  top?: NextFacts[];
}

/** What removing one link does: see `effects.records.LinkEffect`. */
export interface LinkEffectFacts {
  part: string;
  layer: number;
  head: number;
  query: number;
  key: number;
  weight: number | null;
  predicted: number | null;
  change: number | null;
  block: number | null;
  true: number | null;
  warning: string;
  miss: string;
}

/** What removing a head, a token or a sentence does: see `effects.records.GroupEffect`. */
export interface GroupFacts {
  by: string;
  part: string;
  label: string;
  true: number | null;
  layer: number | null;
  head: number | null;
  first: number | null;
  last: number | null;
}

/** The number with links removed together; in draws of as many others, `low` to `high`. */
export interface JointFacts {
  links: number;
  after: number | null;
  kept: number;
  draws: number;
  low: number | null;
  high: number | null;
}

/** How good predictions were, and what was not looked at: see `effects.records.Checked`. */
export interface CheckedFacts {
  removed: number;
  judged: number;
  sign: number;
  close: number;
  left: number;
  share: number | null;
  largest: number | null;
  heavy: number;
}

/** What is asked of a head: see `experiments.HEAD_QUESTIONS`. */
export interface AskedFacts {
  question: string;
  change: string;
  limits: string;
}

/** What an experiment's card says in one language: see `draw.cards.Card`. */
export interface CardFacts {
  guesses: string[];
  headline: string;
  answer: string;
  reason: string;
}

/** A number before and after a change, and both with its name and unit in each language. */
export interface MeasuredFacts {
  name: string;
  unit: string;
  said: { [name: string]: string };
  before: number | null;
  after: number | null;
}

/** The weight of a key before and after a change. */
export interface ChangedLinkFacts {
  key: number;
  before: number | null;
  after: number | null;
}

/** What one change does to a row: the weight on itself, that of a link, and the output. */
export interface ChangedFacts {
  change: { [name: string]: string };
  own: number | null;
  link: number | null;
  output: number | null;
}

/** An experiment that can be made.
 * 
 * `names` are the guesses in the order in which the cards say them, `right` one of them. `links`
 * are the strongest of the row, and `outputs` what is added before and after, where the card is
 * about it. `beside` are other changes of the same row, the trained head first. */
export interface MadeFacts {
  cards: { [name: string]: CardFacts };
  key: number;
  names: string[];
  right: string | null;
  headline: [string, string];
  numbers: MeasuredFacts[];
  shows: "weights" | "outputs" | "numbers";
  links: ChangedLinkFacts[];
  outputs: ((number | null)[])[];
  proof: ProofFacts | null;
  same: ProofFacts | null;
  changes: boolean;
  beside: ChangedFacts[];
}

/** What the page opens with: a view, or the job that reads it. */
export interface StartFacts {
  view?: string;
  job?: string;
}

/** The model; one of two texts has three `parts`, and its own facts are those of "cross".
 * 
 * Where it reads a picture, a text to open is the data: address of a PNG, JPEG or WebP file. Where
 * it reads both, {"text": "...", "picture": a data: address} opens a text with another picture
 * than the one that it was started with. */
export interface ModelAnswer {
  n_layer: number;
  n_head: number;
  n_kv_head: number;
  d_model: number;
  d_k: number;
  d_v: number;
  causal: boolean;
  position: string;
  scale: number;
  softcap: number | null;
  sinks: boolean;
  name: string;
  family: string;
  dtype: string;
  longest: number | null;
  bits: number | null;
  reads: "text" | "picture" | "both";
  generates: boolean;
  parts: { [name: string]: PartFacts };
  version: string;
  python: string;
}

/** The model, and the text that the page opens with, if there is one. */
export interface ServedModel {
  n_layer: number;
  n_head: number;
  n_kv_head: number;
  d_model: number;
  d_k: number;
  d_v: number;
  causal: boolean;
  position: string;
  scale: number;
  softcap: number | null;
  sinks: boolean;
  name: string;
  family: string;
  dtype: string;
  longest: number | null;
  bits: number | null;
  reads: "text" | "picture" | "both";
  generates: boolean;
  parts: { [name: string]: PartFacts };
  version: string;
  python: string;
  start: StartFacts | null;
}

/** A text as one attention of a model read it.
 * 
 * `read` is what was typed, `window` which part of it was read if it is long, `target` what was
 * given to be written, `pair` the second sentence if `read` is the first of a pair, `keys` the
 * text whose tokens are looked at where it is another one, `cannotRead` what is said in each
 * language if the model cannot read all that was typed, `tabs` what there is to show of it, and
 * `questions` the experiments in order. */
export interface ViewAnswer {
  text: string;
  tokens: string[];
  typed: string[];
  special: boolean[];
  spans: [number, number][];
  pictures: PictureFacts[];
  n: number;
  part: string | null;
  parts: string[];
  target: string | null;
  read: string;
  pair: string | null;
  window: WindowFacts | null;
  keys: TextFacts | null;
  cannotRead: { [name: string]: string };
  tabs: ("cards" | "text" | "grid" | "map" | "matters" | "whatif" | "generate")[];
  questions: string[];
  statistics: string[];
  proofs: ProofFacts[];
  first: PlaceFacts;
  engine: string;
  seconds: number;
  python: string;
}

/** What a story says in words: the seven steps, the proof, and the lines of Python. */
export interface ToldSteps {
  steps: StepFacts[];
  proofSentence: string;
  rate: string;
  python: string;
}

/** What one head does to one token; see `study.one_token`. A long text has no long lists. */
export interface StoryAnswer {
  steps: StepFacts[];
  proofSentence: string;
  rate: string;
  python: string;
  model: string;
  family: string;
  n_layer: number;
  n_head: number;
  n_kv_head: number;
  d_model: number;
  d_k: number;
  layer: number;
  head: number;
  token: number;
  mask: string;
  position: string;
  scale: number;
  x: (number | null)[];
  q: (number | null)[];
  k: (number | null)[];
  v: (number | null)[];
  context: (number | null)[];
  gated: (number | null)[] | null;
  share: (number | null)[];
  output: (number | null)[];
  proof: ProofFacts;
  source: SourceFacts | null;
  ranked: RankedFacts[];
  sentence?: string;
  tokens?: string[];
  special?: boolean[];
  scores?: (number | null)[];
  weights?: (number | null)[];
}

/** The matrices of one head; see `study.head_matrices`. All heads share the bias of WO. */
export interface MatricesAnswer {
  WQ: MatrixFacts;
  WK: MatrixFacts;
  WV: MatrixFacts;
  WO: MatrixFacts;
  python: string;
}

/** One column of a matrix, exactly: base64 of float32. */
export interface MatrixColumnAnswer {
  numbers: string;
  python: string;
}

/** How one weight comes about; see `study.answers.Cell`. */
export interface CellAnswer {
  terms: TermFacts[];
  dot: number | null;
  scale: number | null;
  scaled: number | null;
  softcap: number | null;
  capped: number | null;
  bias: number | null;
  score: number | null;
  sink: number | null;
  lse: number | null;
  weight: number | null;
  hidden: boolean;
  python: string;
}

/** Where one token looks; of a long text the strongest weights, and a curve of means. */
export interface RowAnswer {
  sink: number | null;
  lse: number | null;
  output: number | null;
  residual: ProofFacts | null;
  changed: number | null;
  python: string;
  weights?: (number | null)[];
  effects?: (number | null)[];
  strongest?: StrongFacts[];
  curve?: MeansFacts;
}

/** The lengths of what the parts of one layer add to a token; see `study.stream.StreamLayer`. */
export interface StreamLayerFacts {
  attention: number | null;
  cross: number | null;
  mlp: number | null;
  heads: (number | null)[];
  added: number | null;
  state: number | null;
  proof: ProofFacts | null;
}

/** What a token carries through all layers, and what is added to it.
 * 
 * `lens` has the likeliest tokens after each layer, where the model has a head for tokens. */
export interface StreamAnswer {
  embedding: number | null;
  normAfter: boolean;
  layers: StreamLayerFacts[];
  lens: NextFacts[][] | null;
  python: string;
}

/** Who looks at one token. */
export interface ColumnAnswer {
  weights: (number | null)[];
  received: number | null;
  python: string;
}

/** Exact weights of a rectangle, or numbers of its links. */
export interface TileAnswer {
  values: ((number | null)[])[];
  python: string;
}

/** Means of blocks of a whole map: of one head `values`, of all heads of a layer `heads`. */
export interface ThumbnailAnswer {
  edges: number[];
  keys: number[];
  python: string;
  values?: ((number | null)[])[];
  heads?: (((number | null)[])[])[];
}

/** What every token receives; of a long text the means of blocks. */
export interface ReceivedAnswer {
  values: (number | null)[];
  python: string;
  edges?: number[];
}

/** How far one head looks. */
export interface DistancesAnswer {
  edges: number[];
  mass: (number | null)[];
  mean: number | null;
  python: string;
}

/** The strongest links of one head. */
export interface LinksAnswer {
  links: LinkFacts[];
  python: string;
}

/** What a label is called, and its form of at most four letters. */
export interface LabelName {
  name: string;
  brief: string;
}

/** One number per head; of the labels also their names, evidence and source. */
export interface GridAnswer {
  statistic: string;
  unit: string;
  low: number;
  high: number;
  values: ((number | null)[])[];
  labels: string[][] | null;
  evidence: string[][] | null;
  python: string;
  source?: string;
  names?: { [name: string]: LabelName };
}

/** A text before and after a change; `view` is the changed text where no head is off.
 * 
 * It is asked for by {"off": [[layer, head]], "edits": [{"token": number, "text": "..."}]}. The
 * text "" hides a cell of a picture: its pixels are 0 as the model reads them, the mean color that
 * its processor takes away. A cell can be given no other text. */
export interface WhatIfAnswer {
  before: OutcomeFacts;
  after: OutcomeFacts;
  change: number | null;
  layers: (number | null)[];
  tokens: string[];
  view: string | null;
  python: string;
}

/** The likeliest next tokens before and after sampling: see `study.sampling.NextTokens`. */
export interface NextAnswer {
  top: DrawnFacts[];
  vocabulary: number;
  kept: number;
  held: number | null;
  python: string;
}

/** What the model wrote, and the whole text as a view. */
export interface GenerateAnswer {
  tokens: string[];
  steps: WrittenFacts[];
  view: string;
  python: string;
}

/** What can be asked about a text: the likeliest tokens, or none for how like two texts are.
 * 
 * `at` is the token behind which one is predicted, or the masked one, and `budget` how many links
 * would be removed. */
export interface ChoicesAnswer {
  kind: "next token" | "masked token" | "similarity" | "function";
  at: number | null;
  top: NextFacts[];
  budget: number;
  python: string;
}

/** What an answer rests on: see `effects.records.Why`.
 * 
 * `heaviest` are the links of largest weight, removed too. */
export interface WhyAnswer {
  kind: "next token" | "masked token" | "similarity" | "function";
  number: string;
  answer: string | null;
  against: string | null;
  at: number | null;
  how: string;
  tokens: { [name: string]: string[] };
  keys: { [name: string]: string[] };
  before: number;
  rounding: number;
  count: number;
  budget: number;
  links: LinkEffectFacts[];
  resting: LinkEffectFacts[];
  heaviest: LinkEffectFacts[];
  checked: CheckedFacts;
  together: JointFacts | null;
  seconds: number;
  python: string;
}

/** Heads, tokens or sentences, each removed for real, by falling size of the effect. */
export interface GroupsAnswer {
  by: string;
  number: string;
  before: number;
  rounding: number;
  groups: GroupFacts[];
  python: string;
}

/** A question about one row of a head; `made` is None where it is refused, in each language.
 * 
 * `rank` and `ranks` are the r of low_rank and the largest one. */
export interface ExperimentAnswer {
  name: string;
  asked: { [name: string]: AskedFacts };
  made: MadeFacts | null;
  refused: { [name: string]: string } | null;
  rank: number | null;
  ranks: number | null;
  python: string;
}

/** The maps of a head before and after a change, as means of blocks; and means over all rows. */
export interface ChangedMapsAnswer {
  edges: number[];
  keys: number[];
  before: ((number | null)[])[];
  after: ((number | null)[])[];
  means: MeasuredFacts[];
  python: string;
}

/** In how many of all heads an experiment comes out alike; with `layers`, in how many layers. */
export interface OftenAnswer {
  same: number;
  total: number;
  layers: boolean;
  python: string;
}

/** The answers about a view, by the last part of their address: api/views/{view}/row. */
export interface Answers {
  story: StoryAnswer;
  matrices: MatricesAnswer;
  matrixcolumn: MatrixColumnAnswer;
  cell: CellAnswer;
  row: RowAnswer;
  tile: TileAnswer;
  stream: StreamAnswer;
  column: ColumnAnswer;
  thumbnail: ThumbnailAnswer;
  received: ReceivedAnswer;
  distances: DistancesAnswer;
  links: LinksAnswer;
  grid: GridAnswer;
  choices: ChoicesAnswer;
  effects: TileAnswer;
  effectblocks: ThumbnailAnswer;
  next: NextAnswer;
  experiment: ExperimentAnswer;
  changedmaps: ChangedMapsAnswer;
  runon: WhatIfAnswer;
  often: OftenAnswer;
}

/** What a saved page knows of a layer beside its numbers: see explorer/saved_layer.py.
 * 
 * `shapes` are those of the numbers, by name; `residuals` the proofs of single tokens; `stories`
 * what is told of a head and a token, by language. The experiments of `refused` cannot be made,
 * for reasons in each language. `ranks` are of each head the rank of WQ WK^T and what low_rank
 * keeps of it, and `shuffled` of each token the largest number of its output, and what
 * shuffled_heads changes. `proofs` are those that experiments change nothing, by name, head and
 * token; of what all heads do together there is one head. */
export interface SavedLayer {
  shapes: { [name: string]: number[] };
  mask: string;
  position: string;
  scale: number;
  softcap: number | null;
  residuals: (ProofFacts | null)[];
  refused: { [name: string]: { [name: string]: string } };
  ranks: [number, number][];
  shuffled: [number, number, number, number][];
  proofs: { [name: string]: ((ProofFacts | null)[])[] };
  stories: { [name: string]: ToldSteps[][] };
}

/** The rule that decides whether a guess is right; see `experiments.guesses.GuessRule`. */
export interface SavedRule {
  name: string;
  of: string;
  how: "least" | "above" | "below";
  bound: number;
}

/** What a card says in one language, with places for numbers; reasons by the right guess. */
export interface SavedSentences {
  guesses: { [name: string]: string };
  headline: string;
  answer: string;
  reasons: { [name: string]: string };
}

/** A question about a head as a saved page answers it: see explorer/saved_cards.py.
 * 
 * `headline` names its numbers, and `turn` the place of the right guess. `ofScores`: a row that
 * sees one key alone does not answer it. */
export interface SavedQuestion {
  name: string;
  asked: { [name: string]: AskedFacts };
  said: { [name: string]: SavedSentences };
  rules: SavedRule[];
  turn: number;
  headline: string[];
  shows: "weights" | "outputs" | "numbers";
  beside: string[];
  ofScores: boolean;
}

/** The questions, and the sentences of all: the rest and single numbers, each by language.
 * 
 * `places` are the numbers that the sentences name, by their places; `alone` is why big_weight is
 * refused for a row of one key; `kept` is the share of d_k that low_rank keeps. */
export interface SavedCards {
  questions: SavedQuestion[];
  otherwise: { [name: string]: { [name: string]: string } };
  alone: { [name: string]: string };
  numbers: { [name: string]: { [name: string]: string } };
  units: { [name: string]: { [name: string]: string } };
  places: { [name: string]: string };
  links: number;
  kept: number;
}

/** A matrix in a saved page: its `MatrixFacts`, followed by its numbers. */
export interface SavedMatrix {
  rows: number;
  columns: number;
  per: [number, number];
  step: number;
  bias: (number | null)[] | null;
  between: ("norm" | "clip" | "RoPE" | "temperature" | "gate")[];
}

/** The matrices of a layer by head; of heads that share WK and WV, each once. */
export interface SavedMatrices {
  WQ: SavedMatrix[];
  WK: SavedMatrix[];
  WV: SavedMatrix[];
  WO: SavedMatrix[];
}

/** One attention of a saved text: its layers as `SavedLayer` packed, None where left out.
 * 
 * `matrices` are those of the layers as `SavedMatrices` packed, and `streams` the answers
 * "stream" of all tokens, packed too. `cards` are what the questions say. `python` are the lines
 * that open the view, before those of each answer. */
export interface SavedPart {
  layers: (string | null)[];
  matrices: (string | null)[];
  streams: string | null;
  cards: SavedCards;
  python: string;
}

/** What a saved page has inside.
 * 
 * `answers` by the addresses that the page would ask, and `parts`, by the views' addresses, of
 * which it computes all others. `left_out` says in each language what did not fit. */
export interface Recorded {
  answers: { [name: string]: ServedModel | ViewAnswer | StoryAnswer | MatricesAnswer | MatrixColumnAnswer | CellAnswer | RowAnswer | StreamAnswer | TileAnswer | ColumnAnswer | ThumbnailAnswer | ReceivedAnswer | DistancesAnswer | LinksAnswer | GridAnswer | ChoicesAnswer | NextAnswer | ExperimentAnswer | ChangedMapsAnswer | WhatIfAnswer | OftenAnswer | WhyAnswer | GroupsAnswer };
  parts: { [name: string]: SavedPart };
  cap: number;
  left_out: { [name: string]: string[] };
}

/** How far a job is; `result` once it is done, `error` and `do` if it failed. */
export interface JobFacts {
  state: "waiting" | "running" | "done" | "failed" | "cancelled";
  what: string;
  done: number;
  total: number;
  result?: ViewName | GenerateAnswer | WhyAnswer | GroupsAnswer | StoryAnswer | MatricesAnswer | MatrixColumnAnswer | CellAnswer | RowAnswer | StreamAnswer | TileAnswer | ColumnAnswer | ThumbnailAnswer | ReceivedAnswer | DistancesAnswer | LinksAnswer | GridAnswer | ChoicesAnswer | NextAnswer | ExperimentAnswer | ChangedMapsAnswer | WhatIfAnswer | OftenAnswer;
  error?: string;
  do?: string;
}

/** The name of a view that is open from now on. */
export interface ViewName {
  view: string;
}
