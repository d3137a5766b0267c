package maxine.client;

import java.util.Map;

/**
 * An instance that gets traffic.
 *
 * @param id its name in its service
 * @param address the URL at which it is reached
 * @param weight its share of the traffic, relative to the other instances
 * @param zone its zone, or null
 * @param version its version, or null
 * @param fields all fields, as the API shows them
 */
public record Instance(String id, String address, int weight, String zone, String version, Map<String, Object> fields) {
    static Instance of(Map<String, Object> fields) {
        long weight = fields.get("weight") instanceof Long number ? Math.max(1, number) : 1;
        return new Instance((String) fields.get("id"), (String) fields.get("address"), (int) weight,
            (String) fields.get("zone"), (String) fields.get("version"), fields);
    }
}
