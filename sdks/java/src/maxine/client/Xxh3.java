package maxine.client;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HexFormat;

/** XXH3 with 64 bits, which nodes use for every choice that hashes. {@code spec/xxh3.json} has test vectors. */
final class Xxh3 {
    private static final long P32_1 = 0x9e3779b1L;
    private static final long P32_2 = 0x85ebca77L;
    private static final long P32_3 = 0xc2b2ae3dL;
    private static final long P64_1 = 0x9e3779b185ebca87L;
    private static final long P64_2 = 0xc2b2ae3d27d4eb4fL;
    private static final long P64_3 = 0x165667b19e3779f9L;
    private static final long P64_4 = 0x85ebca77c2b2ae63L;
    private static final long P64_5 = 0x27d4eb2f165667c5L;
    private static final ByteBuffer SECRET = of(HexFormat.of().parseHex(
            "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
            + "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
            + "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
            + "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"));

    private Xxh3() {
    }

    private static ByteBuffer of(byte[] data) {
        return ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN);
    }

    private static long u32(ByteBuffer data, int at) {
        return data.getInt(at) & 0xffffffffL;
    }

    private static long fold(long a, long b) {
        long high = Math.multiplyHigh(a, b) + ((a >> 63) & b) + ((b >> 63) & a);
        return high ^ a * b;
    }

    private static long avalanche(long h) {
        h ^= h >>> 37;
        h *= 0x165667919e3779f9L;
        return h ^ h >>> 32;
    }

    private static long avalancheShort(long h) {
        h ^= h >>> 33;
        h *= P64_2;
        h ^= h >>> 29;
        h *= P64_3;
        return h ^ h >>> 32;
    }

    private static long mix(ByteBuffer data, int at, int secretAt, long seed) {
        return fold(
            data.getLong(at) ^ (SECRET.getLong(secretAt) + seed), data.getLong(at + 8) ^ (SECRET.getLong(secretAt + 8) - seed));
    }

    /** The hash of a number as 8 octets. */
    static long hash(long number, long seed) {
        return short4to8(number & 0xffffffffL, number >>> 32, 8, seed);
    }

    static long hash(byte[] octets, long seed) {
        ByteBuffer data = of(octets);
        int n = octets.length;
        if (n > 240) {
            return longHash(data, n, seed);
        }
        if (n > 128) {
            long acc = n * P64_1;
            long end = mix(data, n - 16, 119, seed);
            for (int i = 0; i < 8; i++) {
                acc += mix(data, 16 * i, 16 * i, seed);
            }
            for (int i = 8; i < n / 16; i++) {
                end += mix(data, 16 * i, 16 * (i - 8) + 3, seed);
            }
            return avalanche(avalanche(acc) + end);
        }
        if (n > 16) {
            long acc = n * P64_1;
            for (int i = 0; i <= (n - 1) / 32; i++) {
                acc += mix(data, 16 * i, 32 * i, seed) + mix(data, n - 16 * (i + 1), 32 * i + 16, seed);
            }
            return avalanche(acc);
        }
        if (n > 8) {
            long low = data.getLong(0) ^ ((SECRET.getLong(24) ^ SECRET.getLong(32)) + seed);
            long high = data.getLong(n - 8) ^ ((SECRET.getLong(40) ^ SECRET.getLong(48)) - seed);
            return avalanche(n + Long.reverseBytes(low) + high + fold(low, high));
        }
        if (n > 3) {
            return short4to8(u32(data, 0), u32(data, n - 4), n, seed);
        }
        if (n > 0) {
            long joined = (octets[0] & 255L) << 16 | (octets[n >> 1] & 255L) << 24 | octets[n - 1] & 255L | (long) n << 8;
            return avalancheShort(joined ^ ((u32(SECRET, 0) ^ u32(SECRET, 4)) + seed));
        }
        return avalancheShort(seed ^ SECRET.getLong(56) ^ SECRET.getLong(64));
    }

    private static long short4to8(long first, long last, int n, long seed) {
        seed ^= (Integer.reverseBytes((int) seed) & 0xffffffffL) << 32;
        long h = (last + (first << 32)) ^ ((SECRET.getLong(8) ^ SECRET.getLong(16)) - seed);
        h ^= Long.rotateLeft(h, 49) ^ Long.rotateLeft(h, 24);
        h *= 0x9fb21c651e98df25L;
        h ^= (h >>> 35) + n;
        h *= 0x9fb21c651e98df25L;
        return h ^ h >>> 28;
    }

    private static long longHash(ByteBuffer data, int n, long seed) {
        ByteBuffer secret = of(new byte[192]);
        for (int at = 0; at < 192; at += 16) {
            secret.putLong(at, SECRET.getLong(at) + seed).putLong(at + 8, SECRET.getLong(at + 8) - seed);
        }
        long[] acc = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};
        for (int stripe = 0; stripe < (n - 1) / 64; stripe++) {
            add(acc, data, 64 * stripe, secret, 8 * (stripe % 16));
            if (stripe % 16 == 15) {
                for (int i = 0; i < 8; i++) {
                    acc[i] = (acc[i] ^ acc[i] >>> 47 ^ secret.getLong(128 + 8 * i)) * P32_1;
                }
            }
        }
        add(acc, data, n - 64, secret, 121);
        long h = n * P64_1;
        for (int i = 0; i < 8; i += 2) {
            h += fold(acc[i] ^ secret.getLong(11 + 8 * i), acc[i + 1] ^ secret.getLong(19 + 8 * i));
        }
        return avalanche(h);
    }

    private static void add(long[] acc, ByteBuffer data, int at, ByteBuffer secret, int secretAt) {
        for (int i = 0; i < 8; i++) {
            long value = data.getLong(at + 8 * i);
            long keyed = value ^ secret.getLong(secretAt + 8 * i);
            acc[i ^ 1] += value;
            acc[i] += (keyed & 0xffffffffL) * (keyed >>> 32);
        }
    }
}
