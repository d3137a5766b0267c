//! The script for the inboxes of the nodes.

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
