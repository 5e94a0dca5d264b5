"""Why a head has its label, in Chinese; the English sentence is made where the head is labeled."""

from __future__ import annotations

EVIDENCE = {
    "share": "{value} 的注意力权重落在{on}上（{tokens} 个词元的均值；平均分配时为 {flat}）",
    "even": "熵达到最大值的 {value}（{tokens} 个词元的均值）",
    "none": "不符合任何一种；最接近的一种：{nearest}",
    "few": "词元太少，无法判断",
    "previous": "前一个词元",
    "next": "后一个词元",
    "first-token sink": "第一个词元",
    "separator sink": "分隔符（标点、末尾的特殊词元）",
    "duplicate-token": "同一个词元的其他位置",
    "induction": "同一个词元上次出现时的后一个词元",
    "local": "相距不超过 {near} 的词元",
    "uniform": "",
}
