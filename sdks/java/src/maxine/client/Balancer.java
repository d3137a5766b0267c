package maxine.client;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.IntPredicate;
import java.util.function.IntToLongFunction;
import java.util.stream.IntStream;

/**
 * The instances of a service at one moment, prepared for choosing as nodes do. {@code sdks/spec/README.md} describes the
 * algorithms. Every choice is a position in the list, or -1.
 */
final class Balancer {
    private static final long VERSION_SEED = 1;
    private static final int SLOTS_MAX = 1 << 20;
    private static final int POINTS_MAX = 1 << 20;
    private static final int DRAWS_MAX = 8;
    private static final int ZONE_SAMPLE_MAX = 64;

    /** The share of the traffic of a version. */
    record Share(String version, int weight) {
    }

    record Plan(String strategy, List<Share> split, String zone, long zoneMin, long spillInFlight) {
    }

    /** What one choice depends on. The affinity may be null. */
    record Draw(long caller, Long affinity, IntPredicate admits, IntToLongFunction inFlight) {
    }

    private record Weighted(long seed, int weight) {
    }

    private record Point(long hash, int at) {
    }

    private record Slot(long middle, int at) {
    }

    /** Some of the instances, prepared for choosing. */
    private record Members(int[] positions, int[] cycle, Point[] ring, AtomicLong turns) {
    }

    /** The instances of a version, or all; and those of the preferred zone among them, or null. */
    private record Group(Weighted version, Members all, Members local) {
    }

    private final Plan plan;
    private final Weighted[] members;
    private final List<Group> versions = new ArrayList<>();
    private final Group whole;
    private final AtomicLong turns;

