"""The sentences about what a model cannot read, and about what a saved page leaves out."""

from __future__ import annotations

#: What the model cannot read as it was typed.
UNREAD = {
    "unknown": (
        "Unknown to {model}: {unknown:,} of the text's {tokens:,} tokens{typed}. It reads each of "
        "them as the same token, whatever was typed.",
        "{model} 不认识：文本的 {tokens:,} 个词元中有 {unknown:,} 个{typed}。不论输入的是什么，它"
        "都读成同一个词元。",
    ),
    "parts": (
        "Only a part of a character: {parts:,} of the text's {tokens:,} tokens, because {model} "
        "has no token for the whole character.",
        "只是字符的一部分：文本的 {tokens:,} 个词元中有 {parts:,} 个，因为 {model} 的词表里没有整"
        "个字符。",
    ),
    "reads_most": (
        "--model {alias} reads 100 languages.",
        "--model {alias} 能读 100 种语言。",
    ),
    "install": (
        "--model {alias} reads 100 languages; install it first: pip install {pip}",
        "--model {alias} 能读 100 种语言，请先安装：pip install {pip}",
    ),
    "typed": (" ({typed})", "（{typed}）"),
    "then": (" ", ""),
}

#: What a model read.
SOURCES = {
    "file": ("the text of {file}", "{file} 的文本"),
    "given": ("the given text", "给出的文本"),
    "several": ("the {count} given texts", "给出的 {count} 段文本"),
    "built_in": ("built-in texts ({names})", "内置文本（{names}）"),
    "random": (
        "{n} random tokens, read twice (seed {seed})",
        "{n} 个随机词元，读两遍（随机种子 {seed}）",
    ),
    "windows": (
        "{source} in {count} windows of at most {longest}, weighted by their tokens",
        "{source}，分成 {count} 个窗口，每个最多 {longest} 个词元，按词元数加权",
    ),
}

#: A text as one page, as a notebook writes it.
SAVED_PAGE = {
    "reads": (
        "{model} reads {n} tokens: layer {layer}, head {head}; .save('page.html') writes the page",
        "{model} 读入 {n} 个词元：第 {layer} 层第 {head} 头；.save('page.html') 把页面写成文件",
    ),
}

#: What an exported page may have to leave out.
LEFT_OUT = {
    "left_layers": ("layers {layers}", "第 {layers} 层"),
    "left_layers_encoder": ("layers {layers} of the encoder", "编码器第 {layers} 层"),
    "left_layers_decoder": ("layers {layers} of the decoder", "解码器第 {layers} 层"),
    "left_layers_cross": ("layers {layers} of cross-attention", "交叉注意力第 {layers} 层"),
    "left_matrices": (
        "the matrices of layers {layers}",
        "第 {layers} 层的矩阵",
    ),
    "left_matrices_encoder": (
        "the matrices of layers {layers} of the encoder",
        "编码器第 {layers} 层的矩阵",
    ),
    "left_matrices_decoder": (
        "the matrices of layers {layers} of the decoder",
        "解码器第 {layers} 层的矩阵",
    ),
    "left_matrices_cross": (
        "the matrices of layers {layers} of cross-attention",
        "交叉注意力第 {layers} 层的矩阵",
    ),
    "left_streams": ("what the layers add to each word", "各层给每个词元加上的内容"),
    "left_token": ("the chosen word", "选中的词元"),
    "left_map": ("the map of the chosen head", "选中的头的整张图"),
    "left_questions": ("the questions of Why?", "“为什么？”里的问题"),
    "left_changed": ("the maps of Why?", "“为什么？”里的图"),
    "left_cells": ("single weights of the chosen word", "选中的词元的单个注意力权重"),
    "left_grids": ("all heads by a number", "所有头的统计"),
    "left_thumbnails": ("the maps of all heads", "所有头的缩略图"),
    "left_tokens": ("other words of the chosen head", "选中的头里的其他词元"),
    "left_heads": ("the chosen word in other heads", "选中的词元在其他头里"),
    "left_rest": ("other words of other heads", "其他头里的其他词元"),
    "left_parts": ("the model's other two attentions", "模型的另外两种注意力"),
    "left_long": (
        "everything but the chosen head: the text is long",
        "选中的头以外的一切：文本太长",
    ),
}
