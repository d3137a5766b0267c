"""Chooses an instance as Maxine's nodes do. `sdks/spec/README.md` describes the algorithms."""

import ipaddress
import math
import random
from bisect import bisect_left
from functools import reduce
from urllib.parse import unquote_to_bytes

from ._xxh3 import xxh3

_VERSION_SEED = 1
_SLOTS_MAX = _POINTS_MAX = 1 << 20
_DRAWS_MAX = 8
_ZONE_SAMPLE_MAX = 64


def hash_of_address(address):
    """The hash of a network address. `10.0.0.1` and `::ffff:10.0.0.1` are the same client."""
    parsed = ipaddress.ip_address(address)
    return xxh3(parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed)


def _hash_of_field(headers, name):
    items = headers.items() if hasattr(headers, "items") else headers or ()
    value = next((value for key, value in items if key.lower() == name.lower()), "")
    return xxh3(value.encode()) if value else None


def _decoded(text):
    return unquote_to_bytes(text.replace("+", " "))


def _hash_of_parameter(queries, name):
    for query in queries:
        for pair in (query or "").split("&"):
            key, _, value = pair.partition("=")
            if value and _decoded(key) == name.encode() and _decoded(value):
                return xxh3(_decoded(value))
    return None


def caller_hash(hash_key, address="127.0.0.1", key=None, headers=None, queries=()):
    """The hash of a caller. If the value that `hash_key` names is missing, the address is hashed."""
    source, name = hash_key.get("from", "client_address"), hash_key.get("name")
    if key:
        if source == "client_address":
            try:
                return hash_of_address(key)
            except ValueError:
                pass
        return xxh3(key.encode())
    found = None
    if source == "header":
        found = _hash_of_field(headers, name)
    elif source == "query":
        found = _hash_of_parameter(queries, name)
    return hash_of_address(address) if found is None else found


def _owner(candidates, caller):
    """The position with the highest score. `candidates` are positions, each with its seed and weight."""
    data, best, owner = caller.to_bytes(8, "little"), -1.0, None
    for at, seed, weight in candidates:
        score = -weight / math.log(((xxh3(data, seed) >> 12) + 0.5) / (1 << 52))
        if score > best:
            best, owner = score, at
    return owner


