// Asks the server, or what a saved page has inside. Every answer is kept.

import { answerOf } from "../computed/saved.js";

import { lang } from "../words/words.js";

/** @import { JobFacts, Recorded } from "../types" */

const recordedPart = document.getElementById("recorded");

/** @type {Recorded | null} */
export const recorded = recordedPart ? JSON.parse(recordedPart.textContent ?? "null") : null;

/** Whether a saved page computes answers from the numbers of its layers. */
export const computes = recorded !== null && Object.keys(recorded.parts).length > 0;

const kept = new Map(); // the last answers, oldest first
const KEPT = 200;

// What the server refuses, with its status of HTTP. 410: it is not in the saved page; 499: the job
// was cancelled; -1: there is no server any more.
export class Refusal extends Error {
  /** @param {string} error */
  constructor(error, todo = "", status = 0) {
    super(error);
    this.todo = todo;
    this.status = status;
  }
}

// views/1/story with {layer: 3, head: 1}: the key of an answer. In order of the names.
function keyOf(path, query = {}) {
  const names = Object.keys(query).sort();
  return path + (names.length ? "?" + names.map(name => `${name}=${query[name]}`).join("&") : "");
}

/**
 * The answer to an address below api/, which is kept unless the caller keeps it in a form of its
 * own. It has the type that the caller says.
 *
 * @param {string} path
 * @param {Record<string, string | number>} query
 * @returns {Promise<any>}
 */
export async function get(path, query = {}, keep = true) {
  const key = keyOf(path, query);
  if (!keep) return answerTo(key, path, query);
  if (kept.has(key)) {
    const answer = kept.get(key);
    kept.delete(key);
    kept.set(key, answer); // the newest again
    return answer;
  }
  const asked = answerTo(key, path, query);
  kept.set(key, asked);
  asked.catch(() => kept.delete(key));
  for (const old of kept.keys()) if (kept.size > KEPT) kept.delete(old);
  return asked;
}

/**
 * The answer as the server gives it now.
 *
 * @param {string} path
 */
export function getAnew(path) {
  kept.delete(keyOf(path));
  return get(path);
}

/** @returns {Promise<any>} */
async function answerTo(key, path, query) {
  if (!recorded) {
    const answer = await ask("GET", path, query);
    return answer.job ? finish(answer.job) : answer; // a slow one comes as a job
  }
  return fromSaved(path, query);
}

/** @returns {Promise<any>} */
async function fromSaved(path, query = {}) {
  const answer = recorded && (await answerOf(recorded, path, query, keyOf));
  if (!answer) throw new Refusal("", "", 410);
  return answer;
}

/**
 * @param {string} method
 * @param {string} path
 * @param {Record<string, string | number>} query
 * @param {unknown} body what is sent as JSON; undefined sends nothing
 * @returns {Promise<any>}
 */
async function ask(method, path, query = {}, body = undefined) {
  const names = Object.keys(query).sort();
  const address = `api/${path}${names.length ? "?" + names.map(name => `${name}=${encodeURIComponent(query[name])}`).join("&") : ""}`;
  let reply;
  try {
    reply = await fetch(address, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: {
        "accept-language": lang(), // of what is wrong
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
    });
  } catch {
    throw new Refusal("", "", -1); // the server is gone
  }
  let answer;
  try {
    answer = await reply.json();
  } catch {
    throw new Refusal(`The server's answer (${reply.status}) is no JSON.`, "", reply.status);
  }
  if (!reply.ok)
    throw new Refusal(answer.error ?? `The server answered ${reply.status}.`, answer.do ?? "", reply.status);
  return answer;
}

/**
 * Work that takes a while: post it, watch it, get its result.
 *
 * @returns {Promise<any>}
 */
export async function work(path, body) {
  if (recorded) return fromSaved(`${path} ${JSON.stringify(body)}`);
  const answer = await ask("POST", path, {}, body);
  return answer.job ? finish(answer.job) : answer;
}

const worked = new Map();

/**
 * The same work is done once: by the same key comes the same result.
 *
 * @returns {Promise<any>}
 */
export function workOnce(path, body) {
  const key = keyOf(path) + JSON.stringify(body);
  if (!worked.has(key)) {
    const result = work(path, body);
    worked.set(key, result);
    result.catch(() => worked.delete(key));
  }
  return worked.get(key);
}

/** @typedef {JobFacts & { job: string }} RunningJob */

/** @type {(job: RunningJob | null) => void} */
let watcher = () => {};

/**
 * Is told of a job while it runs, and null when none does.
 *
 * @param {(job: RunningJob | null) => void} listener
 */
export function onJob(listener) {
  watcher = listener;
}

/** @type {Map<string, RunningJob>} */
const running = new Map();
const stopped = new Set(); // jobs that the page waits for no longer

/**
 * The result of a job, once it is done.
 *
 * @param {string} job
 */
export async function finish(job) {
  try {
    for (let pause = 60; ; pause = Math.min(pause * 1.4, 600)) {
      const now = /** @type {JobFacts} */ (await ask("GET", `jobs/${job}`));
      if (now.state === "done") return now.result ?? {};
      if (now.state === "failed") throw new Refusal(now.error ?? "It failed.", now.do ?? "", 500);
      if (now.state === "cancelled" || stopped.has(job)) throw new Refusal("", "", 499);
      running.set(job, { job, ...now });
      watcher([...running.values()].at(-1) ?? null);
      await new Promise(wake => setTimeout(wake, pause));
    }
  } finally {
    running.delete(job);
    watcher([...running.values()].at(-1) ?? null);
  }
}

/**
 * The page stops waiting at once; the server stops at its next step.
 *
 * @param {string} job
 */
export function cancel(job) {
  stopped.add(job);
  return ask("POST", `jobs/${job}/cancel`, {}, {});
}
