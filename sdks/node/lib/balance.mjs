// Chooses an instance as Maxine's nodes do. sdks/spec/README.md describes the algorithms.

import { isIPv4, isIPv6 } from "node:net";
import { xxh3 } from "./xxh3.mjs";

const VERSION_SEED = 1n;
const SLOTS_MAX = 1 << 20, POINTS_MAX = 1 << 20;
const DRAWS_MAX = 8, ZONE_SAMPLE_MAX = 64;

/** The 16 octets of a network address, or undefined if the text is none. */
function octets(address) {
  if (isIPv4(address)) return octets(`::ffff:${address}`);
  if (!isIPv6(address) || address.includes("%")) return undefined;
  let text = address;
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  if (dotted) {
    const [a, b, c, d] = dotted.slice(2).map(Number);
    text = dotted[1] + ((a << 8) | b).toString(16) + ":" + ((c << 8) | d).toString(16);
  }
  const [head, tail] = text.split("::").map((half) => half.split(":").filter(Boolean));
  const zeros = tail === undefined ? [] : Array(8 - head.length - tail.length).fill("0");
  const groups = [...head, ...zeros, ...(tail ?? [])];
  return Buffer.from(groups.flatMap((group) => [parseInt(group, 16) >> 8, parseInt(group, 16) & 255]));
}

export function hashOfField(headers, name) {
  const pairs = headers?.[Symbol.iterator] ? [...headers] : Object.entries(headers ?? {});
  const value = pairs.find(([key]) => key.toLowerCase() === name.toLowerCase())?.[1];
  return value ? xxh3(Buffer.from(String(value))) : undefined;
}

/** Decodes `+` and `%XX` once, to octets. A malformed escape stays as it is. */
function decoded(text) {
  const from = Buffer.from(text), to = [];
  for (let at = 0; at < from.length; at += 1) {
    const digits = from[at] === 37 ? from.toString("latin1", at + 1, at + 3) : "";
    if (/^[0-9a-f]{2}$/i.test(digits)) {
      to.push(parseInt(digits, 16));
      at += 2;
    } else to.push(from[at] === 43 ? 32 : from[at]);
  }
  return Buffer.from(to);
}

function hashOfParameter(queries, name) {
  for (const pair of queries.flatMap((query) => (query ?? "").split("&"))) {
    const equals = pair.indexOf("=");
    if (equals < 0 || !decoded(pair.slice(0, equals)).equals(Buffer.from(name))) continue;
    const value = decoded(pair.slice(equals + 1));
    if (value.length > 0) return xxh3(value);
  }
  return undefined;
}

/** The hash of a caller. If the value that `hashKey` names is missing, the address is hashed. */
export function callerHash(hashKey, { address = "127.0.0.1", key, headers, queries = [] } = {}) {
  const { from = "client_address", name } = hashKey ?? {};
  if (key) {
    const own = from === "client_address" ? octets(key) : undefined;
    return xxh3(own ?? Buffer.from(key));
  }
  const found = from === "header" ? hashOfField(headers, name) : from === "query" ? hashOfParameter(queries, name) : undefined;
  if (found !== undefined) return found;
  const own = octets(address);
  if (!own) throw new TypeError(`"${address}" is not a network address`);
  return xxh3(own);
}

/** The position with the highest score. Candidates are `[position, seed, weight]`. */
function owner(candidates, caller) {
  const data = Buffer.alloc(8);
  data.writeBigUInt64LE(caller);
  let best = -1, chosen;
  for (const [at, seed, weight] of candidates) {
    const score = -weight / Math.log((Number(xxh3(data, seed) >> 12n) + 0.5) / 2 ** 52);
    if (score > best) [best, chosen] = [score, at];
  }
  return chosen;
}

const gcd = (a, b) => (b === 0 ? a : gcd(b, a % b));

/** The order of turns: each position as often as its weight, spread evenly. */
function cycleOf(positions, weights) {
  if (weights.every((weight) => weight === weights[0])) return [...positions];
  const divisor = weights.reduce(gcd);
  const total = weights.reduce((sum, weight) => sum + weight / divisor, 0);
  const slots = [];
  positions.forEach((at, index) => {
    let count = weights[index] / divisor;
    if (total > SLOTS_MAX) count = Math.max(1, Math.floor((count * SLOTS_MAX) / total));
    // Below 2^53, so exact.
    for (let nth = 0; nth < count; nth += 1) slots.push([Math.floor(((2 * nth + 1) * 2 ** 32) / (2 * count)), at]);
  });
  return slots.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, at]) => at);
}

function ringOf(seeds, weights) {
  const total = weights.reduce((sum, weight) => sum + weight * 100, 0);
  let divisor = 1;
  while (total > divisor * POINTS_MAX) divisor *= 2;
  const points = [], data = Buffer.alloc(8);
  seeds.forEach((seed, at) => {
    const count = Math.max(1, Math.floor((weights[at] * 100) / divisor));
    for (let n = 0; n < count; n += 1) {
      data.writeUInt32LE(n);
      points.push([xxh3(data, seed), at]);
    }
  });
  return points.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1]));
}

