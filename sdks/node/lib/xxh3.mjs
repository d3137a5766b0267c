// XXH3 with 64 bits, which nodes use for every choice that hashes. spec/xxh3.json has test vectors.

const P32_1 = 0x9e3779b1n, P32_2 = 0x85ebca77n, P32_3 = 0xc2b2ae3dn;
const P64_1 = 0x9e3779b185ebca87n, P64_2 = 0xc2b2ae3d27d4eb4fn, P64_3 = 0x165667b19e3779f9n;
const P64_4 = 0x85ebca77c2b2ae63n, P64_5 = 0x27d4eb2f165667c5n;
const SECRET = Buffer.from(
  "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221" +
  "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8" +
  "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb" +
  "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e",
  "hex",
);

const wrap = (h) => BigInt.asUintN(64, h);
const u64 = (data, at) => data.readBigUInt64LE(at);
const u32 = (data, at) => BigInt(data.readUInt32LE(at));
const rotated = (h, by) => wrap(h << by) | (h >> (64n - by));

function fold(a, b) {
  const product = a * b;
  return wrap(product) ^ (product >> 64n);
}

function avalanche(h) {
  h ^= h >> 37n;
  h = wrap(h * 0x165667919e3779f9n);
  return h ^ (h >> 32n);
}

function avalancheShort(h) {
  h ^= h >> 33n;
  h = wrap(h * P64_2);
  h ^= h >> 29n;
  h = wrap(h * P64_3);
  return h ^ (h >> 32n);
}

function swapped(h, size) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(h);
  return bytes.subarray(0, size).reverse().reduce((sum, byte, at) => sum | (BigInt(byte) << BigInt(8 * at)), 0n);
}

function mix(data, at, secretAt, seed) {
  const low = u64(data, at) ^ wrap(u64(SECRET, secretAt) + seed);
  return fold(low, u64(data, at + 8) ^ wrap(u64(SECRET, secretAt + 8) - seed));
}

/** The hash of a Buffer. Seed and hash are BigInts below 2^64. */
export function xxh3(data, seed = 0n) {
  const n = data.length, size = BigInt(n);
  if (n > 240) return long(data, seed);
  if (n > 128) {
    let acc = size * P64_1, end = mix(data, n - 16, 119, seed);
    for (let i = 0; i < 8; i += 1) acc += mix(data, 16 * i, 16 * i, seed);
    for (let i = 8; i < n >> 4; i += 1) end += mix(data, 16 * i, 16 * (i - 8) + 3, seed);
    return avalanche(wrap(avalanche(wrap(acc)) + end));
  }
  if (n > 16) {
    let acc = size * P64_1;
    for (let i = 0; i <= (n - 1) >> 5; i += 1) {
      acc += mix(data, 16 * i, 32 * i, seed) + mix(data, n - 16 * (i + 1), 32 * i + 16, seed);
    }
    return avalanche(wrap(acc));
  }
  if (n > 8) {
    const low = u64(data, 0) ^ wrap((u64(SECRET, 24) ^ u64(SECRET, 32)) + seed);
    const high = u64(data, n - 8) ^ wrap((u64(SECRET, 40) ^ u64(SECRET, 48)) - seed);
    return avalanche(wrap(size + swapped(low, 8) + high + fold(low, high)));
  }
  if (n > 3) {
    const mixed = seed ^ (swapped(seed & 0xffffffffn, 4) << 32n);
    let h = (u32(data, n - 4) + (u32(data, 0) << 32n)) ^ wrap((u64(SECRET, 8) ^ u64(SECRET, 16)) - mixed);
    h ^= rotated(h, 49n) ^ rotated(h, 24n);
    h = wrap(h * 0x9fb21c651e98df25n);
    h ^= (h >> 35n) + size;
    h = wrap(h * 0x9fb21c651e98df25n);
    return h ^ (h >> 28n);
  }
  if (n > 0) {
    const joined = ((data[0] << 16) | (data[n >> 1] << 24) | data[n - 1] | (n << 8)) >>> 0;
    return avalancheShort(BigInt(joined) ^ wrap((u32(SECRET, 0) ^ u32(SECRET, 4)) + seed));
  }
  return avalancheShort(seed ^ u64(SECRET, 56) ^ u64(SECRET, 64));
}

function long(data, seed) {
  const n = data.length;
  let secret = SECRET;
  if (seed) {
    secret = Buffer.alloc(192);
    for (let at = 0; at < 192; at += 8) {
      secret.writeBigUInt64LE(wrap(u64(SECRET, at) + (at % 16 === 0 ? seed : -seed)), at);
    }
  }
  const acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1];
  const add = (at, secretAt) => {
    for (let i = 0; i < 8; i += 1) {
      const value = u64(data, at + 8 * i);
      const keyed = value ^ u64(secret, secretAt + 8 * i);
      acc[i ^ 1] = wrap(acc[i ^ 1] + value);
      acc[i] = wrap(acc[i] + (keyed & 0xffffffffn) * (keyed >> 32n));
    }
  };
  for (let stripe = 0; stripe < (n - 1) >> 6; stripe += 1) {
    add(64 * stripe, 8 * (stripe % 16));
    if (stripe % 16 === 15) {
      for (let i = 0; i < 8; i += 1) acc[i] = wrap((acc[i] ^ (acc[i] >> 47n) ^ u64(secret, 128 + 8 * i)) * P32_1);
    }
  }
  add(n - 64, 121);
  let h = BigInt(n) * P64_1;
  for (let i = 0; i < 8; i += 2) h += fold(acc[i] ^ u64(secret, 11 + 8 * i), acc[i + 1] ^ u64(secret, 19 + 8 * i));
  return avalanche(wrap(h));
}
