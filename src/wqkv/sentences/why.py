"""What an answer rests on: the question, what was removed, and what is not known."""

from __future__ import annotations

#: The question, its number, and what an effect means.
QUESTION = {
    "title_answer": ("What does this answer of {model} rest on?", "{model} 的这个答案依据什么？"),
    "title_number": ("What does this number of {model} rest on?", "{model} 的这个数依据什么？"),
    "at_next token": (
        "{number}, for the token after {token}: {value}{wins}",
        "{number}（{token} 之后的词元）：{value}{wins}",
    ),
    "at_masked token": (
        "{number}, for the masked token {token}: {value}{wins}",
        "{number}（被遮住的词元 {token}）：{value}{wins}",
    ),
    "at_other": (
        "{number}, for the token {token}: {value}{wins}",
        "{number}（词元 {token}）：{value}{wins}",
    ),
    "asked": ("{number}: {value}{wins}", "{number}：{value}{wins}"),
    "wins": (", so {answer} wins", "，{answer} 更大"),
    "still_wins": (", so {answer} still wins", "，仍是 {answer} 更大"),
    "own": (
        "Computed with our attention; the model's own number differs by {off:.1e}.",
        "由我们的注意力算出；与模型自己的数相差 {off:.1e}。",
    ),
    "own_same": (
        "Computed with our attention; the model's own number is the same.",
        "由我们的注意力算出；与模型自己的数相同。",
    ),
    "read": ("read", "原文"),
    "written": ("written", "所写"),
    "tokens_done": ("{tokens} {done}", "{done} {tokens}"),
    "both": ("{first} and {second}", "{first}，{second}"),
    "counted": (
        "{tokens}, {links} in all layers and heads. {removed:,} of them were removed for real, "
        'each by itself: {removal} ("{how}").',
        "{tokens}，所有层和头共 {links}。其中 {removed:,} 条已真实地逐一去掉：{removal}（{how}）。",
    ),
    "removal_renormalize": (
        "its weight goes to the row's other keys",
        "它的注意力权重分给本行其余的键",
    ),
    "removal_zero": (
        "its weight stays, and the value that it carries becomes 0",
        "它的注意力权重不变，它带来的值变为 0",
    ),
    "meant": (
        "The effect of a link is the number without it less the number with it. A link with an "
        "effect below 0 {down}, one above 0 {up}.",
        "一条连接的作用 = 去掉它之后的数 - 去掉它之前的数。作用小于 0 的连接{down}，大于 0 的"
        "{up}。",
    ),
    "raises": ("raises the number", "使该数变大"),
    "lowers": ("lowers the number", "使该数变小"),
    "more_alike": ("makes the texts more alike", "使两段文本更相似"),
    "less_alike": ("makes the texts less alike", "使两段文本更不相似"),
    "speaks_for": ("speaks for {answer}", "支持 {answer}"),
    "speaks_against": ("speaks against it", "不支持它"),
    "the_answer": ("the answer", "答案"),
}

#: The numbers that are asked about.
NUMBERS = {
    "logits": (
        "logit of {answer!r}{first} less logit of {rival!r}{second}",
        "{answer!r}{first} 的 logit 减去 {rival!r}{second} 的 logit",
    ),
    "cosine": ("cosine with {answer!r}", "与 {answer!r} 的余弦"),
    "cosines": (
        "cosine with {answer!r} less cosine with {rival!r}",
        "与 {answer!r} 的余弦减去与 {rival!r} 的余弦",
    ),
    "token_id": (", token {id}{first}", "（词元 {id}）{first}"),
    "first_token": (" (the first token of {text!r})", "（{text!r} 的第一个词元）"),
}

#: The lists of links and groups.
LISTED = {
    "links": ("The strongest links, by true effect:", "作用最强的连接（按真实作用排列）："),
    "resting_renormalize": (
        "Links to the first token. Removing one switches a resting head on, and says nothing about "
        "what was read. This list may miss some:",
        "指向第一个词元的连接。去掉这样的连接，会使停在那里的头活动起来，并不说明读到了什么。此表可"
        "能有遗漏：",
    ),
    "resting_zero": (
        "Links to the first token, which a resting head looks at. They say nothing about what was "
        "read, and this list may miss some:",
        "指向第一个词元的连接：没有要看的东西时，头就停在那里。它们不说明读到了什么，此表也可能有遗"
        "漏：",
    ),
    "heaviest": (
        "The heaviest links of all layers and heads, to compare: a weight says little about an "
        "effect.",
        "作为比较，所有层和头里注意力权重最大的连接：权重的大小很难说明作用的大小。",
    ),
    "predicted": (
        "The strongest of the links that were not removed, predicted only:",
        "没有去掉的连接中最强的（只有预测）：",
    ),
    "marks": (
        "! marks a prediction that was doubtful before the removal (large local change, its own "
        "block says otherwise), or that missed by more than half (wrong sign, too small, too "
        "large).",
        "! 表示预测在去掉之前就可疑（局部变化大、只在本块重算结果不同），或偏差超过一半（符号错、偏"
        "小、偏大）。",
    ),
    "layer": ("layer", "层"),
    "head": ("head", "头"),
    "part": ("part", "部分"),
    "from_to": ("from -> to", "从 -> 到"),
    "weight": ("weight", "权重"),
    "predicted_effect": ("predicted", "预测"),
    "true": ("true", "真实"),
    "text": ("text", "文本"),
    "encoder": ("encoder", "编码器"),
    "decoder": ("decoder", "解码器"),
    "cross": ("cross", "交叉"),
    "clause": (
        "layer {layer}, head {head}, {link}: weight {weight}, predicted {predicted}, true {true}",
        "第 {layer} 层第 {head} 头，{link}：权重 {weight}，预测 {predicted}，真实 {true}",
    ),
    "of_part": ("{part}, {name}", "{part}，{name}"),
    "more": (
        "and {count:,} more, none beyond {limit} up or down",
        "另有 {count:,} 条，作用的大小都不超过 {limit}",
    ),
    "some_tokens": (
        "(tokens {first} to {last} of 0 to {end})",
        "（0 到 {end} 号词元中的 {first} 到 {last} 号）",
    ),
    "named": ("{name}:", "{name}："),
    "large local change": ("large local change", "局部变化大"),
    "its own block says otherwise": ("its own block says otherwise", "只在本块重算结果不同"),
    "wrong sign": ("wrong sign", "符号错"),
    "prediction too small": ("prediction too small", "预测偏小"),
    "prediction too large": ("prediction too large", "预测偏大"),
    "doubt": ("! {first}", "! {first}"),
    "doubts": ("! {first}, {second}", "! {first}、{second}"),
    "not_removable": ("cannot be removed: a row has no other key", "无法去掉：有一行没有其他的键"),
    "below": ("below rounding", "低于舍入误差"),
    "group_head": (
        "Heads, the output of each set to 0; true effects, which do not add up:",
        "各个头，逐一把输出设为 0；真实作用，不能相加：",
    ),
    "group_token": (
        "Tokens, each hidden from all others that could see it, in all layers and heads; true "
        "effects, which do not add up:",
        "各个词元，逐一在所有层和头里对能看到它的其他词元遮住；真实作用，不能相加：",
    ),
    "group_span": (
        "Spans, each hidden from all tokens outside that could see it, in all layers and heads; "
        "true effects, which do not add up:",
        "各段文本，逐一在所有层和头里对段外能看到它的词元遮住；真实作用，不能相加：",
    ),
    "a_head": ("layer {layer}, head {head}", "第 {layer} 层第 {head} 头"),
    "a_span": ("tokens {first} to {last}: {text}", "{first} 到 {last} 号词元：{text}"),
}

