package native

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"math"
	"net/http"
	"net/netip"
	"sort"
	"strings"
	"sync/atomic"
)

// The choice of an instance, as nodes make it. sdks/spec/README.md describes the algorithms.

const (
	versionSeed   = 1
	slotsMax      = 1 << 20
	pointsMax     = 1 << 20
	drawsMax      = 8
	zoneSampleMax = 64
)

// Request has the parts of a request that can identify the caller.
type Request struct {
	// Key replaces the value that the service's policy hashes.
	Key string
	// Address is the client's address; by default 127.0.0.1.
	Address netip.Addr
	// Header has the header fields.
	Header http.Header
	// Queries are looked up in this order, the one of the request to the instance first.
	Queries []string
	// Skip tells which instances may not be chosen for this request; nil skips none.
	Skip func(*Instance) bool
	// Context has the span of the caller, for the Tracer; nil is context.Background().
	Context context.Context
}

type hashKey struct{ From, Name string }

func hashOfAddress(address netip.Addr) uint64 {
	octets := address.As16()
	return xxh3(octets[:], 0)
}

func hashOfField(header http.Header, name string) (uint64, bool) {
	for key, values := range header {
		if strings.EqualFold(key, name) && len(values) > 0 && values[0] != "" {
			return xxh3([]byte(values[0]), 0), true
		}
	}
	return 0, false
}

// decoded decodes + and %XX once, to octets. A malformed escape stays as it is.
func decoded(text string) string {
	if !strings.ContainsAny(text, "+%") {
		return text
	}
	digit := func(at int) int {
		if at >= len(text) {
			return -1
		}
		return strings.IndexByte("0123456789abcdef", text[at]|0x20)
	}
	var to []byte
	for at := 0; at < len(text); at++ {
		switch high, low := digit(at+1), digit(at+2); {
		case text[at] == '%' && high >= 0 && low >= 0:
			to = append(to, byte(high<<4|low))
			at += 2
		case text[at] == '+':
			to = append(to, ' ')
		default:
			to = append(to, text[at])
		}
	}
	return string(to)
}

func hashOfParameter(queries []string, name string) (uint64, bool) {
	for _, query := range queries {
		for _, pair := range strings.Split(query, "&") {
			key, value, _ := strings.Cut(pair, "=")
			if value := decoded(value); value != "" && decoded(key) == name {
				return xxh3([]byte(value), 0), true
			}
		}
	}
	return 0, false
}

