// Tokens of an OpenID provider by the grant `client_credentials` (RFC 6749, section 4.4). A token is kept until it is about to
// expire. Nothing here writes the client's secret or a token into an error.

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { setTimeout as pause } from "node:timers/promises";
import { MaxineClientError } from "./nodes.mjs";

const ANSWER_MAX_MS = 5_000, ANSWER_MAX_CHARS = 1 << 20;
const BACKOFF_MS = 500, BACKOFF_MAX_MS = 30_000;
// A token whose answer does not say how long it is valid.
const LIFETIME_S = 60;
const RENEW_BEFORE_MAX_MS = 60_000;
// A younger token that a node refuses is not replaced: the next one would be refused too.
const REFUSED_AFTER_MS = 5_000;

export class ClientCredentials {
  #options;
  #agent;
  #held;
  #fetching;
  #endpoint;
  #failures = 0;
  #notBefore = 0;
  #last;

  constructor({ clientId, issuer, tokenUrl, clientSecretFile, clientSecretEnv, scope, audience, resource, caFile, onError = () => {} }) {
    if (!clientId) throw new TypeError("clientId is needed");
    if (!issuer === !tokenUrl) throw new TypeError("either issuer or tokenUrl is needed");
    if (!clientSecretFile === !clientSecretEnv) throw new TypeError("either clientSecretFile or clientSecretEnv is needed");
    if (!isSafe(issuer ?? tokenUrl)) throw new TypeError(`${issuer ? "issuer" : "tokenUrl"} must be an https URL, or http on a loopback address`);
    this.#options = { clientId, issuer, tokenUrl, clientSecretFile, clientSecretEnv, scope, audience, resource, onError };
    this.#agent = new https.Agent(caFile ? { ca: readFileSync(caFile) } : {});
  }

