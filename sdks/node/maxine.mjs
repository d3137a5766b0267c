// A client of Maxine without dependencies, for Node.js 20 and newer.
//
// It registers a service and keeps it registered, finds instances of others, calls them through the
// proxy, and watches for changes. If a node cannot be reached, it uses the next one of the given nodes.

const REGISTER = "/api/maxine/serviceops/register";
const DISCOVER = "/api/maxine/serviceops/discover";

/** An answer that is an error. `status` and `message` are those of the server. */
export class MaxineError extends Error {
  constructor(status, message) {
    super(`${status}: ${message}`);
    this.status = status;
  }
}

export class Maxine {
  #nodes;
  #at = 0;
  #token;

  /** @param {string | string[]} nodes the addresses of the nodes, such as `http://127.0.0.1:8080` */
  constructor(nodes, { timeoutMs = 10_000 } = {}) {
    this.#nodes = [nodes].flat().map((node) => node.replace(/\/+$/, ""));
    this.timeoutMs = timeoutMs;
  }

  /** Sends a request to the node in use. If it cannot be reached, sends it to the other nodes in turn. */
  async send(path, { headers = {}, signal, ...options } = {}) {
    const authorization = this.#token ? { authorization: `Bearer ${this.#token}` } : {};
    signal ??= AbortSignal.timeout(this.timeoutMs);
    for (let tries = 1; ; tries += 1) {
      const url = this.#nodes[this.#at] + path;
      try {
        return await fetch(url, { redirect: "manual", signal, headers: { ...authorization, ...headers }, ...options });
      } catch (error) {
        if (signal.aborted || tries >= this.#nodes.length) throw error;
        this.#useAnotherNode();
      }
    }
  }

  #useAnotherNode() {
    this.#at = (this.#at + 1) % this.#nodes.length;
  }

  async #json(path, method = "GET", body = undefined) {
    const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
    const answer = await this.send(path, { method, ...sent });
    const text = await answer.text();
    if (!answer.ok) throw errorOf(answer.status, text);
    return JSON.parse(text);
  }

  /** Signs in. Later requests are sent with the token. Returns the role. */
  async signIn(userName, password) {
    const { accessToken, role } = await this.#json("/api/maxine/signin", "POST", { userName, password });
    this.#token = accessToken;
    return role;
  }

  /** Registers once. `hostName`, `nodeName` and `serviceName` are required. */
  register(registration) {
    return this.#json(REGISTER, "POST", registration);
  }

  /** Registers, and repeats the registration twice within each `timeOut` until `stop()` is called. */
  async keepRegistered(registration, { onError = () => {} } = {}) {
    const first = await this.register(registration);
    let intervalMs = intervalOf(first);
    const kept = { registered: first, beats: 0, stop: () => { stopped = true; clearTimeout(timer); } };
    let stopped = false;
    let timer;
    const beat = async () => {
      let failure;
      try {
        const registered = await this.register(registration);
        intervalMs = intervalOf(registered);
        kept.registered = registered;
        kept.beats += 1;
      } catch (error) {
        failure = error;
        if (!(error instanceof MaxineError)) this.#useAnotherNode();
      }
      // This comes before the callback, so that an exception of the callback does not end the heartbeats.
      next();
      if (failure) onError(failure);
    };
    const next = () => {
      if (!stopped) timer = setTimeout(beat, intervalMs);
    };
    next();
    return kept;
  }

  /** The URL of an instance, with `endPoint` appended. */
  async discover(serviceName, endPoint = "") {
    const query = new URLSearchParams({ serviceName, ...(endPoint && { endPoint }) });
    const answer = await this.send(`${DISCOVER}?${query}`);
    const text = await answer.text();
    if (answer.status !== 302) throw errorOf(answer.status, text);
    return answer.headers.get("location");
  }

  /** Sends a request to an instance through Maxine's proxy. The options are those of `fetch`. */
  call(serviceName, path = "/", options = {}) {
    // In a URL these names mean another path, in any encoding.
    if (["", ".", ".."].includes(serviceName)) throw new TypeError(`"${serviceName}" cannot be a service's name`);
    return this.send(`/api/maxine/serviceops/proxy/${encodeURIComponent(serviceName)}${path}`, options);
  }

  /** The whole registry. Needs the role viewer. */
  servers() {
    return this.#json("/api/maxine/serviceops/servers");
  }

  config() {
    return this.#json("/api/maxine/control/config");
  }

  /** Changes fields of the configuration, and returns the outcome for each. Needs the role operator. */
  changeConfig(fields) {
    return this.#json("/api/maxine/control/config", "PUT", fields);
  }

  /**
   * The changes of one service, without a gap, from now on or after `index`. If changes are no longer
   * available without a gap, a change of type `compacted` comes: read the present state, and watch again.
   */
  async *watch(serviceName, { index, signal } = {}) {
    let last = index;
    const aborted = () => signal?.aborted ?? false;
    while (!aborted()) {
      const headers = last === undefined ? {} : { "last-event-id": String(last) };
      try {
        const path = `/api/v1/watch?service=${encodeURIComponent(serviceName)}`;
        const answer = await this.send(path, { headers, signal: signal ?? new AbortController().signal });
        if (!answer.ok) throw errorOf(answer.status, await answer.text());
        for await (const { id, event, data } of eventsOf(answer.body)) {
          last = id ?? last;
          if (event && event !== "ready") yield { type: event, ...JSON.parse(data) };
          if (event === "compacted") return;
        }
      } catch (error) {
        if (aborted()) return;
        if (error instanceof MaxineError && error.status < 500 && error.status !== 429) throw error;
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
    }
  }
}

/** Half of the time that a registration lives without a heartbeat. */
function intervalOf(registered) {
  if (!(registered?.timeOut > 0)) throw new TypeError("the answer is not a registration");
  return registered.timeOut * 500;
}

function errorOf(status, text) {
  try {
    const body = JSON.parse(text);
    return new MaxineError(status, body.message ?? body.detail ?? text);
  } catch {
    return new MaxineError(status, text);
  }
}

/** The server-sent events of an answer. A comment that only updates the id is an event without a name. */
async function* eventsOf(body) {
  let text = "";
  for await (const piece of body.pipeThrough(new TextDecoderStream())) {
    const messages = (text + piece).split("\n\n");
    text = messages.pop();
    for (const message of messages) {
      const field = (name) => message.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      yield { id: field("id"), event: field("event"), data: field("data") };
    }
  }
}
