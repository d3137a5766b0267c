//! The scripts for the list of nodes.

use std::sync::LazyLock;

use super::Script;

/// Records that a node runs, with the time of Redis, and removes entries that are too old. A key that is no
/// hash is replaced. Key: the nodes. Arguments: the node's name, the state version that it understands, how
/// long an entry is kept in milliseconds, the maximum number of entries, the addresses of the node.
pub(in super::super) static REPORT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local there = kind(KEYS[1])
if there ~= 'none' and (there ~= 'hash' or redis.call('HLEN', KEYS[1]) > tonumber(ARGV[4])) then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now) .. ' ' .. ARGV[5])
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local seen = number(string.match(all[at + 1], '^%d+ (%d+) .*$'))
  if not seen or now - seen > tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], all[at]) end
end
return 1
",
    )
});

/// Returns the nodes: name, state version, the time since the last report in milliseconds, and the addresses. An entry
/// that cannot be read is left out. Key: the nodes. Argument: the maximum number of entries.
pub(in super::super) static NODES: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local nodes = {}
if kind(KEYS[1]) ~= 'hash' or redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then return nodes end
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local version, seen, addresses = string.match(all[at + 1], '^(%d+) (%d+) (.*)$')
  if number(version) and #version <= 9 and number(seen) then
    local silent = math.max(now - number(seen), 0)
    nodes[#nodes + 1] = {all[at], version, string.format('%.0f', silent), addresses}
  end
end
return nodes
",
    )
});

/// Removes a node's entry. Key: the nodes. Argument: the node's name.
pub(in super::super) static FORGET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if kind(KEYS[1]) ~= 'hash' then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
",
    )
});
