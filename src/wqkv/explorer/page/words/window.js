// The texts of the row that says which window of a long text is open.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const windowTexts = /** @type {const} */ ({
  window: ["window", "窗口"],
  windowBefore: ["the window before this one", "上一个窗口"],
  windowAfter: ["the window after this one", "下一个窗口"],
  windowSays: [
    "Tokens {first} to {last} of {tokens}.",
    "第 {first} 到第 {last} 个词元，全文共 {tokens} 个。",
  ],
  windowFirst: [
    "This window is read by itself; what stands after it is not seen.",
    "这个窗口单独读入，看不到它后面的内容。",
  ],
  windowAlone: [
    "This window is read by itself; what stands before and after it is not seen.",
    "这个窗口单独读入，看不到它前后的内容。",
  ],
});
