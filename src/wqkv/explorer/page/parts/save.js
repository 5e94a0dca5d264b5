// Saves what is seen as a file: SVG and PNG of a picture, JSON of its numbers.

import { withPictures } from "./patch.js";

/**
 * @param {"json" | "svg" | "png"} kind
 * @param {string} name
 * @param {() => any} make an SVG to save, or what goes into the JSON
 */
export async function save(kind, name, make) {
  const given = make();
  if (kind === "json")
    return download(new Blob([JSON.stringify(given, null, 1)], { type: "application/json" }), `${name}.json`);
  const made = withPictures(given);
  const [width, height] = ["width", "height"].map(side => Number(made.getAttribute(side)));
  const source = new XMLSerializer().serializeToString(made);
  const blob = new Blob([source], { type: "image/svg+xml" });
  if (kind === "svg") return download(blob, `${name}.svg`);
  const image = new Image(),
    address = URL.createObjectURL(blob);
  try {
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas"),
      scale = Math.min(2, 8192 / Math.max(width, height));
    Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(drawn => drawn && download(drawn, `${name}.png`), "image/png");
  } finally {
    URL.revokeObjectURL(address);
  }
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
function download(blob, name) {
  const link = document.createElement("a"),
    address = URL.createObjectURL(blob);
  link.href = address;
  link.download = name.replace(/[^\w.-]+/g, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