// hash is the hash of the caller. If the value that the policy names is missing, the address is hashed.
func (r *Request) hash(source hashKey) uint64 {
	var found uint64
	var ok bool
	if r.Key != "" {
		if address, err := netip.ParseAddr(r.Key); err == nil && (source.From == "" || source.From == "client_address") {
			return hashOfAddress(address)
		}
		return xxh3([]byte(r.Key), 0)
	}
	switch source.From {
	case "header":
		found, ok = hashOfField(r.Header, source.Name)
	case "query":
		found, ok = hashOfParameter(r.Queries, source.Name)
	}
	if ok {
		return found
	}
	if !r.Address.IsValid() {
		return hashOfAddress(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return hashOfAddress(r.Address)
}

// random is a random number that also differs between processes that were built with Go 1.19.
func random() uint64            { return new(maphash.Hash).Sum64() }
func randomBelow(bound int) int { return int(random() >> 33 % uint64(bound)) }
func randomShare() float64      { return float64(random()>>11) / (1 << 53) }

type weighted struct {
	seed   uint64
	weight int
}

// owner is the position with the highest score, or -1.
func owner(positions []int, of func(int) weighted, admits func(int) bool, caller uint64) int {
	var data [8]byte
	binary.LittleEndian.PutUint64(data[:], caller)
	best, chosen := -1.0, -1
	for _, at := range positions {
		if !admits(at) {
			continue
		}
		one := of(at)
		uniform := (float64(xxh3(data[:], one.seed)>>12) + 0.5) / (1 << 52)
		if score := -float64(one.weight) / math.Log(uniform); score > best {
			best, chosen = score, at
		}
	}
	return chosen
}

// cycleOf is the order of turns: each position as often as its weight, spread evenly.
func cycleOf(positions []int, members []weighted) []int {
	divisor, total, equal := 0, 0, true
	for _, at := range positions {
		weight := members[at].weight
		equal = equal && weight == members[positions[0]].weight
		total += weight
		for a, b := divisor, weight; ; a, b = b, a%b {
			if b == 0 {
				divisor = a
				break
			}
		}
	}
	if equal {
		return positions
	}
	type slot struct{ middle, at int }
	var slots []slot
	total /= divisor
	for _, at := range positions {
		count := members[at].weight / divisor
		if total > slotsMax {
			if count = count * slotsMax / total; count < 1 {
				count = 1
			}
		}
		for nth := 0; nth < count; nth++ {
			slots = append(slots, slot{(2*nth + 1) << 32 / (2 * count), at})
		}
	}
	sort.Slice(slots, func(a, b int) bool {
		return slots[a].middle < slots[b].middle || slots[a].middle == slots[b].middle && slots[a].at < slots[b].at
	})
	cycle := make([]int, len(slots))
	for n, slot := range slots {
		cycle[n] = slot.at
	}
	return cycle
}

type point struct {
	hash uint64
	at   int
}

func ringOf(members []weighted) []point {
	total, divisor := 0, 1
	for _, member := range members {
		total += member.weight * 100
	}
	for total > divisor*pointsMax {
		divisor *= 2
	}
	var ring []point
	var data [8]byte
	for at, member := range members {
		for n := 0; n == 0 || n < member.weight*100/divisor; n++ {
			binary.LittleEndian.PutUint64(data[:], uint64(n))
			ring = append(ring, point{xxh3(data[:], member.seed), at})
		}
	}
	sort.Slice(ring, func(a, b int) bool {
		return ring[a].hash < ring[b].hash || ring[a].hash == ring[b].hash && ring[a].at < ring[b].at
	})
	return ring
}

// set has some of the instances, prepared for choosing.
type set struct {
	positions []int
	cycle     []int
	ring      []point
	turns     *atomic.Uint64
}

// group has the instances of a version, or all; and those of the preferred zone among them, if there are enough.
type group struct {
	version    weighted
	all, local *set
}

type share struct {
	Version string
	Weight  int
}

type plan struct {
	strategy      string
	split         []share
	zone          string
	zoneMin       int
	spillInFlight int64
}

// balancer has the instances of a service at one moment. Every choice is a position in the list, or -1.
type balancer struct {
	plan
	members []weighted
	groups  []group
	isSplit bool
	turns   *atomic.Uint64
}

func newBalancer(plan plan, instances []Instance, turns *atomic.Uint64) *balancer {
	if plan.zoneMin < 1 {
		plan.zoneMin = 1
	}
	b := &balancer{plan: plan, turns: turns, isSplit: true}
	everything := make([]int, len(instances))
	for at, instance := range instances {
		everything[at] = at
		weight := instance.Weight
		if weight < 1 {
			weight = 1
		}
		b.members = append(b.members, weighted{xxh3([]byte(instance.ID), 0), weight})
	}
	var ring []point
	if plan.strategy == "consistent_hash" {
		ring = ringOf(b.members)
	}
	setOf := func(positions []int) *set {
		s := &set{positions: positions, turns: &atomic.Uint64{}}
		s.turns.Store(turns.Load())
		if plan.strategy != "consistent_hash" {
			s.cycle = cycleOf(positions, b.members)
			return s
		}
		own := map[int]bool{}
		for _, at := range positions {
			own[at] = true
		}
		for _, point := range ring {
			if own[point.at] {
				s.ring = append(s.ring, point)
			}
		}
		return s
	}
	groupOf := func(version weighted, positions []int) group {
		g := group{version: version, all: setOf(positions)}
		var near []int
		for _, at := range positions {
			if plan.zone != "" && instances[at].Zone == plan.zone {
				near = append(near, at)
			}
		}
		if len(near) >= plan.zoneMin {
			g.local = setOf(near)
		}
		return g
	}
	for _, share := range plan.split {
		var positions []int
		for at, instance := range instances {
			if instance.Version == share.Version {
				positions = append(positions, at)
			}
		}
		if share.Weight > 0 && len(positions) > 0 {
			version := weighted{xxh3([]byte(share.Version), versionSeed), share.Weight}
			b.groups = append(b.groups, groupOf(version, positions))
		}
	}
	if len(b.groups) == 0 {
		b.isSplit = false
		b.groups = []group{groupOf(weighted{}, everything)}
		b.groups[0].all.turns = turns
	}
	return b
}

type draw struct {
	caller   uint64
	affinity *uint64
	admits   func(int) bool
	inFlight func(int) int64
}

func (b *balancer) hashes() bool {
	return b.strategy == "consistent_hash" || b.strategy == "rendezvous"
}

func (b *balancer) choose(d *draw) int {
	if !b.isSplit {
		return b.inGroup(&b.groups[0], d)
	}
	drawn := random()
	if d.affinity != nil {
		drawn = *d.affinity
	} else if b.hashes() {
		drawn = d.caller
	}
	versions := make([]int, len(b.groups))
	for at := range versions {
		versions[at] = at
	}
	of := func(at int) weighted { return b.groups[at].version }
	chosen := b.inGroup(&b.groups[owner(versions, of, func(int) bool { return true }, drawn)], d)
	if chosen >= 0 {
		return chosen
	}
	// No instance of this version can be chosen.
	version := owner(versions, of, func(at int) bool {
		for _, position := range b.groups[at].all.positions {
			if d.admits(position) {
				return true
			}
		}
		return false
	}, drawn)
	if version < 0 {
		return -1
	}
	return b.inGroup(&b.groups[version], d)
}

func (b *balancer) inGroup(g *group, d *draw) int {
	s := g.all
	if g.local != nil && b.staysIn(g.local, d) {
		s = g.local
	}
	if d.affinity != nil || b.strategy == "rendezvous" {
		caller := d.caller
		if d.affinity != nil {
			caller = *d.affinity
		}
		return owner(s.positions, func(at int) weighted { return b.members[at] }, d.admits, caller)
	}
	switch b.strategy {
	case "consistent_hash":
		start := sort.Search(len(s.ring), func(at int) bool { return s.ring[at].hash >= d.caller })
		for n := range s.ring {
			if at := s.ring[(start+n)%len(s.ring)].at; d.admits(at) {
				return at
			}
		}
		return -1
	case "least_request":
		return b.least(s.cycle, d)
	}
	for n := 0; n < drawsMax && len(s.cycle) > 0; n++ {
		at := s.cycle[(s.turns.Add(1)-1)%uint64(len(s.cycle))]
		if s.turns != b.turns {
			b.turns.Add(1)
		}
		if d.admits(at) {
			return at
		}
	}
	return search(s.cycle, int(s.turns.Load()%(1<<31)), d)
}

func (b *balancer) staysIn(local *set, d *draw) bool {
	var admitted []int
	for _, at := range local.positions {
		if d.admits(at) {
			admitted = append(admitted, at)
		}
	}
	if len(admitted) < b.zoneMin {
		return false
	}
	if b.spillInFlight == 0 {
		return true
	}
	start, sum, count := randomBelow(len(admitted)), int64(0), int64(0)
	for n := 0; n < len(admitted) && n < zoneSampleMax; n++ {
		sum += d.inFlight(admitted[(start+n)%len(admitted)])
		count++
	}
	return sum <= count*b.spillInFlight
}

func (b *balancer) least(cycle []int, d *draw) int {
	if len(cycle) == 0 {
		return -1
	}
	first, slot := -1, randomBelow(len(cycle))
	for n := 0; n < drawsMax; n++ {
		at := cycle[slot]
		step := 0
		if len(cycle) > 1 {
			step = randomBelow(len(cycle) - 1)
		}
		slot = (slot + 1 + step) % len(cycle)
		if !d.admits(at) {
			continue
		}
		if first < 0 {
			first = at
		} else if at != first {
			if d.inFlight(first)*int64(b.members[at].weight) <= d.inFlight(at)*int64(b.members[first].weight) {
				return first
			}
			return at
		}
	}
	if first >= 0 {
		return first
	}
	return search(cycle, slot, d)
}

func search(cycle []int, start int, d *draw) int {
	for n := range cycle {
		if at := cycle[(start+n)%len(cycle)]; d.admits(at) {
			return at
		}
	}
	return -1
}
