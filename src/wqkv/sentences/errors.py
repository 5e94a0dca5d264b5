"""What is wrong with what a person typed: the errors that a command says in either language.

The library raises them in English. Errors that only a programmer can cause stand where they are
raised, in English alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from wqkv.sentences import Said, say
from wqkv.sentences.models import MODELS

#: What came from the command line: texts, files, numbers.
GIVEN = {
    "text": ("text", "文本"),
    "sentence": ("sentence", "句子"),
    "answer": ("answer", "答案"),
    "rival": ("rival", "对照答案"),
    "target": ("target", "目标文本"),
    "table": ("table", "表格"),
    "image": ("image", "图片"),
    "page": ("page", "网页"),
    "two_texts": (
        "There is a TEXT and --text {file}. Pass one of them.",
        "同时给出了 TEXT 和 --text {file}。请只给其中一个。",
    ),
    "file_not_utf8": (
        "{file!r} is not text in UTF-8: byte 0x{byte:02x} at {at}.",
        "{file!r} 不是 UTF-8 文本：位置 {at} 处的字节为 0x{byte:02x}。",
    ),
    "file_empty": (
        "{file!r} is empty. Name a file with at least one word.",
        "{file!r} 是空的。请指定一个至少有一个词的文件。",
    ),
    "stdin_not_utf8": (
        "Standard input is not text in UTF-8: byte 0x{byte:02x} at {at}.",
        "标准输入不是 UTF-8 文本：位置 {at} 处的字节为 0x{byte:02x}。",
    ),
    "stdin_empty": (
        "Standard input is empty. Pass at least one word.",
        "标准输入是空的。请至少输入一个词。",
    ),
    "stdin_no_sentence": (
        "Standard input has no sentence. Pass one sentence a line.",
        "标准输入里没有句子。请每行输入一句。",
    ),
    "text_empty": (
        "Text {number} of {count} is empty. Pass at least one word.",
        "{count} 段文本中的第 {number} 段是空的。请至少输入一个词。",
    ),
    "sentence_empty": (
        "Sentence {number} of {count} is empty: {sentence!r}.",
        "{count} 个句子中的第 {number} 个是空的：{sentence!r}。",
    ),
    "not_utf8": (
        "The {what} {text!a} is not valid UTF-8.",
        "{what} {text!a} 不是有效的 UTF-8。",
    ),
    "no_sentence": (
        'No sentence was given. Call wqkv see "{example}", or wqkv see - to read standard input.',
        '没有给出句子。请用 wqkv see "{example}"，或用 wqkv see - 从标准输入读取。',
    ),
    "no_text": (
        'No text was given. Call wqkv why "{example}", or wqkv why - to read standard input.',
        '没有给出文本。请用 wqkv why "{example}"，或用 wqkv why - 从标准输入读取。',
    ),
    "text_looked_at": (
        "The view of the {part} does not know the text that {model} looks at.\n"
        'Ask the view of its "cross" attention, which does.',
        '{part}的视图不知道 {model} 所看的那段文本。\n请改用它的交叉注意力（"cross"）的视图。',
    ),
    "nothing_expected": (
        "There is no expectation.\nPass at least one sentence with two words.",
        "没有给出预期。\n请至少给出一个句子和其中的两个词。",
    ),
    "not_comparable": (
        "{query!r} in {text!r} is to look at {key!r} more than at others.\n"
        "  what it can look at: {seen}\n"
        "Give a word that it can look at, and another one beside it.",
        "要在 {text!r} 里比较 {query!r} 看 {key!r} 和看别的词的多少。\n"
        "  它能看到的：{seen}\n"
        "请给出一个它能看到的词，并且旁边还有别的词。",
    ),
    "nothing_seen": ("nothing", "没有"),
    "rate_of_what": (
        "Pass TEXT with --from and --to, or --data with a .jsonl file.",
        "请给出 TEXT 以及 --from 和 --to，或用 --data 给出一个 .jsonl 文件。",
    ),
    "line_no_json": (
        "Line {number} of {file!r} is no JSON.",
        "{file!r} 的第 {number} 行不是 JSON。",
    ),
    "line_fields": (
        'Line {number} of {file!r} is {line}.\nGive {{"text": ..., "from": ..., "to": ...}}, and '
        '"among": [...] if not all words are candidates.',
        '{file!r} 的第 {number} 行是 {line}。\n请写成 {{"text": ..., "from": ..., "to": ...}}；'
        '如果不是所有词都作候选，再加上 "among": [...]。',
    ),
    "one_map": (
        "--output holds the map of one sentence, and there are {count}. Pass one sentence, or "
        "--html for a page of all.",
        "--output 只能存一个句子的图，而这里有 {count} 个。请只给一个句子，或用 --html 把全部句子"
        "存成网页。",
    ),
    "suffix": (
        "The {what} {file!r} needs a name ending in {names}.",
        "{what} {file!r} 的文件名必须以 {names} 结尾。",
    ),
    "no_parent": (
        "The folder {folder!r} of {file!r} is not there.",
        "{file!r} 所在的文件夹 {folder!r} 不存在。",
    ),
    "is_folder": (
        "{file!r} is a folder. Pass the name of a file.",
        "{file!r} 是文件夹。请给出文件名。",
    ),
    "image_ends": ("ends in {suffix!r}", "以 {suffix!r} 结尾"),
    "image_bare": ("has no suffix", "没有扩展名"),
    "image_format": (
        "The image file {file!r} {what}. Pass a name ending in {names}.",
        "图片文件 {file!r} {what}。文件名请以 {names} 结尾。",
    ),
    "one_of": ("{before} or {last}", "{before} 或 {last}"),
    "no_port": (
        "There is no port {port}. Pass 1 to {last}, or 0 for any.",
        "没有端口 {port}。请给 1 到 {last}，或给 0 任选一个。",
    ),
    "host_any": (
        "The host {host!r} is not a name that a browser can ask for. Pass the address by which "
        "this machine is reached.",
        "浏览器无法访问主机名 {host!r}。请给出其他机器访问本机所用的地址。",
    ),
    "host_reachable": (
        "Other machines can reach {host}: whoever knows the address could read your texts and keep "
        "this machine busy, and nothing is encrypted on the way. Pass --others to allow it.",
        "其他机器可以访问 {host}：知道地址的人都能读到你的文本、占用这台机器，而且传输不加密。如果"
        "允许，请加 --others。",
    ),
    "no_host": (
        "This machine finds no host {host!r}. Pass one of its own addresses.",
        "本机找不到主机 {host!r}。请给出本机自己的地址。",
    ),
    "cannot_listen": (
        "Port {port} of {host} cannot be used: {reason}. Pass another one, or 0 for any.",
        "不能使用 {host} 的端口 {port}：{reason}。请换一个，或给 0 任选一个。",
    ),
    "one_model": (
        "There is one model. Pass a second one, or --cache-bits.",
        "只有一个模型。请再给一个，或给 --cache-bits。",
    ),
    "texts_behind_two": (
        "There are two models, and behind them come {count} texts. Pass one, in quotes.",
        "两个模型之后有 {count} 段文本。请只给一段，并加引号。",
    ),
    "texts_behind_bits": (
        "--cache-bits compares one model with itself, and behind it come {count} texts. Pass one, "
        "in quotes.",
        "--cache-bits 把一个模型与它自己比较，而模型之后有 {count} 段文本。请只给一段，并加引号。",
    ),
}

#: A text as a model reads it.
READ = {
    "empty_sentence": (
        "The sentence is empty. Give at least one word.",
        "句子是空的。请至少输入一个词。",
    ),
    "empty_text": (
        "The text is empty. Give at least one word.",
        "文本是空的。请至少输入一个词。",
    ),
    "too_long": (
        "The sentence has {n} tokens, and {model} takes {longest}.\nGive a shorter text.",
        "句子有 {n} 个词元，而 {model} 最多读 {longest} 个。\n请缩短文本。",
    ),
    "too_long_at_once": (
        "The sentence has {n} tokens, and {model} takes {longest}.\n"
        "Give a shorter text, or open it with `wqkv open`, which reads it in windows.",
        "句子有 {n} 个词元，而 {model} 最多读 {longest} 个。\n请缩短文本，或用 `wqkv open` 打开，它"
        "会分窗口读取。",
    ),
    "no_cut": (
        "The text has {n:,} tokens, the model takes {longest:,}, and its tokenizer does not say "
        "where the text can be cut.\nGive a shorter text.",
        "文本有 {n:,} 个词元，模型最多读 {longest:,} 个，而它的分词器不给出可以切分的位置。\n请缩短"
        "文本。",
    ),
    "no_window": (
        "There is no window {number}: the text has {count}, 0 to {last}.",
        "没有第 {number} 个窗口：文本有 {count} 个窗口，编号 0 到 {last}。",
    ),
    "no_pair": (
        "{model} reads no pair of sentences: its tokenizer puts nothing between them, or does not "
        "say where they stand.\nGive one text, or open an encoder, such as minilm.",
        "{model} 不能读句子对：它的分词器不在两句之间加分隔词元，或不给出词元的位置。\n请只给一段文"
        "本，或打开一个编码器，例如 minilm。",
    ),
    "no_matters": (
        "{model} reads a picture, and what its links do to an answer is asked of texts.\n"
        "Hide a patch in the view What if.",
        "{model} 读的是图片，而连接对答案的作用只能问文本。\n请在“假如”视图里遮住一个图块。",
    ),
    "no_data_address": (
        "{model} reads a picture, and what was sent is none.\n"
        "Send a picture as a data: address, or name a file to `wqkv open`.",
        "{model} 读的是图片，而发来的不是图片。\n请以 data: 地址发送图片，或把文件交给 "
        "`wqkv open`。",
    ),
    "no_pair_read": (
        "{model} reads a picture, and no pair of sentences.\nPass no second sentence.",
        "{model} 读的是图片，不读句子对。\n请不要给出第二个句子。",
    ),
    "two_texts_pair": (
        "{model} reads one text and writes another, and reads no pair.\n"
        "Pass the text that it writes as the target.",
        "{model} 读一段文本、写另一段，不读句子对。\n请把它所写的文本作为目标文本给出。",
    ),
    "no_token_of": (
        "There is no token {number}: the text has {count} tokens, 0 to {last}.",
        "没有词元 {number}：文本有 {count} 个词元，编号 0 到 {last}。",
    ),
    "not_in_text": (
        "Token {number}, {token!r}, does not stand in the text.\nChange one that does.",
        "词元 {number}（{token!r}）不在文本中。\n请改动一个在文本中的词元。",
    ),
    "pair_edited": (
        "The text is a pair of sentences, and token {token} of it is changed.\n"
        "Read the changed pair by `model.view(model.tokens(first, pair=second))`.",
        "文本是一个句子对，而要改的是其中第 {token} 个词元。\n"
        "请用 `model.view(model.tokens(first, pair=second))` 读取改过的句子对。",
    ),
    "message_fields": (
        "Message {number} of the conversation has the fields {fields}.\n"
        'Give each message as {{"role": "user", "content": "..."}}.',
        "对话的第 {number} 条消息的字段为：{fields}。\n"
        '每条消息请写成 {{"role": "user", "content": "..."}}。',
    ),
    "no_fields": ("none", "无"),
    "no_template": (
        "{model} has no template for a conversation: it is no chat model.\n"
        "Give it a plain text, or open a chat model, such as Qwen/Qwen3-0.6B.",
        "{model} 没有对话模板：它不是对话模型。\n"
        "请给它普通文本，或打开一个对话模型，例如 Qwen/Qwen3-0.6B。",
    ),
    "template_refuses": (
        "The template of {model} does not take a conversation of {roles} ({reason}).\n"
        "Give other roles, or another order.",
        "{model} 的模板不接受角色依次为 {roles} 的对话（{reason}）。\n请换角色，或调整顺序。",
    ),
    "template_twice": (
        "The tokenizer of {model} puts special tokens around the text of its own template.\n"
        "Open the model in Python, and read the text by its ids.",
        "{model} 的分词器会在它自己的模板文本前后再加特殊词元。\n"
        "请在 Python 里打开模型，并按词元编号读取文本。",
    ),
    "no_token_read": (
        "{model} sees no token in the sentence {sentence!r}.\nGive another text.",
        "{model} 在句子 {sentence!r} 里没有读到词元。\n请换一段文本。",
    ),
    "no_token_known": (
        "{model} sees no token in the sentence {sentence!r}.\nGive another text, or open a model "
        "that reads it, with {other}.",
        "{model} 在句子 {sentence!r} 里没有读到词元。\n请换一段文本，或用 {other} 打开能读它的模型"
        "。",
    ),
    "no_tokens": ("{model} sees no token in the text.", "{model} 在文本里没有读到词元。"),
    "no_such_token": (
        "There is no token {typed!r} in the sentence. Its tokens: {tokens} (or a number from 0 to "
        "{last}).",
        "句子里没有词元 {typed!r}。句子的词元：{tokens}（也可以给 0 到 {last} 的编号）。",
    ),
    "no_layer": (
        "There is no layer {number}: the model has {count} layers, 0 to {last}.",
        "没有第 {number} 层：模型有 {count} 层，编号 0 到 {last}。",
    ),
    "no_head": (
        "There is no head {number}: the model has {count} heads, 0 to {last}.",
        "没有第 {number} 个头：模型有 {count} 个头，编号 0 到 {last}。",
    ),
    "no_token": (
        "There is no token {number}: the text has {count} tokens, 0 to {last}.",
        "没有第 {number} 个词元：文本有 {count} 个词元，编号 0 到 {last}。",
    ),
}

#: What `why` is asked.
ASKED = {
    "not_masked": (
        "Token {row} is {token!r}, and tokens {masked} are masked.\n"
        "Pass the number of one of them as `at`.",
        "第 {row} 个词元是 {token!r}，而被遮住的是第 {masked} 个词元。\n请用 `at` 给出其中一个的编"
        "号。",
    ),
    "no_other_text": (
        "{model} predicts no token here, so the number asked about is how like two texts are.\n"
        "Pass the other text as `answer`.",
        "{model} 在这里不预测词元，所以问的是两段文本有多相似。\n请用 `answer` 给出另一段文本。",
    ),
    "at_of_texts": (
        "`at` is {at}, and how like two texts are is asked of all tokens.\nLeave `at` out.",
        "`at` 为 {at}，而两段文本的相似度与所有词元有关。\n请去掉 `at`。",
    ),
    "same_text": (
        "`answer` is the text itself: whatever is removed, the two become less alike, which first "
        "order cannot predict.\nPass another text.",
        "`answer` 就是这段文本本身：不论去掉什么，两者都会变得不那么相似，这是一阶近似无法预测的。"
        "\n请换一段文本。",
    ),
    "same_token": (
        "`answer` {answer!r} and `against` {against!r} begin with the same token, {token!r}.\n"
        "Pass two that differ in their first token.",
        "`answer` {answer!r} 和 `against` {against!r} 的第一个词元相同，都是 {token!r}。\n请给出第"
        "一个词元不同的两个答案。",
    ),
    "no_logit": (
        "Token {id}, {token!r}, is known to the tokenizer, and {model} has {count} logits.\n"
        "Pass another one.",
        "分词器有词元 {id}（{token!r}），而 {model} 只有 {count} 个 logits。\n请换一个。",
    ),
    "answer_no_token": (
        "`{name}` is {text!r}, which has no token.\nPass at least one.",
        "`{name}` 为 {text!r}，其中没有词元。\n请至少给出一个。",
    ),
    "budget": (
        "`budget` is {budget}, how many links to remove.\nPass 1 or more.",
        "`budget` 为 {budget}，即要去掉的连接数。\n至少为 1。",
    ),
}

#: What `survey` is given.
SURVEYED = {
    "no_path": (
        "There is no file or folder {path!r}.",
        "没有文件或文件夹 {path!r}。",
    ),
    "no_document": ("There is no document in {data}.", "{data} 里没有文档。"),
    "nothing": ("nothing", "给出的路径"),
    "no_column": (
        "{file} has no column {field!r}: it has {columns}.\n"
        "Name the column of the text with --field.",
        "{file} 没有列 {field!r}，它有：{columns}。\n请用 --field 指定文本所在的列。",
    ),
    "too_few": (
        "`{name}` is {number}.\nPass 1 or more.",
        "`{name}` 为 {number}。\n请给 1 或更大。",
    ),
    "part_gone": (
        "The part {part} was changed or removed while the survey ran.\nRun the command again.",
        "运行期间，部分结果 {part} 被改动或删除了。\n请重新运行命令。",
    ),
    "none_read": (
        "None of {count} documents could be read; the first is {name}: {reason}.",
        "{count} 个文档都无法读取；第一个是 {name}：{reason}。",
    ),
    "not_a_part": (
        "The part {part} is not a part ({reason}).\nRemove {path!r}, and run again.",
        "{part} 不是一份部分结果（{reason}）。\n请删除 {path!r} 后重新运行。",
    ),
    "models_differ": (
        "The model {model} differs between machines: its digest is {ours} for a worker and "
        "{theirs} for the command.",
        "各台机器上的模型 {model} 不一致：它的摘要在工作进程里为 {ours}，在命令里为 {theirs}。",
    ),
    "data_changed": (
        "{files} changed while it was read.\nRun the command again.",
        "{files} 在读取期间被改动了。\n请重新运行命令。",
    ),
}

#: What the explorer answers instead of numbers: what is wrong, and in the last line what to do.
REFUSED = {
    "answer_bytes": (
        "The answer takes {size:,} bytes, and at most {most:,} are kept.\nOpen a shorter text.",
        "结果需要 {size:,} 字节，最多只能保留 {most:,} 字节。\n请打开短一些的文本。",
    ),
    "jobs_wait": (
        "{count} jobs are waiting already.\nTry again in a moment.",
        "已有 {count} 个任务在等待。\n请稍后再试。",
    ),
    "no_memory": (
        "The model ran out of memory.\nOpen a shorter text.",
        "模型的内存不足。\n请打开短一些的文本。",
    ),
    "explorer_failed": (
        "The explorer failed ({kind}).\nThe details are printed where `wqkv open` runs.",
        "程序出错（{kind}）。\n详情打印在运行 `wqkv open` 的地方。",
    ),
    "text_closed": (
        "This text is not open any more.\nOpen it again.",
        "这段文本已不再打开。\n请重新打开。",
    ),
    "work_forgotten": (
        "This work is not known any more.\nAsk for it again.",
        "这项任务已不存在。\n请重新发起。",
    ),
    "read_again": (
        "Read again, this text has other tokens, because it was written token by token.\n"
        "Type it above, and read it.",
        "这段文本是逐个词元写成的，重新读入时词元会不同。\n请在上方输入并读入。",
    ),
    "effects_bytes": (
        "The effects in a text of {n:,} tokens would take {size:.2g} GiB of memory.\n"
        "Open a shorter text.",
        "{n:,} 个词元的文本，计算作用需要 {size:.2g} GiB 内存。\n请打开短一些的文本。",
    ),
    "characters": (
        "The text has {count:,} characters, and at most {most:,} are read.\nSend a shorter text.",
        "文本有 {count:,} 个字符，最多只能读 {most:,} 个。\n请缩短文本。",
    ),
}

#: What an optional package is needed for.
PURPOSES = {
    "terminal": ("The terminal picture", "终端里的图"),
    "explorer": ("The explorer", "网页"),
    "map_image": ("An image of the map", "注意力图的图片"),
    "table_picture": ("A picture of the table", "表格的图片"),
    "links_picture": ("A picture of the links", "连接的图片"),
    "maps_picture": ("A picture of the maps", "注意力图的图片"),
    "lines": ("A picture with sentences", "带文字的图片"),
    "opening": ("Opening a model", "打开模型"),
    "opening_hub": ("Opening a model of the hub", "打开 hub 上的模型"),
    "pictures": ("Reading a picture", "读取图片"),
    "opening_gguf": ("Opening a .gguf file", "打开 .gguf 文件"),
    "looking": ("Looking into a Hugging Face model", "查看 Hugging Face 模型"),
    "listing": ("Listing models", "列出模型"),
    "survey": ("A survey", "普查"),
    "workers": ("A survey with several workers", "多个工作进程的普查"),
    "parquet": ("Reading and writing Parquet", "读写 Parquet"),
    "extra": (
        "{purpose} needs the package `{package}`: {error}.\n"
        "Install it with: pip install 'wqkv[{extra}]'",
        "{purpose}需要软件包 `{package}`：{error}。\n安装：pip install 'wqkv[{extra}]'",
    ),
}

_ALL = GIVEN | READ | MODELS | ASKED | SURVEYED | REFUSED | PURPOSES


def mistake(name: str, /, **facts: object) -> Said:
    """Return the sentence of a mistake with its facts.

    >>> print(mistake("no_layer", number=7, count=6, last=5))
    There is no layer 7: the model has 6 layers, 0 to 5.
    """
    return say(_ALL[name], **facts)


def one_of(names: Sequence[str]) -> str:
    """Return names as they are listed where one of them is to be chosen.

    >>> one_of([".png", ".svg", ".pdf"])
    '.png, .svg or .pdf'
    """
    *before, last = names
    return mistake("one_of", before=", ".join(before), last=last) if before else last
