// A part that is drawn when its numbers come, while the rest is there already.

import { drawNotice } from "./frame.js";
import { fill, h } from "./dom.js";
import { Refusal } from "./api.js";

export function later(numbers, make) {
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