  /** A token that is valid now. It is fetched if none is held; the time for that is limited by `timeoutMs`. */
  async token({ timeoutMs = 10_000, signal } = {}) {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      signal?.throwIfAborted();
      const now = performance.now();
      if (this.#held && now < this.#held.expiresAt) {
        // The old token is good while the new one is on its way.
        if (now >= Math.max(this.#held.renewAt, this.#notBefore)) this.#renew().catch((error) => this.#report(error));
        return this.#held.value;
      }
      const left = deadline - now;
      const wait = this.#fetching ? 0 : this.#notBefore - now;
      if (wait > 0) {
        if (this.#last.final || wait >= left) throw this.#last;
        await pause(wait, undefined, { signal });
        continue;
      }
      if (left <= 0) throw this.#last ?? new MaxineClientError(0, "no token: the provider has not answered in time");
      // Others wait for the same fetch. What it led to is in the fields.
      await Promise.race([this.#renew().catch(() => {}), pause(left, undefined, { signal, ref: false })]);
    }
  }

  /** A node has refused this token. Tells whether to ask again, with a new one. */
  refused(token) {
    if (token !== this.#held?.value) return true;
    if (performance.now() - this.#held.fetchedAt < REFUSED_AFTER_MS) return false;
    this.#held = undefined;
    return true;
  }

  #report(error) {
    try {
      this.#options.onError(error);
    } catch (own) {
      console.error(own);
    }
  }

  /** One fetch at a time. */
  #renew() {
    this.#fetching ??= this.#fetch()
      .then(
        (held) => {
          this.#held = held;
          this.#failures = this.#notBefore = 0;
          this.#last = undefined;
        },
        (error) => {
          const limit = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** Math.min(this.#failures, 10));
          this.#failures += 1;
          this.#notBefore = performance.now() + Math.max(limit * (0.5 + Math.random() / 2), (error.retryAfterS ?? 0) * 1000);
          // The provider may have moved.
          this.#endpoint = undefined;
          this.#last = error;
          throw error;
        },
      )
      .finally(() => (this.#fetching = undefined));
    return this.#fetching;
  }

  async #fetch() {
    const { clientId, tokenUrl, scope, audience, resource } = this.#options;
    const secret = await this.#secret();
    this.#endpoint ??= tokenUrl ? { url: tokenUrl } : await this.#discover();
    const { url, post } = this.#endpoint;
    const fetchedAt = performance.now();
    const form = new URLSearchParams({ grant_type: "client_credentials" });
    for (const [name, value] of Object.entries({ scope, audience, resource })) if (value) form.set(name, value);
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    const basic = Buffer.from(`${encoded(clientId)}:${encoded(secret)}`).toString("base64");
    if (post) {
      form.set("client_id", clientId);
      form.set("client_secret", secret);
    } else {
      headers.authorization = `Basic ${basic}`;
    }
    const answer = await this.#ask("POST", url, headers, form.toString(), [secret, encoded(secret), basic]);
    const { access_token: value, token_type: type, expires_in: lifetime } = answer;
    if (typeof value !== "string" || !/^[\x21-\x7e]+$/.test(value)) throw failure(`${url}: the answer has no access_token`);
    if (String(type).toLowerCase() !== "bearer") throw failure(`${url}: the token_type is not Bearer`);
    const lifetimeMs = 1000 * (Number(lifetime) > 0 ? Number(lifetime) : LIFETIME_S);
    // Clients that start together do not renew together.
    const margin = Math.min(RENEW_BEFORE_MAX_MS, lifetimeMs / 5) * (1 + Math.random() / 2);
    return { value, fetchedAt, renewAt: fetchedAt + lifetimeMs - margin, expiresAt: fetchedAt + lifetimeMs };
  }

  /** Read for each fetch, so that a replaced secret is used at once. */
  async #secret() {
    const { clientSecretFile: file, clientSecretEnv: name } = this.#options;
    if (!file) {
      if (process.env[name]) return process.env[name];
      throw failure(`the environment variable ${name} has no client secret`);
    }
    const text = await readFile(file, "utf8").catch((error) => Promise.reject(failure(`the client secret cannot be read: ${error.message}`, { cause: error })));
    if (text.trim()) return text.trim();
    throw failure(`${file} has no client secret`);
  }

  async #discover() {
    const { issuer } = this.#options;
    const url = `${issuer.replace(/\/+$/, "")}/.well-known/openid-configuration`;
    const found = await this.#ask("GET", url, {});
    if (found.issuer !== issuer) throw failure(`${url}: the issuer in the answer is another one`);
    if (!isSafe(found.token_endpoint, isLoopback(issuer))) throw failure(`${url}: the token_endpoint must be an https URL`);
    const methods = found.token_endpoint_auth_methods_supported;
    const post = Array.isArray(methods) && methods.includes("client_secret_post") && !methods.includes("client_secret_basic");
    return { url: found.token_endpoint, post };
  }

  /** The JSON object of an answer with status 200. Redirects are not followed: they could take the secret elsewhere. */
  async #ask(method, url, headers, body, secrets = []) {
    const tls = url.startsWith("https:");
    const signal = AbortSignal.timeout(ANSWER_MAX_MS);
    let answer, text = "";
    try {
      answer = await new Promise((resolve, reject) => {
        const options = { method, headers: { accept: "application/json", ...headers }, signal, agent: tls ? this.#agent : undefined };
        (tls ? https : http).request(url, options, resolve).on("error", reject).end(body);
      });
      answer.setEncoding("utf8");
      for await (const piece of answer) {
        text += piece;
        if (text.length > ANSWER_MAX_CHARS) throw new Error("the answer is too long");
      }
    } catch (error) {
      throw failure(`${url}: ${signal.aborted ? "no answer in time" : error.message || error.code}`, { final: false, cause: error });
    }
    let json;
    try {
      json = JSON.parse(text);
    } catch {
      // Not JSON: the status says enough.
    }
    const { statusCode: status } = answer;
    if (status === 200 && json && typeof json === "object") return json;
    const said = [json?.error, json?.error_description].filter((one) => typeof one === "string").join(": ");
    // A provider may repeat what was sent to it.
    const hidden = secrets.reduce((shown, one) => shown.replaceAll(one, "***"), said);
    const why = hidden.replace(/[^\x20-\x7e]+/g, " ").slice(0, 300) || "the answer is not what a provider answers";
    const retryAfter = answer.headers["retry-after"] ?? "";
    const final = status < 500 && status !== 429 && status !== 408;
    throw failure(`${url} answers ${status}: ${why}`, { final, retryAfterS: /^\d{1,4}$/.test(retryAfter) ? Number(retryAfter) : undefined });
  }
}

/** An error without a token. Until it is `final`, another attempt may succeed soon. */
function failure(message, { final = true, retryAfterS, cause } = {}) {
  return Object.assign(new MaxineClientError(0, `no token: ${message}`, undefined, { cause }), { final, retryAfterS });
}

/** As a form has it, which RFC 6749 asks for in section 2.3.1. */
const encoded = (text) => new URLSearchParams({ "": text }).toString().slice(1);

function isLoopback(url) {
  const { hostname } = new URL(url);
  return hostname === "localhost" || hostname === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}

/** Whether a secret may be sent to this URL. */
function isSafe(url, plainOnLoopback = true) {
  try {
    const { protocol, username, password } = new URL(url);
    return !username && !password && (protocol === "https:" || (protocol === "http:" && plainOnLoopback && isLoopback(url)));
  } catch {
    return false;
  }
}
