//! The Lua scripts: every decision that must be one step in Redis.
//!
//! A script's first write is its `XADD`, `SET` or `PERSIST`: when Redis is out of memory or
//! read-only that one fails and nothing at all was done.
//!
//! The log is a chain: each entry has a random nonce and that of the entry before it, and its
//! position is its stream id. So a replica notices every gap, every fork and every step back.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, cmd};

use super::connect::Link;

/// A script and its hash.
pub(super) struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    /// The command that runs it by its hash.
    pub(super) fn by_hash(&self, keys: &[&str], args: &[&[u8]]) -> Cmd {
        Self::build("EVALSHA", &self.hash, keys, args)
    }

    /// The command that runs it and has Redis remember it.
    pub(super) fn by_code(&self, keys: &[&str], args: &[&[u8]]) -> Cmd {
        Self::build("EVAL", self.code, keys, args)
    }

    fn build(verb: &str, what: &str, keys: &[&str], args: &[&[u8]]) -> Cmd {
        let mut command = cmd(verb);
        command.arg(what).arg(keys.len()).arg(keys);
        for arg in args {
            command.arg(*arg);
        }
        command
    }

    /// Runs it.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        link: &mut Link,
        keys: &[&str],
        args: &[&[u8]],
        timeout: Duration,
    ) -> RedisResult<T> {
        match link.query(&self.by_hash(keys, args), timeout).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                link.query(&self.by_code(keys, args), timeout).await
            }
            other => other,
        }
    }
}

/// Appends one entry. Keys: head, log, leader. Arguments: epoch, position and nonce of the last
/// entry that the caller has; the new nonce; the payload; the lease that must be the present one,
/// or nothing. Refused where the caller knows more than Redis does: the tail must be put back first.
pub(super) static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'nonce')
if not head[1] then return {'EMPTY', ''} end
if head[1] ~= ARGV[1] then return {'EPOCH', head[1]} end
local seq, mine = tonumber(head[2]), tonumber(ARGV[2])
if seq < mine or (seq == mine and head[3] ~= ARGV[3]) then return {'BEHIND', head[2]} end
if ARGV[6] ~= '' then
  local lease = redis.call('GET', KEYS[3])
  if lease ~= ARGV[6] then return {'FENCED', lease or ''} end
end
local next = string.format('%.0f', seq + 1)
redis.call('XADD', KEYS[2], next .. '-0', 'n', ARGV[4], 'p', head[3], 'b', ARGV[5])
redis.call('HSET', KEYS[1], 'seq', next, 'nonce', ARGV[4])
return {'OK', next}
",
    )
});

/// Puts entries back that Redis lost. Keys: head, log. Arguments: epoch, position and nonce after
/// which they come, then nonce and payload of each.
pub(super) static PUT_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'nonce')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] or head[3] ~= ARGV[3] then return 0 end
local seq, nonce = tonumber(head[2]), head[3]
for i = 4, #ARGV, 2 do
  seq = seq + 1
  redis.call('XADD', KEYS[2], string.format('%.0f-0', seq), 'n', ARGV[i], 'p', nonce, 'b', ARGV[i + 1])
  nonce = ARGV[i]
end
redis.call('HSET', KEYS[1], 'seq', string.format('%.0f', seq), 'nonce', nonce)
return 1
",
    )
});

/// Makes a log where there is none, and only where nothing is left of one. Keys: head, log,
/// snapshot. Argument: its epoch, the first nonce.
pub(super) static CREATE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then return -1 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'seq', '0', 'nonce', ARGV[2])
return 1
",
    )
});

/// Puts a whole state in the place of an empty or absent log, or (for a migration) of the log
/// whose position is known. Keys: head, log, snapshot, the parts. Arguments: epoch, position,
/// nonce, id, number of parts, bytes, checksum, `any` or the epoch and position that may be replaced.
pub(super) static INSTALL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = redis.call('HMGET', KEYS[1], 'epoch', 'seq')
if head[1] and head[2] ~= '0' then
  if head[1] ~= ARGV[8] or head[2] ~= ARGV[9] then return 0 end
end
if redis.call('LLEN', KEYS[4]) ~= tonumber(ARGV[5]) then return 0 end
redis.call('PERSIST', KEYS[4])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[3], 'epoch', ARGV[1], 'seq', ARGV[2], 'nonce', ARGV[3], 'id', ARGV[4],
  'parts', ARGV[5], 'len', ARGV[6], 'crc', ARGV[7])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'seq', ARGV[2], 'nonce', ARGV[3])
return 1
",
    )
});

/// Makes an uploaded snapshot the present one and trims the log behind it, in one step. Keys: head,
/// log, snapshot, the parts, leader. Arguments: epoch, position, nonce, id, number of parts, bytes,
/// checksum, the first position to keep, the lease, the prefix of the parts' keys.
pub(super) static PUBLISH_SNAPSHOT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'nonce')
if head[1] ~= ARGV[1] then return 'EPOCH' end
if redis.call('GET', KEYS[5]) ~= ARGV[9] then return 'FENCED' end
if head[2] ~= ARGV[2] or head[3] ~= ARGV[3] then
  local entry = redis.call('XRANGE', KEYS[2], ARGV[2] .. '-0', ARGV[2] .. '-0')
  if not entry[1] or entry[1][2][2] ~= ARGV[3] then return 'FORKED' end
end
local old = redis.call('HMGET', KEYS[3], 'seq', 'id')
if old[1] and tonumber(old[1]) >= tonumber(ARGV[2]) then return 'OLDER' end
if redis.call('LLEN', KEYS[4]) ~= tonumber(ARGV[5]) then return 'GONE' end
redis.call('PERSIST', KEYS[4])
redis.call('HSET', KEYS[3], 'epoch', ARGV[1], 'seq', ARGV[2], 'nonce', ARGV[3], 'id', ARGV[4],
  'parts', ARGV[5], 'len', ARGV[6], 'crc', ARGV[7])
if old[2] then redis.call('PEXPIRE', ARGV[10] .. old[2], 60000) end
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[8] .. '-0')
return 'OK'
",
    )
});

/// Takes the lease if nobody has it. Keys: leader, fence. Arguments: name as JSON, token, lease in
/// milliseconds, wall clock, the highest fencing token that the caller has ever seen.
pub(super) static ACQUIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"
local lease = redis.call('GET', KEYS[1])
if lease then return {0, lease} end
local fence = tonumber(redis.call('GET', KEYS[2]) or '0')
local seen = tonumber(ARGV[5])
if seen > fence then fence = seen end
fence = string.format('%.0f', fence + 1)
redis.call('SET', KEYS[2], fence)
lease = '{"instanceId":' .. ARGV[1] .. ',"token":"' .. ARGV[2] .. '","fencingToken":' .. fence
  .. ',"acquiredAt":' .. ARGV[4] .. '}'
redis.call('SET', KEYS[1], lease, 'NX', 'PX', ARGV[3])
return {1, lease}
"#,
    )
});

/// Lengthens the lease if it is the caller's. Key: leader. Arguments: the lease, milliseconds.
pub(super) static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local lease = redis.call('GET', KEYS[1])
if lease ~= ARGV[1] then return {0, lease or ''} end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1, lease}
",
    )
});

/// Gives the lease back if it is the caller's. Key: leader. Argument: the lease.
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
",
    )
});

/// Puts a message into an inbox that has a bound. Key: the inbox. Arguments: the bound, how long
/// the inbox stays in milliseconds, the message.
pub(super) static POST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
",
    )
});
