package maxine.client;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;

/**
 * The parts of a request that can identify the caller. Each may be null.
 *
 * @param key replaces the value that the service's policy hashes
 * @param address the client's address as a text; by default {@code 127.0.0.1}
 * @param headers the header fields
 * @param queries queries without the question mark, that of the request to the instance first
 */
public record Request(String key, String address, Map<String, String> headers, List<String> queries) {
    private static final Pattern IPV4 = Pattern.compile("(\\d{1,3}\\.){3}\\d{1,3}");
    private static final Pattern IPV6 = Pattern.compile("[0-9a-fA-F:.]*:[0-9a-fA-F:.]*");

    /** A request of which nothing is known. */
    public static final Request NONE = new Request(null, null, null, null);

    /** A request whose caller is identified by this value. */
    public static Request of(String key) {
        return new Request(key, null, null, null);
    }

    /** The hash of the caller. If the value that the policy names is missing, the address is hashed. */
    long hash(String from, String name) {
        if (key != null && !key.isEmpty()) {
            byte[] own = "client_address".equals(from) ? octets(key) : null;
            return Xxh3.hash(own == null ? Balancer.utf8(key) : own, 0);
        }
        Long found = "header".equals(from) ? hashOfField(name) : "query".equals(from) ? hashOfParameter(name) : null;
        if (found != null) {
            return found;
        }
        byte[] own = octets(address == null ? "127.0.0.1" : address);
        if (own == null) {
            throw new IllegalArgumentException(address + " is not a network address");
        }
        return Xxh3.hash(own, 0);
    }

    Long hashOfField(String name) {
        for (Map.Entry<String, String> field : headers == null ? List.<Map.Entry<String, String>>of() : headers.entrySet()) {
            if (field.getKey().equalsIgnoreCase(name) && field.getValue() != null && !field.getValue().isEmpty()) {
                return Xxh3.hash(Balancer.utf8(field.getValue()), 0);
            }
        }
        return null;
    }

    private Long hashOfParameter(String name) {
        for (String query : queries == null ? List.<String>of() : queries) {
            for (String pair : query == null ? new String[0] : query.split("&")) {
                int equals = pair.indexOf('=');
                if (equals >= 0 && Arrays.equals(decoded(pair.substring(0, equals)), Balancer.utf8(name))) {
                    byte[] value = decoded(pair.substring(equals + 1));
                    if (value.length > 0) {
                        return Xxh3.hash(value, 0);
                    }
                }
            }
        }
        return null;
    }

    /** Decodes + and %XX once, to octets. A malformed escape stays as it is. */
    private static byte[] decoded(String text) {
        byte[] from = Balancer.utf8(text);
        byte[] to = new byte[from.length];
        int length = 0;
        for (int at = 0; at < from.length; at++) {
            int high = from[at] == '%' && at + 2 < from.length ? Character.digit(from[at + 1], 16) : -1;
            int low = high < 0 ? -1 : Character.digit(from[at + 2], 16);
            if (low >= 0) {
                to[length++] = (byte) (high << 4 | low);
                at += 2;
            } else {
                to[length++] = from[at] == '+' ? (byte) ' ' : from[at];
            }
        }
        return Arrays.copyOf(to, length);
    }

    /** The 16 octets of a network address; null if the text is none. Nothing is looked up in the DNS. */
    private static byte[] octets(String text) {
        if (IPV4.matcher(text).matches()) {
            return octets("::ffff:" + text);
        }
        if (text.indexOf(':') < 0 || !IPV6.matcher(text).matches()) {
            return null;
        }
        try {
            byte[] address = java.net.InetAddress.getByName(text).getAddress();
            if (address.length == 16) {
                return address;
            }
            byte[] mapped = new byte[16];
            mapped[10] = mapped[11] = (byte) 255;
            System.arraycopy(address, 0, mapped, 12, 4);
            return mapped;
        } catch (java.net.UnknownHostException error) {
            return null;
        }
    }
}
