// Work that is going on, what went wrong, and the list of keys.

import { fill, h } from "../parts/dom.js";
import { cancel } from "../reading/server.js";
import { t } from "../words/words.js";

/** @import { RunningJob } from "../reading/server.js" */

/** @param {RunningJob | null} job */
export function jobBar(job) {
  const place = /** @type {HTMLElement} */ (document.getElementById("job"));
  place.hidden = !job;
  if (!job) return fill(place);
  const bar = h("progress", { max: job.total || 1, "aria-label": t(`job_${job.what}`) });
  if (job.total) bar.value = job.done ?? 0;
  else bar.removeAttribute("value"); // how long is not known
  fill(
    place,
    h("span", {}, job.state === "waiting" ? t("wait") : t(`job_${job.what}`)),
    bar,
    h("button", { class: "quiet", "data-key": "cancel", onclick: () => cancel(job.job) }, t("cancel")),
  );
}

/**
 * An error as one sentence and what to do.
 *
 * @param {any} error a Refusal, or whatever else was thrown
 * @param {(() => void) | null} again
 */
export function drawNotice(error, again = null) {
  const known = { 410: t("notRecorded"), [-1]: t("gone"), 499: t("cancelled") }[error.status];
  return h(
    "div",
    { class: error.status === 410 ? "notice calm" : "notice" },
    h("p", {}, known ?? error.message),
    error.todo && h("p", {}, error.todo),
    again && error.status !== 410 && h("button", { "data-key": "again", onclick: again }, t("again")),
  );
}

export function drawKeys() {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("keys"));
  const rows = /** @type {const} */ ([
      ["← →", "steps"],
      ["1 – 7", "number"],
      ["Esc", "escape"],
      ["L", "layer"],
      ["H", "head"],
      ["W", "word"],
      ["V", "view"],
      ["?", "help"],
    ]);
  fill(
    dialog,
    h("h2", {}, t("keysTitle")),
    h(
      "dl",
      {},
      rows.map(([key, name]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, t(`key_${name}`)))),
    ),
    h("form", { method: "dialog" }, h("button", {}, t("close"))),
  );
  dialog.showModal();
}
