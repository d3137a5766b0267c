// Requests to the nodes of a cluster: failover, backoff, deadlines, TLS and tokens.

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { setTimeout as pause } from "node:timers/promises";

const BACKOFF_MS = 50, BACKOFF_MAX_MS = 5_000;

/** An answer that is an error. `status` is 0 if no node has answered in time or there is no token; `problem` is the answer's JSON. */
export class MaxineClientError extends Error {
  constructor(status, message, problem, options) {
    super(status ? `${status}: ${message}` : message, options);
    this.name = "MaxineClientError";
    this.status = status;
    this.problem = problem;
  }
}

/** Sends a request to one node after another, until one gives an answer that is not only a matter of the node. */
export class Nodes {
  #nodes;
  #options;
  #at;
  #agents;

  constructor(nodes, { token, tokenFile, credentials, caFile, timeoutMs = 10_000, attemptTimeoutMs = 3_000, onAttempt = () => {}, tracer } = {}) {
    this.#nodes = nodes.map((node) => ({ url: node.replace(/\/+$/, ""), failures: 0, notBefore: 0 }));
    if (nodes.length === 0) throw new TypeError("at least one node is needed");
    if (credentials && (token || tokenFile)) throw new TypeError("either a token, a file with one or credentials: not two of them");
    this.#options = { token, tokenFile, credentials, timeoutMs, attemptTimeoutMs, onAttempt, tracer };
    // Clients that start together do not all begin with the same node.
    this.#at = Math.floor(Math.random() * nodes.length);
    this.#agents = {
      "http:": new http.Agent({ keepAlive: true }),
      "https:": new https.Agent({ keepAlive: true, ...(caFile && { ca: readFileSync(caFile) }) }),
    };
  }

  /** Closes the connections that no request uses. */
  close() {
    for (const agent of Object.values(this.#agents)) agent.destroy();
  }

  #pick() {
    const now = performance.now();
    const order = this.#nodes.map((_, n) => this.#nodes[(this.#at + n) % this.#nodes.length]);
    const wait = (node) => Math.max(0, node.notBefore - now);
    return order.reduce((best, node) => (wait(node) < wait(best) ? node : best));
  }

  /** The node has answered: it is asked first from now on. */
  worked(node) {
    this.#at = this.#nodes.indexOf(node);
    node.failures = node.notBefore = 0;
  }

  /** The node is not asked again before a pause: that of `Retry-After`, or a random one that grows. */
  failed(node, retryAfterS) {
    const limit = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** Math.min(node.failures, 10));
    const random = retryAfterS === undefined ? limit * (0.5 + Math.random() / 2) : retryAfterS * 1000 * (1 + Math.random() / 10);
    node.failures += 1;
    node.notBefore = performance.now() + random;
    this.#at = (this.#nodes.indexOf(node) + 1) % this.#nodes.length;
  }

  async #headers(headers, fetched) {
    const { tokenFile } = this.#options;
    // Read each time, so that a replaced token is used at once.
    const token = tokenFile ? (await readFile(tokenFile, "ascii")).trim() : (fetched ?? this.#options.token);
    return { ...(token && { authorization: `Bearer ${token}` }), ...headers };
  }

  #send(node, method, path, body, headers, signal) {
    const url = new URL(node.url + path);
    const sent = body === undefined ? undefined : JSON.stringify(body);
    const described = sent === undefined ? headers : { "content-type": "application/json", "content-length": Buffer.byteLength(sent), ...headers };
    return new Promise((resolve, reject) => {
      const { request } = url.protocol === "https:" ? https : http;
      request(url, { method, headers: described, signal, agent: this.#agents[url.protocol] }, resolve).on("error", reject).end(sent);
    });
  }

  /** An answer below 300, an `http.IncomingMessage`, and its node. `use` reads it before the attempt's time is over. */
  async #open(method, path, { body, headers, timeoutMs = this.#options.timeoutMs, signal }, use) {
    const deadline = performance.now() + timeoutMs;
    // One node that does not answer may not use up the time in which another one would.
    const attemptMs = Math.min(this.#options.attemptTimeoutMs, timeoutMs / 2);
    let last;
    for (;;) {
      signal?.throwIfAborted();
      // That there is no token is no failure of a node.
      const token = await this.#options.credentials?.token({ timeoutMs: deadline - performance.now(), signal });
      const node = this.#pick();
      const wait = Math.max(0, node.notBefore - performance.now());
      const left = deadline - performance.now() - wait;
      if (left <= 0) throw last ?? new MaxineClientError(0, "no node has answered in time");
      if (wait > 0) await pause(wait, undefined, { signal });
      const ended = new AbortController();
      const end = () => ended.abort();
      const begun = performance.now();
      let answered = false;
      const span = this.#options.tracer?.start({ kind: "request", node: node.url, method, path });
      const tell = (status, error) => {
        span?.end({ status, error });
        this.#options.onAttempt({ node: node.url, method, path, status, durationMs: performance.now() - begun, error });
      };
      const timer = setTimeout(end, Math.min(left, attemptMs));
      signal?.addEventListener("abort", end);
      try {
        const answer = await this.#send(node, method, path, body, await this.#headers({ ...span?.headers, ...headers }, token), ended.signal);
        answered = true;
        tell(answer.statusCode);
        if (answer.statusCode < 300) return await use(answer, node, () => clearTimeout(timer));
        last = errorOf(answer.statusCode, await textOf(answer));
        if (answer.statusCode < 500 && answer.statusCode !== 429) {
          this.worked(node);
          if (answer.statusCode === 401 && this.#options.credentials?.refused(token)) continue;
          throw last;
        }
        const retryAfter = answer.headers["retry-after"];
        this.failed(node, /^\d+$/.test(retryAfter ?? "") ? Number(retryAfter) : undefined);
      } catch (error) {
        if (error instanceof MaxineClientError) throw error;
        if (!answered) tell(0, error);
        signal?.throwIfAborted();
        this.failed(node);
        const why = ended.signal.aborted ? "no answer in time" : error.message || error.code;
        // That the time is over says less than the error before.
        if (!last || !ended.signal.aborted) last = new MaxineClientError(0, `${node.url}: ${why}`, undefined, { cause: error });
      } finally {
        clearTimeout(timer);
        signal?.removeEventListener("abort", end);
      }
    }
  }

  /** The JSON of an answer (undefined if it is empty), and its headers. */
  json(method, path, options = {}) {
    return this.#open(method, path, options, async (answer, node) => {
      const text = await textOf(answer);
      const json = text ? JSON.parse(text) : undefined;
      this.worked(node);
      return [json, answer.headers];
    });
  }

  /** An answer whose body has no end, and its node. Destroy the answer to end it. */
  stream(path, { headers, signal }) {
    return this.#open("GET", path, { headers, signal }, (answer, node, keep) => {
      keep();
      return [answer, node];
    });
  }
}

async function textOf(answer) {
  let text = "";
  answer.setEncoding("utf8");
  for await (const piece of answer) text += piece;
  return text;
}

function errorOf(status, text) {
  try {
    const problem = JSON.parse(text);
    if (problem.detail) return new MaxineClientError(status, problem.detail, problem);
  } catch {
    // Not JSON, or not an object: the text is the message.
  }
  return new MaxineClientError(status, text);
}
