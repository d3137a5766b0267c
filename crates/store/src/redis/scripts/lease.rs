//! The scripts for the lease of the leader.

use std::sync::LazyLock;

use super::Script;

/// Takes the lease if it is free. A lease that cannot be read, or never ends, counts as free. Keys: leader,
/// fence. Arguments: name as JSON, token, lease in milliseconds, wall clock, the highest fencing token that
/// the caller has ever seen. Returns whether it took the lease, the present lease, and for how many milliseconds that
/// is valid.
pub(in super::super) static ACQUIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"
local lease, left = read_lease(KEYS[1])
if lease then return {0, lease, left} end
local fence = 0
if kind(KEYS[2]) == 'string' and redis.call('STRLEN', KEYS[2]) <= 16 then
  fence = number(redis.call('GET', KEYS[2])) or 0
end
local seen = tonumber(ARGV[5])
if seen > fence then fence = seen end
fence = string.format('%.0f', fence + 1)
redis.call('SET', KEYS[2], fence)
lease = '{"instanceId":' .. ARGV[1] .. ',"token":"' .. ARGV[2] .. '","fencingToken":' .. fence
  .. ',"acquiredAt":' .. ARGV[4] .. '}'
redis.call('SET', KEYS[1], lease, 'PX', ARGV[3])
return {1, lease, tonumber(ARGV[3])}
"#,
    )
});

/// Returns the lease, empty if there is none, and for how many milliseconds it is valid. Key: leader.
pub(in super::super) static LEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local lease, left = read_lease(KEYS[1])
return {lease or '', left or 0}
",
    )
});

/// Extends the lease if it is the caller's. Key: leader. Arguments: the lease, its new duration in milliseconds.
/// Returns whether it did, the present lease, and for how many milliseconds that is valid.
pub(in super::super) static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local lease, left = read_lease(KEYS[1])
if lease ~= ARGV[1] then return {0, lease or '', left or 0} end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1, lease, tonumber(ARGV[2])}
",
    )
});

/// Deletes the lease if it is the caller's. Key: leader. Argument: the lease. Returns whether it did.
pub(in super::super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if read_lease(KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
",
    )
});
