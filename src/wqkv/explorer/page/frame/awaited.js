// A part that is drawn when its numbers come, while the rest is there already.

import { fill, h } from "../parts/dom.js";
import { Refusal } from "../reading/server.js";
import { drawNotice } from "./notices.js";

/**
 * @template Answer
 * @param {Promise<Answer>} answer
 * @param {(answer: Answer) => unknown} draw what is drawn of the answer once it is there
 */
export function whenAnswered(answer, draw) {
  const place = h("div", { "aria-busy": "true", class: "later" });
  answer
    .then(draw)
    .catch(error => {
      if (!(error instanceof Refusal)) console.error(error);
      return drawNotice(error);
    })
    .then(parts => {
      fill(place, parts);
      place.removeAttribute("aria-busy");
    });
  return place;
}
