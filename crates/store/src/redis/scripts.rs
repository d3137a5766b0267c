//! The Lua scripts for every decision that must be one step in Redis.
//!
//! The log is a chain. Each entry has a random nonce and the nonce of the entry before it, and its position
//! is its stream id. So a replica notices every gap, every fork and every step back.
//!
//! A script accepts any content under Maxine's keys: another type, a field that is no number, a lease without
//! an end. It answers with a code for such content, or replaces it; it never fails because of it. The first
//! write of a script is one that Redis refuses if it is read-only. Where the script adds data, it is also one
//! that Redis refuses if it is out of memory. So a script that fails has changed nothing.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, cmd};

use super::connect::Link;

mod inbox;
mod lease;
mod nodes;

pub(super) use inbox::{POST, TAKE};
pub(super) use lease::{ACQUIRE, LEASE, RELEASE, RENEW};
pub(super) use nodes::{FORGET, NODES, REPORT};

/// How long the data that [`INSTALL`] replaced is kept, in milliseconds: a week.
const ASIDE_MS: &str = "604800000";

/// Functions for all scripts. A head or a lease that cannot be read counts as missing.
const COMMON: &str = r"
local function kind(key) return redis.call('TYPE', key)['ok'] end
local function number(text)
  return text and #text <= 15 and (text == '0' or string.match(text, '^[1-9]%d*$')) and tonumber(text)
end
-- Whether a field of a hash is longer than this. The field is not read.
local function is_longer(key, field, len) return redis.call('HSTRLEN', key, field) > len end
local function read_head(key)
  if kind(key) ~= 'hash' or is_longer(key, 'epoch', 32) or is_longer(key, 'seq', 15)
    or is_longer(key, 'nonce', 16) then return nil end
  local h = redis.call('HMGET', key, 'epoch', 'seq', 'nonce')
  if not (h[1] and h[2] and h[3]) or not string.match(h[1], '^%x+$') or not number(h[2])
    or #h[3] ~= 16 then return nil end
  return h
end
-- Returns the lease and how many milliseconds it still lasts.
local function read_lease(key)
  if kind(key) ~= 'string' or redis.call('STRLEN', key) > 4096 then return nil end
  local left = redis.call('PTTL', key)
  if left < 0 or left > 600000 then return nil end
  local text = redis.call('GET', key)
  local ok, lease = pcall(cjson.decode, text)
  if not ok or type(lease) ~= 'table' or type(lease.instanceId) ~= 'string'
    or type(lease.token) ~= 'string' or type(lease.fencingToken) ~= 'number'
    or lease.fencingToken < 0 or lease.fencingToken > 9007199254740992
    or lease.fencingToken ~= math.floor(lease.fencingToken) then return nil end
  return text, left
end
-- Whether XADD was refused because of what the stream is, rather than by the state of the server.
local function is_blocked(added)
  if not added then return true end
  local why = type(added) == 'table' and added.err
  return why and (string.find(why, 'WRONGTYPE') or string.find(why, 'equal or smaller')
    or string.find(why, 'exhausted'))
end
";

/// A script and its hash.
pub(super) struct Script {
    code: String,
    hash: String,
}

impl Script {
    fn new(code: &str) -> Self {
        let code = [COMMON, code].concat();
        let hash = redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    /// The command that runs the script by its hash.
    pub(super) fn by_hash(&self, keys: &[&str], args: &[&[u8]]) -> Cmd {
        Self::build("EVALSHA", &self.hash, keys, args)
    }

    /// The command that runs the script by its code and stores it in Redis.
    pub(super) fn by_code(&self, keys: &[&str], args: &[&[u8]]) -> Cmd {
        Self::build("EVAL", &self.code, keys, args)
    }

    fn build(verb: &str, what: &str, keys: &[&str], args: &[&[u8]]) -> Cmd {
        let mut command = cmd(verb);
        command.arg(what).arg(keys.len()).arg(keys);
        for arg in args {
            command.arg(*arg);
        }
        command
    }

    /// Runs the script.
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
/// or nothing; the command version. Answers `OK`, or why nothing was appended: `EMPTY`, `EPOCH` and
/// `BEHIND` (Redis has another log than the caller), `FENCED` (the lease is not the present one),
/// `BLOCKED` (the stream accepts no entry: it is missing, or has something after the head).
pub(super) static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = read_head(KEYS[1])
if not head then return {'EMPTY', ''} end
if head[1] ~= ARGV[1] then return {'EPOCH', head[1]} end
local seq, mine = tonumber(head[2]), tonumber(ARGV[2])
if seq < mine or (seq == mine and head[3] ~= ARGV[3]) then return {'BEHIND', head[2]} end
if ARGV[6] ~= '' then
  local lease = read_lease(KEYS[3])
  if lease ~= ARGV[6] then return {'FENCED', lease or ''} end
end
local next = string.format('%.0f', seq + 1)
local added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', next .. '-0',
  'n', ARGV[4], 'p', head[3], 'v', ARGV[7], 'b', ARGV[5])
if is_blocked(added) then return {'BLOCKED', head[2]} end
if type(added) == 'table' then return added end
redis.call('HSET', KEYS[1], 'seq', next, 'nonce', ARGV[4])
return {'OK', next}
",
    )
});

