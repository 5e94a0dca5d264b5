"""Whether our layers give what a model's own give."""

from __future__ import annotations

PARITY = {
    "title": (
        "{model}: our layers against its own, on the hidden states of {inputs}",
        "{model}：用 {inputs} 的隐藏状态，比较我们的层与它自己的层",
    ),
    "difference": (
        "{part}  {layer}  {difference:.1e} of {tolerance:.1e} allowed  {verdict}",
        "{part}  {layer}  相差 {difference:.1e}（允许 {tolerance:.1e}）  {verdict}",
    ),
    "no_proof": ("{part}  {layer}  {verdict}: {reason}", "{part}  {layer}  {verdict}：{reason}"),
    "holds": ("holds", "一致"),
    "EXCEEDS": ("EXCEEDS", "超出"),
    "not compared": ("not compared", "未比较"),
    "end": (
        "parity holds in {held} of {count} layers",
        "{count} 层中有 {held} 层一致",
    ),
    "not_called": ("the model did not call it", "模型没有调用它"),
    "comparing": ("comparing {model}", "正在比较 {model}"),
}
