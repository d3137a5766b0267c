//! The scripts for the inboxes of the nodes.

use std::sync::LazyLock;

use super::Script;

/// Adds a message to an inbox. A key that is no list is replaced. Key: the inbox. Arguments: the maximum number of
/// messages, how long the inbox exists in milliseconds, the message. Returns 0 if the inbox is full, or else 1.
pub(in super::super) static POST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if kind(KEYS[1]) == 'list' then
  if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
else
  redis.call('DEL', KEYS[1])
end
redis.call('RPUSH', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
",
    )
});

/// Takes messages out of an inbox. Key: the inbox. Arguments: the maximum number of messages, the maximum length of one,
/// and of all. A longer message is returned empty.
pub(in super::super) static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if kind(KEYS[1]) ~= 'list' then return {} end
local count, one, all = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local messages, total = {}, 0
while #messages < count do
  local message = redis.call('LINDEX', KEYS[1], #messages)
  if message and #message > one then message = '' end
  if not message or total + #message > all then break end
  total = total + #message
  messages[#messages + 1] = message
end
if #messages > 0 then redis.call('LTRIM', KEYS[1], #messages, -1) end
return messages
",
    )
});
