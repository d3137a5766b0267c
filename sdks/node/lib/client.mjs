// The client: registers instances and keeps them registered, and resolves services from a cache.

import { EventEmitter } from "node:events";
import { setTimeout as pause } from "node:timers/promises";
import { Balancer, callerHash, hashOfField } from "./balance.mjs";
import { MaxineClientError, Nodes } from "./nodes.mjs";

// The nodes send at least a comment every 10 s.
const SILENCE_MAX_MS = 15_000;
const RELOAD_PAUSE_MS = 20;
const AVOID_MS = 2_000, AVOID_MAX_MS = 60_000;
const TRIES_MAX = 3;

/** A hook whose own errors end nothing. */
const guarded = (hook) =>
  hook &&
  ((event) => {
    try {
      hook(event);
    } catch (own) {
      console.error(own);
    }
  });

/** A tracer whose own errors end nothing. */
const guardedTracer = (tracer) =>
  tracer && {
    start(about) {
      let span;
      guarded(() => (span = tracer.start(about)))();
      return { headers: span?.headers ?? {}, end: guarded((outcome) => span?.end(outcome)) };
    },
  };

export class Client {
  #kept = new Set();
  #resolvers = new Set();
  #timer;
  #stopped = false;
  #onError;

  constructor(nodes, { namespace = "default", onError = () => {}, onAttempt, onCall, tracer, ...options } = {}) {
    this.tracer = guardedTracer(tracer);
    const hooks = { onAttempt: guarded(onAttempt), tracer: this.tracer };
    this.nodes = new Nodes([nodes].flat().flatMap((node) => node.split(",")), { ...hooks, ...options });
    this.namespace = namespace;
    this.#onError = onError;
    this.onCall = guarded(onCall);
  }

  /** Passes an error to `onError`, whose own errors must not end the work in the background. */
  report(error) {
    try {
      this.#onError(error);
    } catch (own) {
      console.error(own);
    }
  }

  path(service, ...rest) {
    const parts = ["services", this.namespace, service, ...rest];
    // In a URL these names mean another path.
    if (parts.some((part) => ["", ".", ".."].includes(part))) throw new TypeError(`"${service}" cannot be a service's name`);
    return `/api/v1/${parts.map(encodeURIComponent).join("/")}`;
  }