    Balancer(Plan plan, List<Instance> instances, AtomicLong turns) {
        this.plan = plan;
        this.turns = turns;
        members = instances.stream().map(one -> new Weighted(Xxh3.hash(utf8(one.id()), 0), one.weight())).toArray(Weighted[]::new);
        Point[] ring = plan.strategy.equals("consistent_hash") ? ringOf() : new Point[0];
        for (Share share : plan.split) {
            int[] positions = IntStream.range(0, members.length).filter(at -> share.version.equals(instances.get(at).version())).toArray();
            if (share.weight > 0 && positions.length > 0) {
                Weighted version = new Weighted(Xxh3.hash(utf8(share.version), VERSION_SEED), share.weight);
                versions.add(group(version, positions, instances, ring, new AtomicLong(turns.get())));
            }
        }
        int[] all = IntStream.range(0, members.length).toArray();
        whole = versions.isEmpty() ? group(null, all, instances, ring, turns) : null;
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    boolean hashes() {
        return plan.strategy.equals("consistent_hash") || plan.strategy.equals("rendezvous");
    }

    private Group group(Weighted version, int[] positions, List<Instance> instances, Point[] ring, AtomicLong own) {
        int[] near = Arrays.stream(positions).filter(at -> plan.zone != null && plan.zone.equals(instances.get(at).zone())).toArray();
        boolean enough = near.length >= Math.max(1, plan.zoneMin);
        return new Group(version, set(positions, ring, own), enough ? set(near, ring, new AtomicLong(turns.get())) : null);
    }

    private Members set(int[] positions, Point[] ring, AtomicLong own) {
        boolean[] chosen = new boolean[members.length];
        Arrays.stream(positions).forEach(at -> chosen[at] = true);
        Point[] points = Arrays.stream(ring).filter(point -> chosen[point.at]).toArray(Point[]::new);
        return new Members(positions, plan.strategy.equals("consistent_hash") ? new int[0] : cycleOf(positions), points, own);
    }

    /** The order of turns: each position as often as its weight, spread evenly. */
    private int[] cycleOf(int[] positions) {
        int[] weights = Arrays.stream(positions).map(at -> members[at].weight).toArray();
        if (Arrays.stream(weights).distinct().count() <= 1) {
            return positions;
        }
        int divisor = Arrays.stream(weights).reduce(0, (a, b) -> {
            while (b != 0) {
                int rest = a % b;
                a = b;
                b = rest;
            }
            return a;
        });
        long total = Arrays.stream(weights).asLongStream().sum() / divisor;
        List<Slot> slots = new ArrayList<>();
        for (int index = 0; index < positions.length; index++) {
            long count = weights[index] / divisor;
            if (total > SLOTS_MAX) {
                count = Math.max(1, count * SLOTS_MAX / total);
            }
            for (long nth = 0; nth < count; nth++) {
                slots.add(new Slot(((2 * nth + 1) << 32) / (2 * count), positions[index]));
            }
        }
        slots.sort(Comparator.comparingLong(Slot::middle).thenComparingInt(Slot::at));
        return slots.stream().mapToInt(Slot::at).toArray();
    }

    private Point[] ringOf() {
        long total = Arrays.stream(members).mapToLong(member -> member.weight * 100L).sum();
        long divisor = 1;
        while (total > divisor * POINTS_MAX) {
            divisor *= 2;
        }
        List<Point> points = new ArrayList<>();
        for (int at = 0; at < members.length; at++) {
            long count = Math.max(1, members[at].weight * 100L / divisor);
            for (long n = 0; n < count; n++) {
                points.add(new Point(Xxh3.hash(n, members[at].seed), at));
            }
        }
        points.sort((a, b) -> a.hash == b.hash ? a.at - b.at : Long.compareUnsigned(a.hash, b.hash));
        return points.toArray(Point[]::new);
    }

    /** The candidate with the highest score, or -1. */
    private static int owner(int[] candidates, java.util.function.IntFunction<Weighted> of, IntPredicate admits, long caller) {
        double best = -1;
        int chosen = -1;
        for (int at : candidates) {
            if (!admits.test(at)) {
                continue;
            }
            Weighted one = of.apply(at);
            double uniform = ((Xxh3.hash(caller, one.seed) >>> 12) + 0.5) / (1L << 52);
            double score = -one.weight / Math.log(uniform);
            if (score > best) {
                best = score;
                chosen = at;
            }
        }
        return chosen;
    }

    int choose(Draw draw) {
        if (whole != null) {
            return inGroup(whole, draw);
        }
        long drawn = draw.affinity != null ? draw.affinity : hashes() ? draw.caller : ThreadLocalRandom.current().nextLong();
        int[] all = IntStream.range(0, versions.size()).toArray();
        int chosen = inGroup(versions.get(owner(all, at -> versions.get(at).version, at -> true, drawn)), draw);
        if (chosen >= 0) {
            return chosen;
        }
        // No instance of this version can be chosen.
        IntPredicate admitsAny = at -> Arrays.stream(versions.get(at).all.positions).anyMatch(draw.admits);
        int other = owner(all, at -> versions.get(at).version, admitsAny, drawn);
        return other < 0 ? -1 : inGroup(versions.get(other), draw);
    }

    private int inGroup(Group group, Draw draw) {
        Members set = group.local != null && staysIn(group.local, draw) ? group.local : group.all;
        if (draw.affinity != null || plan.strategy.equals("rendezvous")) {
            return owner(set.positions, at -> members[at], draw.admits, draw.affinity != null ? draw.affinity : draw.caller);
        }
        if (plan.strategy.equals("consistent_hash")) {
            return onRing(set.ring, draw);
        }
        if (plan.strategy.equals("least_request")) {
            return least(set.cycle, draw);
        }
        for (int n = 0; n < DRAWS_MAX && set.cycle.length > 0; n++) {
            int at = set.cycle[(int) Long.remainderUnsigned(set.turns.getAndIncrement(), set.cycle.length)];
            if (set.turns != turns) {
                turns.getAndIncrement();
            }
            if (draw.admits.test(at)) {
                return at;
            }
        }
        return search(set.cycle, (int) (set.turns.get() & 0xffffff), draw);
    }

    private static int onRing(Point[] ring, Draw draw) {
        int low = 0;
        int high = ring.length;
        while (low < high) {
            int middle = (low + high) >>> 1;
            if (Long.compareUnsigned(ring[middle].hash, draw.caller) < 0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        for (int n = 0; n < ring.length; n++) {
            int at = ring[(low + n) % ring.length].at;
            if (draw.admits.test(at)) {
                return at;
            }
        }
        return -1;
    }

    private boolean staysIn(Members local, Draw draw) {
        int[] admitted = Arrays.stream(local.positions).filter(draw.admits).toArray();
        if (admitted.length < Math.max(1, plan.zoneMin)) {
            return false;
        }
        if (plan.spillInFlight == 0) {
            return true;
        }
        int start = ThreadLocalRandom.current().nextInt(admitted.length);
        int count = Math.min(admitted.length, ZONE_SAMPLE_MAX);
        long sum = IntStream.range(0, count).mapToLong(n -> draw.inFlight.applyAsLong(admitted[(start + n) % admitted.length])).sum();
        return sum <= count * plan.spillInFlight;
    }

    private int least(int[] cycle, Draw draw) {
        if (cycle.length == 0) {
            return -1;
        }
        ThreadLocalRandom random = ThreadLocalRandom.current();
        int first = -1;
        int slot = random.nextInt(cycle.length);
        for (int n = 0; n < DRAWS_MAX; n++) {
            int at = cycle[slot];
            slot = (slot + 1 + random.nextInt(Math.max(1, cycle.length - 1))) % cycle.length;
            if (!draw.admits.test(at)) {
                continue;
            }
            if (first < 0) {
                first = at;
            } else if (at != first) {
                long costOfFirst = draw.inFlight.applyAsLong(first) * members[at].weight;
                return costOfFirst <= draw.inFlight.applyAsLong(at) * members[first].weight ? first : at;
            }
        }
        return first >= 0 ? first : search(cycle, slot, draw);
    }

    private static int search(int[] cycle, int start, Draw draw) {
        for (int n = 0; n < cycle.length; n++) {
            int at = cycle[(start + n) % cycle.length];
            if (draw.admits.test(at)) {
                return at;
            }
        }
        return -1;
    }
}