/** The instances of a service at one moment, prepared for choosing. Every choice is a position in the list. */
export class Balancer {
  #seeds;
  #versions = [];
  #whole;

  constructor(strategy, instances, { split = [], zone, zoneMin = 1, spillInFlight = 0, turns = 0 } = {}) {
    this.strategy = strategy;
    this.turns = turns;
    this.weights = instances.map((instance) => instance.weight || 1);
    this.zoneMin = Math.max(1, zoneMin);
    this.spillInFlight = spillInFlight;
    this.#seeds = instances.map((instance) => xxh3(Buffer.from(instance.id)));
    const hashed = strategy === "consistent_hash";
    const ring = hashed ? ringOf(this.#seeds, this.weights) : [];
    const setOf = (positions) => {
      const own = new Set(positions);
      const cycle = hashed ? [] : cycleOf(positions, positions.map((at) => this.weights[at]));
      return { positions, turns, ring: ring.filter(([, at]) => own.has(at)), cycle };
    };
    const group = (positions) => {
      const near = positions.filter((at) => zone != null && instances[at].zone === zone);
      return { all: setOf(positions), local: near.length >= this.zoneMin ? setOf(near) : undefined };
    };
    for (const { version, weight } of split) {
      const positions = [...instances.keys()].filter((at) => instances[at].version === version);
      const seed = xxh3(Buffer.from(version), VERSION_SEED);
      if (weight > 0 && positions.length > 0) this.#versions.push({ seed, weight, ...group(positions) });
    }
    if (this.#versions.length === 0) this.#whole = group([...instances.keys()]);
  }

  /** The position of an instance, or undefined. `affinity` is a hash that decides whatever the strategy is. */
  choose({ caller = 0n, affinity, admits = () => true, inFlight = () => 0 } = {}) {
    const inGroup = (group) => this.#inGroup(group, caller, affinity, admits, inFlight);
    if (this.#whole) return inGroup(this.#whole);
    const hashes = this.strategy === "consistent_hash" || this.strategy === "rendezvous";
    const drawn = affinity ?? (hashes ? caller : BigInt(Math.floor(Math.random() * 2 ** 53)));
    let left = this.#versions.map(({ seed, weight }, at) => [at, seed, weight]);
    const chosen = inGroup(this.#versions[owner(left, drawn)]);
    if (chosen !== undefined) return chosen;
    // No instance of this version can be chosen.
    left = left.filter(([at]) => this.#versions[at].all.positions.some(admits));
    return left.length > 0 ? inGroup(this.#versions[owner(left, drawn)]) : undefined;
  }

  #inGroup({ all, local }, caller, affinity, admits, inFlight) {
    const set = local && this.#staysIn(local, admits, inFlight) ? local : all;
    if (affinity !== undefined || this.strategy === "rendezvous") {
      const left = set.positions.filter(admits).map((at) => [at, this.#seeds[at], this.weights[at]]);
      return owner(left, affinity ?? caller);
    }
    if (this.strategy === "consistent_hash") {
      let low = 0, high = set.ring.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (set.ring[middle][0] < caller) low = middle + 1;
        else high = middle;
      }
      for (let n = 0; n < set.ring.length; n += 1) {
        const at = set.ring[(low + n) % set.ring.length][1];
        if (admits(at)) return at;
      }
      return undefined;
    }
    if (this.strategy === "least_request") return this.#least(set.cycle, admits, inFlight);
    for (let n = 0; n < DRAWS_MAX && set.cycle.length > 0; n += 1) {
      const at = set.cycle[set.turns % set.cycle.length];
      set.turns += 1;
      this.turns += 1;
      if (admits(at)) return at;
    }
    return search(set.cycle, set.turns, admits);
  }

  #staysIn(local, admits, inFlight) {
    const admitted = local.positions.filter(admits);
    if (admitted.length < this.zoneMin) return false;
    if (!this.spillInFlight) return true;
    const start = Math.floor(Math.random() * admitted.length);
    const sample = [...admitted.slice(start), ...admitted.slice(0, start)].slice(0, ZONE_SAMPLE_MAX);
    return sample.reduce((sum, at) => sum + inFlight(at), 0) <= sample.length * this.spillInFlight;
  }

  #least(cycle, admits, inFlight) {
    const below = (bound) => Math.floor(Math.random() * bound);
    let slot = below(cycle.length), first;
    for (let n = 0; n < DRAWS_MAX && cycle.length > 0; n += 1) {
      const at = cycle[slot];
      slot = (slot + 1 + below(cycle.length - 1)) % cycle.length;
      if (!admits(at)) continue;
      if (first === undefined) first = at;
      else if (at !== first) {
        const cost = (position) => inFlight(position) / this.weights[position];
        return cost(first) <= cost(at) ? first : at;
      }
    }
    return first ?? search(cycle, slot, admits);
  }
}

function search(cycle, start, admits) {
  for (let n = 0; n < cycle.length; n += 1) {
    const at = cycle[(start + n) % cycle.length];
    if (admits(at)) return at;
  }
  return undefined;
}