#: What removing several links together does.
TOGETHER = {
    "one": (
        "The link of the first list removed{kept}: {before} -> {after}{wins}.",
        "去掉第一个表里的那条连接{kept}：{before} -> {after}{wins}。",
    ),
    "all": (
        "All {links} of the first list removed together{kept}: {before} -> {after}{wins}.",
        "同时去掉第一个表里的全部 {links}{kept}：{before} -> {after}{wins}。",
    ),
    "kept": (
        " ({kept:,} stayed, because the row would have lost every key)",
        "（其中 {kept:,} 条保留，否则所在的行会失去所有的键）",
    ),
    "others": (
        "As many other links of like weight, of the same tokens: {before} -> {low}{until} "
        "({draws}).",
        "同样多条由同样的词元看出、权重相近的其他连接：{before} -> {low}{until}（{draws}）。",
    ),
    "until": (" to {high}", " 到 {high}"),
    "draws": ("{draws}, 5 to 95 %", "{draws}，5 到 95 %"),
    "no_others": (
        "There were no other links of like weight to compare with.",
        "没有权重相近的其他连接可以比较。",
    ),
    "sum": (
        "Single effects sum to {total}, together they are {change}: {compared}.",
        "各自的作用相加为 {total}，一起去掉为 {change}：{compared}。",
    ),
    "add_up": ("they add up", "可以相加"),
    "not_add_up": ("they do not add up", "不能相加"),
    "overlap": ("they overlap", "作用互相重叠"),
    "do_more": ("together they do more", "一起去掉时作用更大"),
}

#: What was not removed, and how often the predictions were right.
UNCHECKED = {
    "none_left": ("Every link was removed for real.", "每条连接都已真实去掉。"),
    "left": (
        "Not removed: {links} with {share:.3g} % of all predicted effect{heavy}; none is predicted "
        "beyond {limit}.",
        "没有去掉的：{links}，占全部预测作用的 {share:.3g} %{heavy}；预测的作用都不超过 {limit}。",
    ),
    "heavy": (
        ", {count:,} of them of weight above 0.5",
        "，其中 {count:,} 条的注意力权重大于 0.5",
    ),
    "no_effect": (
        "No removed link has an effect above rounding.",
        "去掉的连接中，没有一条的作用超过舍入误差。",
    ),
    "missed": (
        "Predictions can miss: of those for {links}{clear}, {sign:,} had the right sign, and "
        "{close:,} lay within 50 % of the true effect.",
        "预测可能有偏差：在{clear} {links}中，{sign:,} 条预测的符号正确，{close:,} 条的误差在真实作"
        "用的 50 % 以内。",
    ),
    "clear": (" with an effect above rounding", "作用超过舍入误差的"),
    "caveat": (
        "This is not a proof that nothing else matters.",
        "这并不证明其他一切都不起作用。",
    ),
}

#: What only the picture says.
PICTURED = {
    "arcs": (
        "The thicker an arc, the larger its true effect. Its arrow points at the key.",
        "弧线越粗，真实作用越大。箭头指向键。",
    ),
    "two_lines": (
        "The upper text was written, the lower one was read.",
        "上面一行是所写的文本，下面一行是原文。",
    ),
    "to_first": ("goes to the first token", "指向第一个词元"),
}

#: What the command says besides.
BESIDES = {
    "similarity": (
        "{model} predicts no next token, so the number says how alike two texts are. For a next "
        "token, name a causal model with --model.",
        "{model} 不预测下一个词元，所以这个数表示两段文本有多相似。要问下一个词元，"
        "请用 --model 指定一个因果语言模型。",
    ),
    "asking": ("asking {model}", "正在询问 {model}"),
}