def _cycle(positions, weights):
    """The order of turns: each position as often as its weight, spread evenly."""
    if len(set(weights)) <= 1:
        return list(positions)
    divisor = reduce(math.gcd, weights)
    total = sum(weights) // divisor
    slots = []
    for at, weight in zip(positions, weights):
        count = weight // divisor
        if total > _SLOTS_MAX:
            count = max(1, count * _SLOTS_MAX // total)
        slots.extend((((2 * nth + 1) << 32) // (2 * count), at) for nth in range(count))
    return [at for _, at in sorted(slots)]


def _ring(seeds, weights):
    total, divisor = sum(weights) * 100, 1
    while total > divisor * _POINTS_MAX:
        divisor *= 2
    return sorted(
        (xxh3(n.to_bytes(8, "little"), seed), at)
        for at, (seed, weight) in enumerate(zip(seeds, weights))
        for n in range(max(1, weight * 100 // divisor))
    )


class _Set:
    """Some of the instances, prepared for choosing."""

    def __init__(self, balancer, positions, ring):
        self.positions = positions
        self.turns = balancer.turns
        chosen = set(positions)
        self.ring = [point for point in ring if point[1] in chosen]
        self.cycle = _cycle(positions, [balancer.weights[at] for at in positions]) if not ring else []


class Balancer:
    """The instances of a service at one moment, prepared for choosing. Every choice is a position in the list."""

    def __init__(self, strategy, instances, split=(), zone=None, zone_min=1, spill_in_flight=0, turns=0):
        self.strategy = strategy
        self.weights = [instance.get("weight") or 1 for instance in instances]
        self._seeds = [xxh3(instance["id"].encode()) for instance in instances]
        self._spill_in_flight = spill_in_flight
        self._zone_min = max(1, zone_min)
        self.turns = turns
        ring = _ring(self._seeds, self.weights) if strategy == "consistent_hash" else []

        def groups(positions):
            near = [at for at in positions if zone and instances[at].get("zone") == zone]
            local = _Set(self, near, ring) if len(near) >= self._zone_min else None
            return _Set(self, positions, ring), local

        self._versions = []
        for share in split:
            positions = [at for at, i in enumerate(instances) if i.get("version") == share["version"]]
            if share["weight"] > 0 and positions:
                seed = xxh3(share["version"].encode(), _VERSION_SEED)
                self._versions.append((seed, share["weight"], *groups(positions)))
        self._whole = groups(list(range(len(instances)))) if not self._versions else None

    def choose(self, caller=0, affinity=None, admits=lambda at: True, in_flight=lambda at: 0):
        """The position of an instance, or None. `affinity` is a hash that decides whatever the strategy is."""
        if self._whole:
            return self._in_group(self._whole, caller, affinity, admits, in_flight)
        drawn = affinity
        if drawn is None:
            drawn = caller if self.strategy in ("consistent_hash", "rendezvous") else random.getrandbits(64)
        left = [(at, seed, weight) for at, (seed, weight, _, _) in enumerate(self._versions)]
        chosen = self._in_group(self._versions[_owner(left, drawn)][2:], caller, affinity, admits, in_flight)
        if chosen is None:  # No instance of this version can be chosen.
            left = [v for v in left if any(map(admits, self._versions[v[0]][2].positions))]
            if left:
                group = self._versions[_owner(left, drawn)][2:]
                chosen = self._in_group(group, caller, affinity, admits, in_flight)
        return chosen

    def _in_group(self, group, caller, affinity, admits, in_flight):
        everywhere, local = group
        if local and self._stays_in(local, admits, in_flight):
            everywhere = local
        if affinity is not None or self.strategy == "rendezvous":
            caller = caller if affinity is None else affinity
            positions = filter(admits, everywhere.positions)
            return _owner(((at, self._seeds[at], self.weights[at]) for at in positions), caller)
        if self.strategy == "consistent_hash":
            start = bisect_left(everywhere.ring, (caller, -1))
            for points in (everywhere.ring[start:], everywhere.ring[:start]):
                for _, at in points:
                    if admits(at):
                        return at
            return None
        cycle = everywhere.cycle
        if self.strategy == "least_request":
            return self._least(cycle, admits, in_flight)
        for _ in range(_DRAWS_MAX if cycle else 0):
            at = cycle[everywhere.turns % len(cycle)]
            everywhere.turns += 1
            self.turns += 1
            if admits(at):
                return at
        return self._search(cycle, everywhere.turns, admits)

    def _stays_in(self, local, admits, in_flight):
        admitted = [at for at in local.positions if admits(at)]
        if len(admitted) < self._zone_min:
            return False
        if not self._spill_in_flight:
            return True
        sample = random.sample(admitted, min(len(admitted), _ZONE_SAMPLE_MAX))
        return sum(map(in_flight, sample)) <= len(sample) * self._spill_in_flight

    def _least(self, cycle, admits, in_flight):
        if not cycle:
            return None
        first, slot = None, random.randrange(len(cycle))
        for _ in range(_DRAWS_MAX):
            at = cycle[slot]
            slot = (slot + 1 + random.randrange(max(1, len(cycle) - 1))) % len(cycle)
            if not admits(at):
                continue
            if first is None:
                first = at
            elif at != first:
                return min(first, at, key=lambda at: in_flight(at) / self.weights[at])
        return self._search(cycle, slot, admits) if first is None else first

    @staticmethod
    def _search(cycle, start, admits):
        return next((at for n in range(len(cycle)) if admits(at := cycle[(start + n) % len(cycle)])), None)
