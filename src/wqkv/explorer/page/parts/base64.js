// Numbers that come as text.

/** @param {string} text bytes as base64 */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
}
