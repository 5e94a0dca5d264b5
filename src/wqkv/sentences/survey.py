"""What the heads of a model do over a whole corpus: the page, and the lines of the terminal."""

from __future__ import annotations

#: What was read, in the page and in the terminal.
COUNTED = {
    "counts": (
        "{documents}, {tokens:,} tokens, {counted:,} of them not special",
        "{documents}，{tokens:,} 个词元，其中 {counted:,} 个不是特殊词元",
    ),
    "counts_windows": (
        "{documents} in {windows:,} windows, {tokens:,} tokens, {counted:,} of them not special",
        "{documents}（{windows:,} 个窗口），{tokens:,} 个词元，其中 {counted:,} 个不是特殊词元",
    ),
    "read": ("read: {counts}", "已读：{counts}"),
    "skipped": ("skipped: {count:,} {reason}", "跳过：{count:,} 个，{reason}"),
    "reason": ("{kind}: {more}", "{kind}：{more}"),
    "skipped_in": ("skipped in: {files}", "跳过的文档在：{files}"),
    "more_files": ("{files} and {count:,} more", "{files}，另有 {count:,} 个文件"),
    "pace": (
        "{per_second:,.3g} documents and {tokens:,.0f} tokens a second ({documents}, "
        "{seconds:,.0f} s)",
        "每秒 {per_second:,.3g} 个文档、{tokens:,.0f} 个词元（{documents}，{seconds:,.0f} 秒）",
    ),
    "made_again": (
        "{path} was damaged or altered, and was made again",
        "{path} 损坏或被改动过，已重新生成",
    ),
    "surveying": ("surveying", "正在普查"),
}

#: Why a document was skipped: what stands before a colon in the English reason, as it is written
#: into the files of the results.
REASONS = {
    "empty": ("empty", "没有内容"),
    "not UTF-8": ("not UTF-8", "不是 UTF-8"),
    "not JSON": ("not JSON", "不是 JSON"),
    "not a JSON object": ("not a JSON object", "不是 JSON 对象"),
    "not Unicode": ("not Unicode", "不是 Unicode"),
    "not readable": ("not readable", "无法读取"),
    "not Parquet": ("not Parquet", "不是 Parquet"),
    "damaged Parquet": ("damaged Parquet", "Parquet 已损坏"),
    "no field": ("no field {field} among {names}", "没有字段 {field}，有的是 {names}"),
    "not text": ("its {field} is {kind}, not text", "{field} 是 {kind}，不是文本"),
    "window": ("window {number} of {count}", "第 {number} 个窗口（共 {count} 个）"),
}

#: The page.
PAGE = {
    "title": ("wqkv survey: {model}", "wqkv 普查：{model}"),
    "heading": ("What do the heads of {model} do?", "{model} 的各个注意力头在做什么？"),
    "over": ("Over {counts}: {source}", "读了 {counts}：{source}"),
    "every": ("Every head", "所有的头"),
    "every_says": (
        "A row is a layer, a column a head. Choose one to see what it does.",
        "一行是一层，一列是一个头。点一个头，看它做什么。",
    ),
    "heads": ("heads", "头"),
    "cell": ("layer {layer} head {head}: {label}", "第 {layer} 层第 {head} 头：{label}"),
    "do": ("What they do", "它们做什么"),
    "label": ("label", "标签"),
    "strongest": ("the strongest", "最强的头"),
    "skipped": ("Skipped", "跳过的文档"),
    "count": ("{count:,} {reason}", "{count:,} 个：{reason}"),
    "which": ("Which", "哪些文档"),
    "document": ("{name}: {reason}", "{name}：{reason}"),
    "more": (
        "{count:,} more are in skipped.parquet.",
        "其余 {count:,} 个在 skipped.parquet 里。",
    ),
    "head": ("Layer {layer}, head {head}: {label}", "第 {layer} 层第 {head} 头：{label}"),
    "it": ("It {evidence}.", "{evidence}。"),
    "none": ("None.", "没有。"),
    "links": ("Its strongest links", "最强的连接"),
    "links_say": (
        "One a document, by weight: the framed token looks at the filled one. Special tokens, "
        "separators, the first token of a window and the same token again do not count.",
        "每个文档一条，按注意力权重排列：带框的词元看向填色的词元。特殊词元、分隔符、"
        "窗口的第一个词元和同一个词元不计。",
    ),
    "measures": ("Its measures", "各项度量"),
    "measures_say": (
        "Over all tokens that are not special: the mean, the standard deviation, what equal "
        "weights would give, and how many tokens lie where.",
        "对所有非特殊词元：均值、标准差、注意力平均分配时的值，以及词元的分布。",
    ),
    "mean": ("mean", "均值"),
    "sd": ("sd", "标准差"),
    "equal": ("equal", "平均分配"),
    "low_to_high": ("from low to high", "从低到高"),
    "no_mean": ("none", "无"),
    "bins": (
        "{tokens}; the first bin ends at {low}, the last begins at {high}",
        "{tokens}；第一格止于 {low}，最后一格起于 {high}",
    ),
    "all": ("All heads", "所有的头"),
}

#: The measures that are no labels of heads, and the units of all measures.
MEASURED = {
    "entropy": ("entropy", "熵"),
    "distance": ("distance", "距离"),
    "received": ("received", "收到的注意力"),
    "share": ("share of the weight", "占注意力权重的份额"),
    "evenness": ("share of the highest entropy", "占最大熵的份额"),
    "nats": ("nats", "nat"),
    "tokens": ("tokens", "词元"),
    "weight": ("weight, from all tokens of its text", "注意力权重，来自文本的所有词元"),
}
