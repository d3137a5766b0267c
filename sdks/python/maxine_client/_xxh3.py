"""XXH3 with 64 bits, which nodes use for every choice that hashes. `spec/xxh3.json` has test vectors."""

from struct import unpack_from

_M = (1 << 64) - 1
_P32_1, _P32_2, _P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_P64_1, _P64_2, _P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P64_4, _P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def _u32(data, at):
    return unpack_from("<I", data, at)[0]


def _u64(data, at):
    return unpack_from("<Q", data, at)[0]


def _fold(a, b):
    product = a * b
    return (product & _M) ^ (product >> 64)


def _avalanche(h):
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & _M
    return h ^ h >> 32


def _avalanche_short(h):
    h ^= h >> 33
    h = h * _P64_2 & _M
    h ^= h >> 29
    h = h * _P64_3 & _M
    return h ^ h >> 32


def _rotated(h, by):
    return (h << by | h >> 64 - by) & _M


def _swapped(h, size):
    return int.from_bytes(h.to_bytes(size, "little"), "big")


def _mix(data, at, secret_at, seed):
    low = _u64(data, at) ^ _u64(_SECRET, secret_at) + seed & _M
    high = _u64(data, at + 8) ^ _u64(_SECRET, secret_at + 8) - seed & _M
    return _fold(low, high)


def xxh3(data, seed=0):
    """The hash of some bytes, as a number below 2^64."""
    n = len(data)
    if n > 240:
        return _long(data, seed)
    if n > 128:
        acc = n * _P64_1 + sum(_mix(data, 16 * i, 16 * i, seed) for i in range(8))
        end = sum(_mix(data, 16 * i, 16 * (i - 8) + 3, seed) for i in range(8, n // 16))
        return _avalanche(_avalanche(acc & _M) + end + _mix(data, n - 16, 119, seed) & _M)
    if n > 16:
        acc = n * _P64_1
        for i in range((n - 1) // 32 + 1):
            acc += _mix(data, 16 * i, 32 * i, seed) + _mix(data, n - 16 * (i + 1), 32 * i + 16, seed)
        return _avalanche(acc & _M)
    if n > 8:
        low = _u64(data, 0) ^ (_u64(_SECRET, 24) ^ _u64(_SECRET, 32)) + seed & _M
        high = _u64(data, n - 8) ^ (_u64(_SECRET, 40) ^ _u64(_SECRET, 48)) - seed & _M
        return _avalanche(n + _swapped(low, 8) + high + _fold(low, high) & _M)
    if n > 3:
        seed ^= _swapped(seed & 0xFFFFFFFF, 4) << 32
        keyed = _u32(data, n - 4) + (_u32(data, 0) << 32)
        h = keyed ^ (_u64(_SECRET, 8) ^ _u64(_SECRET, 16)) - seed & _M
        h ^= _rotated(h, 49) ^ _rotated(h, 24)
        h = h * 0x9FB21C651E98DF25 & _M
        h ^= (h >> 35) + n
        h = h * 0x9FB21C651E98DF25 & _M
        return h ^ h >> 28
    if n > 0:
        joined = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return _avalanche_short(joined ^ (_u32(_SECRET, 0) ^ _u32(_SECRET, 4)) + seed & _M)
    return _avalanche_short(seed ^ _u64(_SECRET, 56) ^ _u64(_SECRET, 64))


def _long(data, seed):
    secret = _SECRET
    if seed:
        parts = ((_u64(secret, at) + (seed if at % 16 == 0 else -seed)) & _M for at in range(0, 192, 8))
        secret = b"".join(part.to_bytes(8, "little") for part in parts)
    acc = [_P32_3, _P64_1, _P64_2, _P64_3, _P64_4, _P32_2, _P64_5, _P32_1]

    def add(at, secret_at):
        for i in range(8):
            value = _u64(data, at + 8 * i)
            keyed = value ^ _u64(secret, secret_at + 8 * i)
            acc[i ^ 1] = acc[i ^ 1] + value & _M
            acc[i] = acc[i] + (keyed & 0xFFFFFFFF) * (keyed >> 32) & _M

    n = len(data)
    for stripe in range((n - 1) // 64):
        add(64 * stripe, 8 * (stripe % 16))
        if stripe % 16 == 15:
            for i in range(8):
                acc[i] = (acc[i] ^ acc[i] >> 47 ^ _u64(secret, 128 + 8 * i)) * _P32_1 & _M
    add(n - 64, 121)
    h = n * _P64_1
    for i in range(0, 8, 2):
        h += _fold(acc[i] ^ _u64(secret, 11 + 8 * i), acc[i + 1] ^ _u64(secret, 19 + 8 * i))
    return _avalanche(h & _M)