/// Writes back entries that Redis lost. Keys: head, log. Arguments: epoch, position and nonce of the entry
/// before them, then nonce, command version and payload of each. Answers `OK`, `CHANGED` (the head is another
/// one) or `BLOCKED`.
pub(super) static PUT_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = read_head(KEYS[1])
if not head or head[1] ~= ARGV[1] or head[2] ~= ARGV[2] or head[3] ~= ARGV[3] then return 'CHANGED' end
local seq, nonce = tonumber(head[2]), head[3]
for i = 4, #ARGV, 3 do
  local next = string.format('%.0f', seq + 1)
  local added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', next .. '-0',
    'n', ARGV[i], 'p', nonce, 'v', ARGV[i + 1], 'b', ARGV[i + 2])
  if is_blocked(added) then return 'BLOCKED' end
  if type(added) == 'table' then return added end
  seq, nonce = seq + 1, ARGV[i]
end
redis.call('HSET', KEYS[1], 'seq', string.format('%.0f', seq), 'nonce', nonce)
return 'OK'
",
    )
});

/// Creates a log if there is none, and nothing is left of an earlier one. Keys: head, log, snapshot.
/// Arguments: its epoch, the first nonce.
pub(super) static CREATE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) > 0 then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'seq', '0', 'nonce', ARGV[2])
redis.call('XGROUP', 'CREATE', KEYS[2], 'new', '$', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[2], 'new')
return 1
",
    )
});

/// Reads what follows an id, up to a limit. Key: log. Arguments: the id, the maximum number of entries, the
/// maximum length of one value, and of all values. A longer value is returned empty, and so is an entry with
/// too many fields. Answers whether there may be more, and the entries.
pub(super) static PAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if kind(KEYS[1]) ~= 'stream' then return {0, {}} end
local after, count, one, all = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local entries, total = {}, 0
while #entries < count do
  local entry = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 1)[1]
  if not entry then return {0, entries} end
  local fields, len = entry[2], 0
  for i = 1, #fields do
    if #fields[i] > one then fields[i] = '' end
    len = len + #fields[i]
  end
  if len > all then entry[2], len = {}, 0 end
  if total + len > all then return {1, entries} end
  total, after = total + len, entry[1]
  entries[#entries + 1] = entry
end
return {1, entries}
",
    )
});

/// Reads one part of a snapshot. Key: the parts. Arguments: its number, its maximum length. A longer part is
/// returned empty, so that the checksum is wrong.
pub(super) static PART: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if kind(KEYS[1]) ~= 'list' then return false end
local part = redis.call('LINDEX', KEYS[1], ARGV[1])
return part and #part > tonumber(ARGV[2]) and '' or part
",
    )
});

/// Returns the end of the log; nothing if no head can be read. Key: head.
pub(super) static HEAD: LazyLock<Script> =
    LazyLock::new(|| Script::new("return read_head(KEYS[1]) or {}"));

/// Reports the content of Redis, without changing it. Keys: head, log, snapshot, leader. Argument: the prefix
/// of the parts' keys. The order of the answer is that of [`super::survey`].
pub(super) static SURVEY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = read_head(KEYS[1]) or {'', '', ''}
local log, length, newest, first, last = kind(KEYS[2]), 0, '', '', ''
if log == 'stream' then
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do
    local name, value = info[i], info[i + 1]
    if name == 'length' then length = value
    elseif name == 'last-generated-id' then newest = value
    elseif name == 'first-entry' and value then first = value[1]
    elseif name == 'last-entry' and value then last = value[1] end
  end
end
local snapshot, parts_there, m = kind(KEYS[3]), 0, {}
if snapshot == 'hash' then
  for i, field in ipairs({'epoch', 'seq', 'nonce', 'id', 'parts', 'len', 'crc', 'v', 'recent'}) do
    m[i] = not is_longer(KEYS[3], field, 65536) and redis.call('HGET', KEYS[3], field)
  end
  if m[4] and kind(ARGV[1] .. m[4]) == 'list' then parts_there = redis.call('LLEN', ARGV[1] .. m[4]) end
end
for i = 1, 9 do m[i] = m[i] or '' end
return {head[1], head[2], head[3], kind(KEYS[1]), log, tostring(length), newest, first, last,
  read_lease(KEYS[4]) or '', snapshot, tostring(parts_there),
  m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8], m[9],
  head[1] ~= '' and redis.call('HEXISTS', KEYS[1], 'short') == 1 and '1' or ''}
",
    )
});

