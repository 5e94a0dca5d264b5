// A part that is drawn when its numbers come, while the rest is there already.

import { fill, h } from "../parts/dom.js";
import { Refusal } from "../reading/server.js";
import { drawNotice } from "./notices.js";

export function whenAnswered(numbers, make) {
  const place = h("div", { "aria-busy": "true", class: "later" });
  numbers
    .then(make)
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
