package maxine.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import maxine.Json;
import org.junit.jupiter.api.Test;

/** The choices of the nodes, as the test vectors in {@code sdks/spec} have them. */
class BalanceTest {
    @SuppressWarnings("unchecked")
    private static List<Map<String, Object>> spec(String file, String field) throws IOException {
        Map<String, Object> spec = (Map<String, Object>) Json.read(Files.readString(Path.of("..", "spec", file)));
        return (List<Map<String, Object>>) spec.get(field);
    }

    @Test
    void xxh3() throws IOException {
        List<Map<String, Object>> hashes = spec("xxh3.json", "hashes");
        for (Map<String, Object> one : hashes) {
            byte[] data = new byte[((Long) one.get("len")).intValue()];
            for (int i = 0; i < data.length; i++) {
                data[i] = (byte) (i * i + 7 * i);
            }
            long seed = Long.parseUnsignedLong((String) one.get("seed"), 16);
            assertEquals(one.get("expect"), String.format("%016x", Xxh3.hash(data, seed)), one::toString);
        }
        assertTrue(hashes.size() > 100);
        assertEquals(Xxh3.hash(new byte[] {1, 2, 3, 4, 5, 6, 7, 8}, 9), Xxh3.hash(0x0807060504030201L, 9));
    }

    @Test
    @SuppressWarnings("unchecked")
    void hashesOfCallers() throws IOException {
        List<Map<String, Object>> hashes = spec("balance.json", "hashes");
        for (Map<String, Object> one : hashes) {
            Map<String, String> headers = new LinkedHashMap<>();
            for (Object pair : one.get("headers") instanceof List<?> list ? list : List.of()) {
                headers.putIfAbsent((String) ((List<?>) pair).get(0), (String) ((List<?>) pair).get(1));
            }
            List<String> queries = new ArrayList<>();
            queries.add((String) one.get("instance_query"));
            queries.add((String) one.get("query"));
            Map<String, Object> key = (Map<String, Object>) one.get("hash_key");
            Request request = new Request((String) one.get("key"), (String) one.get("address"), headers, queries);
            long hash = request.hash((String) key.get("from"), (String) key.get("name"));
            assertEquals(one.get("expect"), String.format("%016x", hash), one::toString);
        }
        assertTrue(hashes.size() > 10);
    }

    @Test
    @SuppressWarnings("unchecked")
    void choices() throws IOException {
        int checked = 0;
        for (Map<String, Object> one : spec("balance.json", "choices")) {
            List<Instance> instances =
                ((List<Map<String, Object>>) one.get("instances")).stream().map(Instance::of).toList();
            List<Balancer.Share> split = new ArrayList<>();
            for (Object share : one.get("split") instanceof List<?> list ? list : List.of()) {
                Map<String, Object> fields = (Map<String, Object>) share;
                split.add(new Balancer.Share((String) fields.get("version"), ((Long) fields.get("weight")).intValue()));
            }
            List<?> leftOut = one.get("left_out") instanceof List<?> list ? list : List.of();
            Balancer balancer = new Balancer(
                new Balancer.Plan((String) one.get("strategy"), split, (String) one.get("zone"), 1, 0), instances, new AtomicLong());
            for (int turn = 0; one.get("turns") != null && turn < (Long) one.get("turns"); turn++) {
                assertEquals(((List<?>) one.get("expect")).get(turn), chosen(balancer, instances, leftOut, 0), one::toString);
                checked++;
            }
            for (Object key : one.get("keys") instanceof List<?> list ? list : List.of()) {
                long caller = Xxh3.hash(Balancer.utf8((String) key), 0);
                assertEquals(((Map<?, ?>) one.get("expect")).get(key), chosen(balancer, instances, leftOut, caller), one::toString);
                checked++;
            }
        }
        assertTrue(checked > 90);
    }

    private static String chosen(Balancer balancer, List<Instance> instances, List<?> leftOut, long caller) {
        return instances.get(balancer.choose(
            new Balancer.Draw(caller, null, at -> !leftOut.contains(instances.get(at).id()), at -> 0))).id();
    }

    @Test
    void leastRequestPrefersTheIdleOneAndNothingComesOfNothing() {
        List<Instance> two = List.of(new Instance("a", "", 1, null, null, Map.of()), new Instance("b", "", 1, null, null, Map.of()));
        Balancer balancer = new Balancer(new Balancer.Plan("least_request", List.of(), null, 1, 0), two, new AtomicLong());
        for (int n = 0; n < 50; n++) {
            assertEquals(1, balancer.choose(new Balancer.Draw(0, null, at -> true, at -> 1 - at)));
        }
        for (String strategy : List.of("least_request", "rendezvous", "consistent_hash", "round_robin")) {
            Balancer empty = new Balancer(new Balancer.Plan(strategy, List.of(), null, 1, 0), List.of(), new AtomicLong());
            assertEquals(-1, empty.choose(new Balancer.Draw(0, null, at -> true, at -> 0)));
        }
    }
}