/// Replaces the content of Redis with a whole state. Keys: head, log, snapshot, the parts,
/// leader. Arguments: epoch, position, nonce, id, number of parts, bytes, checksum, command version
/// and recent nonces of the state; epoch, position and nonce of the head that it replaces, all
/// empty if no head can be read; `unled` if it must be refused while a node leads; the prefix of the parts' keys; the
/// prefix of the keys that keep what is replaced. Answers `OK`, `CHANGED`, `LED` or `GONE` (the
/// uploaded parts no longer exist).
pub(super) static INSTALL: LazyLock<Script> = LazyLock::new(|| {
    let code = r"
local head = read_head(KEYS[1]) or {'', '', ''}
if head[1] ~= ARGV[10] or head[2] ~= ARGV[11] or head[3] ~= ARGV[12] then return 'CHANGED' end
if ARGV[13] == 'unled' and read_lease(KEYS[5]) then return 'LED' end
if kind(KEYS[4]) ~= 'list' or redis.call('LLEN', KEYS[4]) ~= tonumber(ARGV[5]) then return 'GONE' end
redis.call('PERSIST', KEYS[4])
local aside = {ARGV[15] .. 'head', ARGV[15] .. 'log', ARGV[15] .. 'snapshot2'}
if kind(KEYS[3]) ~= 'none' and kind(aside[3]) == 'hash' then
  redis.call('UNLINK', ARGV[14] .. (redis.call('HGET', aside[3], 'id') or ''))
end
local old = kind(KEYS[3]) == 'hash' and redis.call('HGET', KEYS[3], 'id')
for i = 1, 3 do
  if kind(KEYS[i]) ~= 'none' then
    redis.call('RENAME', KEYS[i], aside[i])
    redis.call('PEXPIRE', aside[i], 'ASIDE_MS')
  end
end
if old and old ~= ARGV[4] then redis.call('PEXPIRE', ARGV[14] .. old, 'ASIDE_MS') end
redis.call('HSET', KEYS[3], 'epoch', ARGV[1], 'seq', ARGV[2], 'nonce', ARGV[3], 'id', ARGV[4],
  'parts', ARGV[5], 'len', ARGV[6], 'crc', ARGV[7], 'v', ARGV[8], 'recent', ARGV[9])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'seq', ARGV[2], 'nonce', ARGV[3])
redis.call('XGROUP', 'CREATE', KEYS[2], 'new', '$', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[2], 'new')
return 'OK'
";
    Script::new(&code.replace("ASIDE_MS", ASIDE_MS))
});

/// Makes an uploaded snapshot the present one and trims the log before it, in one step. Keys: head,
/// log, snapshot, the parts, leader. Arguments: epoch, position, nonce, id, number of parts, bytes,
/// checksum, command version and recent nonces of the state; the first position to keep, the lease,
/// the prefix of the parts' keys.
pub(super) static PUBLISH_SNAPSHOT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = read_head(KEYS[1])
if not head or head[1] ~= ARGV[1] then return 'EPOCH' end
if read_lease(KEYS[5]) ~= ARGV[11] then return 'FENCED' end
local is_stream = kind(KEYS[2]) == 'stream'
if head[2] ~= ARGV[2] or head[3] ~= ARGV[3] then
  local entry = is_stream and redis.call('XRANGE', KEYS[2], ARGV[2] .. '-0', ARGV[2] .. '-0')[1]
  if not entry or entry[2][2] ~= ARGV[3] then return 'FORKED' end
end
local old = kind(KEYS[3]) == 'hash' and redis.call('HMGET', KEYS[3], 'epoch', 'seq', 'id') or {}
local old_seq = number(old[2])
if old[1] == ARGV[1] and old_seq and old_seq > tonumber(ARGV[2]) and old_seq <= tonumber(head[2])
  and old[3] and redis.call('EXISTS', ARGV[12] .. old[3]) == 1 then return 'OLDER' end
if kind(KEYS[4]) ~= 'list' or redis.call('LLEN', KEYS[4]) ~= tonumber(ARGV[5]) then return 'GONE' end
redis.call('PERSIST', KEYS[4])
redis.call('HDEL', KEYS[1], 'short')
redis.call('DEL', KEYS[3])
redis.call('HSET', KEYS[3], 'epoch', ARGV[1], 'seq', ARGV[2], 'nonce', ARGV[3], 'id', ARGV[4],
  'parts', ARGV[5], 'len', ARGV[6], 'crc', ARGV[7], 'v', ARGV[8], 'recent', ARGV[9])
if old[3] then redis.call('PEXPIRE', ARGV[12] .. old[3], 60000) end
if is_stream then redis.call('XTRIM', KEYS[2], 'MINID', ARGV[10] .. '-0') end
return 'OK'
",
    )
});

/// Records that a node could not build the state at the head, although the ids suggest that it can be built.
/// The leader then writes a snapshot. Key: head. Argument: the epoch.
pub(super) static REPORT_SHORT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = read_head(KEYS[1])
if not head or head[1] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'short', '1')
return 1
",
    )
});
