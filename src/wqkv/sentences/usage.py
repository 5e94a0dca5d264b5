"""What is wrong with a command line: the sentences of argparse, and of the system, and ours.

argparse and the system say theirs in English alone. So the English here is how they say it, from
which the facts are read; a test makes each of these mistakes.
"""

from __future__ import annotations

from wqkv.sentences import recognized

#: What argparse says, where a sentence may be a part of the next.
ARGPARSE = {
    "unknown": ("unrecognized arguments: {given}", "无法识别的参数：{given}"),
    "required": (
        "the following arguments are required: {names}",
        "缺少必需的参数：{names}",
    ),
    "argument": ("argument {name}: {what}", "参数 {name}：{what}"),
    "choice": (
        "invalid choice: {given} (choose from {choices})",
        "没有 {given} 这个选项（可选：{choices}）",
    ),
    "int": ("invalid int value: {given}", "{given} 不是整数"),
    "one": ("expected one argument", "需要一个值"),
    "some": ("expected at least one argument", "至少需要一个值"),
    "explicit": ("ignored explicit argument {given}", "不接受值 {given}"),
}

#: What the system says, by the names of its error numbers.
SYSTEM = {
    "ENOENT": ("No such file or directory", "没有这个文件或文件夹"),
    "EACCES": ("Permission denied", "没有权限"),
    "EPERM": ("Operation not permitted", "不允许这样操作"),
    "EISDIR": ("Is a directory", "是一个文件夹"),
    "ENOTDIR": ("Not a directory", "不是文件夹"),
    "EEXIST": ("File exists", "文件已存在"),
    "ENOSPC": ("No space left on device", "磁盘空间不足"),
    "EROFS": ("Read-only file system", "文件系统是只读的"),
    "ENAMETOOLONG": ("File name too long", "文件名太长"),
    "EADDRINUSE": ("Address already in use", "地址已被占用"),
    "EADDRNOTAVAIL": ("Cannot assign requested address", "本机没有这个地址"),
    "EIO": ("Input/output error", "读写出错"),
    "ELOOP": ("Too many levels of symbolic links", "符号链接层数太多"),
}

#: What `main` says around them.
FRAME = {
    "usage": ("{what}; see {program} --help", "{what}；用法见 {program} --help"),
    "interrupted": ("interrupted", "已中断"),
}


def said_by_argparse(sentence: str) -> str:
    """Return a sentence of argparse so that it knows itself in Chinese, if it is one of these.

    >>> said_by_argparse("argument --layer: expected one argument").both[1]
    '参数 --layer：需要一个值'
    """
    return recognized(sentence, ARGPARSE)


def said_by_system(sentence: str) -> str:
    """Return a sentence of the system so that it knows itself in Chinese, if it is one of these."""
    return recognized(sentence, SYSTEM)