  async register(service, instance, registration) {
    const kept = new Registration(this, service, instance, { ttl_ms: 10_000, ...registration }, () => this.#kept.delete(kept));
    await kept.renew();
    this.#kept.add(kept);
    if (!this.#timer) this.#next();
    return kept;
  }

  #next() {
    const intervalMs = Math.min(10_000, ...[...this.#kept].map(({ body }) => body.ttl_ms)) / 3;
    this.#timer = setTimeout(async () => {
      const kept = [...this.#kept];
      try {
        for (let at = 0; at < kept.length; at += 1000) await this.#beat(kept.slice(at, at + 1000), intervalMs);
      } catch (error) {
        this.report(error); // Nothing may end the heartbeats.
      }
      if (!this.#stopped) this.#next();
    }, intervalMs);
  }

  /** Sends the heartbeats of registrations together, and registers again what the cluster has lost. */
  async #beat(kept, intervalMs) {
    const items = kept.map(({ service, instance }) => ({ namespace: this.namespace, service, id: instance }));
    const options = { body: { items }, timeoutMs: Math.max(1_000, intervalMs * 2) };
    const [{ unknown }] = await this.nodes.json("POST", "/api/v1/heartbeats", options);
    for (const one of kept) one.beats += 1;
    for (const one of unknown.map((at) => kept[at]).filter((one) => !one.stopped)) {
      await one.renew();
      one.renewals += 1;
    }
  }

  async resolver(service, { zone } = {}) {
    const resolver = new Resolver(this, service, zone);
    await resolver.start();
    this.#resolvers.add(resolver);
    return resolver;
  }

  async stop({ drainMs = 0 } = {}) {
    const kept = [...this.#kept];
    await Promise.all(kept.map((one) => one.stop().catch((error) => this.report(error))));
    if (kept.length > 0 && drainMs > 0) await pause(drainMs);
    this.#stopped = true;
    clearTimeout(this.#timer);
    for (const resolver of this.#resolvers) resolver.stop();
    this.nodes.close();
  }

  stopOnSignals({ signals = ["SIGTERM", "SIGINT"], ...options } = {}) {
    for (const signal of signals) {
      process.once(signal, () => this.stop(options).finally(() => process.kill(process.pid, signal)));
    }
  }
}

export class Registration {
  #client;
  #forget;
  beats = 0;
  renewals = 0;
  stopped = false;

  constructor(client, service, instance, body, forget) {
    this.#client = client;
    this.#forget = forget;
    Object.assign(this, { service, instance, body });
  }

  get #path() {
    return this.#client.path(this.service, "instances", this.instance);
  }

  async renew() {
    const [{ lease_epoch: leaseEpoch }] = await this.#client.nodes.json("PUT", this.#path, { body: this.body });
    this.leaseEpoch = leaseEpoch;
  }

  async stop({ drainMs = 0 } = {}) {
    if (this.stopped) return;
    this.stopped = true;
    this.#forget();
    // A successor with the same name has another epoch, and stays.
    await this.#client.nodes.json("DELETE", `${this.#path}?lease_epoch=${this.leaseEpoch}`);
    if (drainMs > 0) await pause(drainMs);
  }
}

/** Events: `change` with the instances. */
export class Resolver extends EventEmitter {
  #client;
  #zone;
  #balancer;
  #policy;
  #position;
  #currentAt;
  #inFlight = new Map();
  #avoided = new Map();
  #ended = new AbortController();

  constructor(client, service, zone) {
    super();
    this.#client = client;
    this.#zone = zone;
    this.service = service;
  }

  get ageMs() {
    return performance.now() - this.#currentAt;
  }

  choose(request = {}) {
    const { strategy } = this.#balancer;
    const hashes = strategy === "consistent_hash" || strategy === "rendezvous";
    const sticky = this.#policy.traffic?.sticky?.header?.name;
    const now = performance.now();
    const avoids = (id) => (this.#avoided.get(id)?.until ?? 0) > now;
    const input = {
      caller: hashes ? callerHash(this.#policy.selection?.hash_key, request) : 0n,
      affinity: sticky ? hashOfField(request.headers, sticky) : undefined,
      inFlight: (at) => this.#inFlight.get(this.instances[at].id) ?? 0,
    };
    let at = this.#balancer.choose({ ...input, admits: (position) => !avoids(this.instances[position].id) });
    // An instance that has failed is better than none.
    if (at === undefined && this.#avoided.size > 0) at = this.#balancer.choose(input);
    if (at === undefined) return undefined;
    const instance = this.instances[at];
    this.#inFlight.set(instance.id, (this.#inFlight.get(instance.id) ?? 0) + 1);
    const { tracer, namespace } = this.#client;
    const span = tracer?.start({ kind: "call", namespace, service: this.service, instance: instance.id, address: instance.address });
    const release = (failed, outcome) => {
      span?.end({ failed, ...outcome });
      this.#release(instance.id, failed, now);
    };
    return new Chosen(instance, release, span?.headers);
  }

  #release(id, failed, chosenAt) {
    this.#client.onCall?.({ service: this.service, instance: id, durationMs: performance.now() - chosenAt, failed });
    this.#inFlight.set(id, Math.max(0, (this.#inFlight.get(id) ?? 0) - 1));
    if (!failed) return void this.#avoided.delete(id);
    const times = this.#avoided.get(id)?.times ?? 0;
    this.#avoided.set(id, { until: performance.now() + Math.min(AVOID_MAX_MS, AVOID_MS * 2 ** times), times: times + 1 });
  }

  async fetch(path, { key, address, headers, ...options } = {}) {
    const method = (options.method ?? "GET").toUpperCase();
    const query = path.includes("?") ? path.slice(path.indexOf("?") + 1).split("#")[0] : "";
    for (let tries = 1; ; tries += 1) {
      const chosen = this.choose({ key, address, headers: headers && new Headers(headers), queries: [query] });
      if (!chosen) throw new MaxineClientError(0, `no instance of ${this.service} gets traffic`);
      try {
        const sent = new Headers(headers);
        for (const [name, value] of Object.entries(chosen.headers)) sent.set(name, value);
        const answer = await fetch(chosen.address.replace(/\/+$/, "") + path, { ...options, headers: sent });
        chosen.done({ status: answer.status });
        return answer;
      } catch (error) {
        const ended = options.signal?.aborted;
        if (ended) chosen.done({ error });
        else chosen.failed(error);
        // A connection that was refused has sent nothing. After another error only safe methods are repeated.
        const safe = ["GET", "HEAD", "OPTIONS"].includes(method) || error.cause?.code === "ECONNREFUSED";
        if (ended || !safe || options.body instanceof ReadableStream || tries >= TRIES_MAX) throw error;
      }
    }
  }

  async start() {
    await this.#load();
    this.#run();
  }

  stop() {
    this.#ended.abort();
  }

  async #load(minIndex) {
    const { nodes } = this.#client;
    const path = this.#client.path(this.service);
    const signal = this.#ended.signal;
    let items = [], position, atLeast = minIndex, cursor;
    try {
      do {
        const query = new URLSearchParams({ health: "routable", limit: "1000", ...(atLeast && { min_index: atLeast }), ...(cursor && { cursor }) });
        const [page, headers] = await nodes.json("GET", `${path}/instances?${query}`, { signal });
        // The watch continues from the oldest page.
        position ??= `${headers["x-maxine-history"]}-${headers["x-maxine-index"]}`;
        atLeast = position;
        items.push(...page.items);
        cursor = page.next_cursor;
      } while (cursor);
    } catch (error) {
      if (error.status === 410 && minIndex) return this.#load(); // Another history has begun.
      if (error.status !== 404 || !error.problem) throw error;
      [items, position] = [[], undefined];
    }
    let strategy = "round_robin", policy = {};
    try {
      const [service] = await nodes.json("GET", path, { signal });
      strategy = service.strategy;
      policy = service.policy ?? {};
    } catch (error) {
      if (![401, 403, 404].includes(error.status)) throw error;
    }
    const { split = [], zone } = policy.traffic ?? {};
    const changed = JSON.stringify(items) !== JSON.stringify(this.instances);
    this.#balancer = new Balancer(strategy, items, {
      split: split ?? [],
      zone: zone ? this.#zone : undefined,
      zoneMin: zone?.local_instances_min,
      spillInFlight: zone?.spill_in_flight,
      turns: this.#balancer?.turns,
    });
    this.#policy = policy;
    this.instances = items;
    this.#position = position;
    this.#currentAt = performance.now();
    const known = new Set(items.map(({ id }) => id));
    for (const [id, count] of this.#inFlight) if (count === 0 && !known.has(id)) this.#inFlight.delete(id);
    for (const id of this.#avoided.keys()) if (!known.has(id)) this.#avoided.delete(id);
    if (changed) this.emit("change", items);
  }

  async #run() {
    while (!this.#ended.signal.aborted) {
      try {
        await this.#watch();
      } catch (error) {
        if (this.#ended.signal.aborted) return;
        this.#client.report(error);
        await pause(500, undefined, { signal: this.#ended.signal }).catch(() => {});
      }
    }
  }

  async #watch() {
    const { nodes, namespace } = this.#client;
    const headers = this.#position ? { "last-event-id": this.#position } : {};
    const query = new URLSearchParams({ namespace, service: this.service });
    const signal = this.#ended.signal;
    const [answer, node] = await nodes.stream(`/api/v1/watch?${query}`, { headers, signal });
    const end = () => answer.destroy();
    signal.addEventListener("abort", end, { once: true });
    answer.socket.setTimeout(SILENCE_MAX_MS, end);
    try {
      for await (const { id, event } of eventsOf(answer)) {
        if (event === "ready") {
          nodes.worked(node);
          // Something may have changed between the list and this stream.
          if (!this.#position) await this.#load();
        } else if (event === "compacted") {
          this.#position = undefined;
          return await this.#load();
        } else if (event && indexOf(id) > indexOf(this.#position)) {
          await pause(RELOAD_PAUSE_MS); // Changes that arrive together are read together.
          await this.#load(id);
        }
        if (indexOf(id) > indexOf(this.#position)) this.#position = id;
        this.#currentAt = performance.now();
      }
    } catch (error) {
      if (!(error instanceof MaxineClientError)) nodes.failed(node);
      throw error;
    } finally {
      signal.removeEventListener("abort", end);
      answer.destroy();
    }
  }
}

export class Chosen {
  #release;

  constructor(instance, release, headers = {}) {
    this.instance = instance;
    this.headers = headers;
    this.#release = release;
  }

  get address() {
    return this.instance.address;
  }

  done({ status, error } = {}) {
    this.#release?.(false, { status, error });
    this.#release = undefined;
  }

  failed(error) {
    this.#release?.(true, { error });
    this.#release = undefined;
  }
}

/** The index in a position such as `5f3a9c0027e1b4d8-1234`; -1 if there is no position. */
const indexOf = (position) => (position ? Number(position.slice(position.lastIndexOf("-") + 1)) : -1);

/** The server-sent events of an answer. A comment that only updates the id is an event without a name. */
async function* eventsOf(answer) {
  let text = "";
  answer.setEncoding("utf8");
  for await (const piece of answer) {
    const messages = (text + piece).split("\n\n");
    text = messages.pop();
    for (const message of messages) {
      const field = (name) => message.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      yield { id: field("id"), event: field("event") };
    }
  }
}
