package native

import (
	"encoding/binary"
	"encoding/hex"
	"math/bits"
)

// XXH3 with 64 bits, which nodes use for every choice that hashes. spec/xxh3.json has test vectors.

const (
	p32n1 = 0x9e3779b1
	p32n2 = 0x85ebca77
	p32n3 = 0xc2b2ae3d
	p64n1 = 0x9e3779b185ebca87
	p64n2 = 0xc2b2ae3d27d4eb4f
	p64n3 = 0x165667b19e3779f9
	p64n4 = 0x85ebca77c2b2ae63
	p64n5 = 0x27d4eb2f165667c5
)

var secretOfXXH3, _ = hex.DecodeString(
	"b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221" +
		"b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8" +
		"a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb" +
		"170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")

func u64(data []byte, at int) uint64 { return binary.LittleEndian.Uint64(data[at:]) }
func u32(data []byte, at int) uint64 { return uint64(binary.LittleEndian.Uint32(data[at:])) }
func secret(at int) uint64           { return u64(secretOfXXH3, at) }

func fold(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

func avalanche(h uint64) uint64 {
	h ^= h >> 37
	h *= 0x165667919e3779f9
	return h ^ h>>32
}

func avalancheShort(h uint64) uint64 {
	h ^= h >> 33
	h *= p64n2
	h ^= h >> 29
	h *= p64n3
	return h ^ h>>32
}

func mix(data []byte, at, secretAt int, seed uint64) uint64 {
	return fold(u64(data, at)^(secret(secretAt)+seed), u64(data, at+8)^(secret(secretAt+8)-seed))
}

func xxh3(data []byte, seed uint64) uint64 {
	n := len(data)
	size := uint64(n)
	switch {
	case n > 240:
		return long(data, seed)
	case n > 128:
		acc, end := size*p64n1, mix(data, n-16, 119, seed)
		for i := 0; i < 8; i++ {
			acc += mix(data, 16*i, 16*i, seed)
		}
		for i := 8; i < n/16; i++ {
			end += mix(data, 16*i, 16*(i-8)+3, seed)
		}
		return avalanche(avalanche(acc) + end)
	case n > 16:
		acc := size * p64n1
		for i := 0; i <= (n-1)/32; i++ {
			acc += mix(data, 16*i, 32*i, seed) + mix(data, n-16*(i+1), 32*i+16, seed)
		}
		return avalanche(acc)
	case n > 8:
		low := u64(data, 0) ^ ((secret(24) ^ secret(32)) + seed)
		high := u64(data, n-8) ^ ((secret(40) ^ secret(48)) - seed)
		return avalanche(size + bits.ReverseBytes64(low) + high + fold(low, high))
	case n > 3:
		seed ^= uint64(bits.ReverseBytes32(uint32(seed))) << 32
		h := (u32(data, n-4) + u32(data, 0)<<32) ^ ((secret(8) ^ secret(16)) - seed)
		h ^= bits.RotateLeft64(h, 49) ^ bits.RotateLeft64(h, 24)
		h *= 0x9fb21c651e98df25
		h ^= h>>35 + size
		h *= 0x9fb21c651e98df25
		return h ^ h>>28
	case n > 0:
		joined := uint64(data[0])<<16 | uint64(data[n>>1])<<24 | uint64(data[n-1]) | size<<8
		return avalancheShort(joined ^ ((u32(secretOfXXH3, 0) ^ u32(secretOfXXH3, 4)) + seed))
	default:
		return avalancheShort(seed ^ secret(56) ^ secret(64))
	}
}

func long(data []byte, seed uint64) uint64 {
	own := make([]byte, 192)
	for at := 0; at < 192; at += 16 {
		binary.LittleEndian.PutUint64(own[at:], secret(at)+seed)
		binary.LittleEndian.PutUint64(own[at+8:], secret(at+8)-seed)
	}
	acc := [8]uint64{p32n3, p64n1, p64n2, p64n3, p64n4, p32n2, p64n5, p32n1}
	add := func(at, secretAt int) {
		for i := 0; i < 8; i++ {
			value := u64(data, at+8*i)
			keyed := value ^ u64(own, secretAt+8*i)
			acc[i^1] += value
			acc[i] += keyed & 0xffffffff * (keyed >> 32)
		}
	}
	n := len(data)
	for stripe := 0; stripe < (n-1)/64; stripe++ {
		add(64*stripe, 8*(stripe%16))
		if stripe%16 == 15 {
			for i := range acc {
				acc[i] = (acc[i] ^ acc[i]>>47 ^ u64(own, 128+8*i)) * p32n1
			}
		}
	}
	add(n-64, 121)
	h := uint64(n) * p64n1
	for i := 0; i < 8; i += 2 {
		h += fold(acc[i]^u64(own, 11+8*i), acc[i+1]^u64(own, 19+8*i))
	}
	return avalanche(h)
}
