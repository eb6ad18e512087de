//! The script that counts: the generic cell rate algorithm, as local limits have it, on the clock of
//! Redis, so that gateways need not agree on the time. A bucket is the time at which it is full
//! again, and is forgotten then.

use std::time::Duration;

use agent_policy::rate::Rate;

use super::reply::{Reply, command};

/// Of a key, microseconds per token and microseconds per bucket: whether there was a token, and the
/// microseconds until the bucket is full.
pub(super) const TEXT: &str = "\
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token, full = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = tonumber(redis.call('GET', KEYS[1]) or now)
at = math.min(math.max(at, now), now + full)
if at + token - now > full then
  return {0, at - now}
end
at = at + token
redis.call('SET', KEYS[1], string.format('%.0f', at), 'PX', math.ceil((at - now) / 1000))
return {1, at - now}
";

/// A rate in the numbers of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gcra {
    token: u64,
    full: u64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) is_allowed: bool,
    pub(crate) remaining: u32,
    pub(crate) reset: Duration,
    pub(crate) retry_after: Duration,
}

impl Gcra {
    /// `None` for a rate that lets nothing pass: there is nothing to count.
    pub(crate) fn new(rate: Rate) -> Option<Self> {
        let per = u64::try_from(rate.per.as_micros()).unwrap_or(u64::MAX);
        let token = per.checked_div(u64::from(rate.requests))?.max(1);
        // Numbers of Lua are exact up to 2^53; a time in microseconds is of 2^51.
        let full = token.saturating_mul(u64::from(rate.burst.max(1)));
        Some(Self {
            token: token.min(1 << 50),
            full: full.min(1 << 50),
        })
    }

    pub(super) fn arguments(self) -> Vec<u8> {
        format!("{} {}", self.token, self.full).into_bytes()
    }

    pub(super) fn counted(self, reply: &Reply) -> Option<Counted> {
        let Reply::List(list) = reply else {
            return None;
        };
        let [Reply::Number(is_allowed), Reply::Number(until_full)] = list.as_slice() else {
            return None;
        };
        let until_full = u64::try_from(*until_full).ok()?;
        let remaining = self.full.saturating_sub(until_full) / self.token;
        let missing = until_full.saturating_add(self.token);
        let missing = missing.saturating_sub(self.full);
        Some(Counted {
            is_allowed: *is_allowed == 1,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset: Duration::from_micros(until_full),
            retry_after: Duration::from_micros(missing),
        })
    }
}

/// A call of the script with the arguments that [`Gcra::arguments`] gives.
pub(super) fn call(digest: &str, key: &[u8], arguments: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = vec![b"EVALSHA", digest.as_bytes(), b"1", key];
    parts.extend(arguments.split(|byte| *byte == b' '));
    command(&parts)
}
