"""Where one head looks from 打开 (open) in three word orders: `make see-zh` runs it, in Chinese.

The object is 窗户 (window) and stands behind the verb, before it, or at the start. Layer 6, head 2
of multilingual-e5-small puts more weight on it than on the subject each time. How often it does so
in other sentences, beside a rule that needs no model, is counted in verb-object.zh.jsonl.
"""

import wqkv
from wqkv.sentences import translated
from wqkv.study.hit_rate import known_rate

LAYER, HEAD = 6, 2
VERB, OBJECT, SUBJECT = "打开", "窗户", "孩子"
ORDERS = {
    "主动句": "孩子打开了窗户。",
    "把字句": "孩子把窗户打开了。",
    "被字句": "窗户被孩子打开了。",
}
BAR = 20  # signs for a weight of 1


def main() -> None:
    model = wqkv.open_model("e5")
    print(f"{model.name}（{model.bits} 位权重）第 {LAYER} 层第 {HEAD} 头：“{VERB}”看向哪里？")
    print(f"\n{'':26}→ {OBJECT}{'':{BAR}}→ {SUBJECT}")
    for name, sentence in ORDERS.items():
        view = model.view(sentence)
        tokens = view.reading.tokens
        weights = view.row(LAYER, HEAD, tokens.index(VERB)).weights
        found = [float(weights[tokens.index(noun)]) for noun in (OBJECT, SUBJECT)]
        bars = [f"{weight:.2f} {'█' * round(BAR * weight)}" for weight in found]
        print(f"{name}  {sentence:　<9}{bars[0]:{BAR + 6}}{bars[1]}")
        assert view.proof(LAYER).holds, "重算的结果与模型自己的输出不符"
    print("\n语序变了，这个注意力头仍然更看重“窗户”。")
    print(translated(known_rate(model.name, ORDERS["主动句"], LAYER, HEAD), "zh"))
    print("\n逐步看每个数：.venv/bin/wqkv open --model e5 孩子把窗户打开了。")


if __name__ == "__main__":
    main()
