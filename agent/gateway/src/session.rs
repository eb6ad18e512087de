//! Sessions: a client stays with one endpoint, by what it carries (Gateway API,
//! `sessionPersistence`).
//!
//! What it carries names the endpoint by a hash, with the times that count and a check that it was
//! written for this route by a gateway; nothing of the mesh can be read from it. It is no secret
//! and gives no right: who makes one up chooses an endpoint that it could have been sent to anyway,
//! and lengthens its own session at most. What does not check, is too old or names an endpoint
//! that may not be chosen now is as if it were not there. Every replica of a gateway understands
//! what the others wrote.

use std::sync::Arc;
use std::time::Duration;

use agent_model::NamespacedHostname;
use agent_model::gateway::{Persistence, SessionPersistence};
use http::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderName, SET_COOKIE};

use crate::balance::hashed;
use crate::cookie::cookie;

/// Digits of a token: service, endpoint, two times and the check.
const LENGTH: usize = 16 + 16 + 8 + 8 + 16;
/// How far the clocks of two replicas may differ, in seconds.
const SKEW: u32 = 60;

/// How clients stay with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    carrier: Carrier,
    /// Seconds.
    absolute: Option<u32>,
    /// Seconds.
    idle: Option<u32>,
    /// What tokens are written for.
    scope: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Carrier {
    Cookie { name: Arc<str>, permanent: bool },
    Header(HeaderName),
}

/// A client's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Hash of the service's name and port.
    pub service: u64,
    /// Key of the endpoint.
    pub endpoint: u64,
    /// When it began, in seconds since 1970.
    began: u32,
    /// When it was used last, as far as that was written down.
    used: u32,
}

impl Sessions {
    /// Of a rule or a policy, for what it is said of: tokens for something else do not count.
    pub fn new(said: &SessionPersistence, scope: &str) -> Result<Self, InvalidHeaderName> {
        let seconds = |limit: Option<Duration>| {
            let limit = limit.filter(|limit| !limit.is_zero());
            limit.map(|limit| u32::try_from(limit.as_secs().max(1)).unwrap_or(u32::MAX))
        };
        Ok(Self {
            carrier: match said.kind {
                Persistence::Cookie { permanent } => Carrier::Cookie {
                    name: Arc::clone(&said.name),
                    permanent,
                },
                Persistence::Header => Carrier::Header(said.name.parse()?),
            },
            absolute: seconds(said.absolute_timeout),
            idle: seconds(said.idle_timeout),
            scope: hashed(scope.as_bytes()),
        })
    }

    /// The session of a request, if it has one that counts. `now` is in seconds since 1970.
    pub fn read(&self, headers: &HeaderMap, now: u32) -> Option<Session> {
        let token = match &self.carrier {
            Carrier::Cookie { name, .. } => cookie(headers, name)?,
            Carrier::Header(name) => headers.get(name)?.as_bytes(),
        };
        let session = self.parse(token)?;
        let is_younger = |time: u32, limit: Option<u32>| {
            time <= now.saturating_add(SKEW)
                && limit.is_none_or(|limit| now.saturating_sub(time) < limit)
        };
        let counts =
            is_younger(session.began, self.absolute) && is_younger(session.used, self.idle);
        counts.then_some(session)
    }

    /// What the client has to be told after an answer of an endpoint; `None` when it knows.
    pub fn write(
        &self,
        known: Option<Session>,
        (service, endpoint): (u64, u64),
        secure: bool,
        now: u32,
    ) -> Option<(HeaderName, HeaderValue)> {
        let same = known.filter(|known| (known.service, known.endpoint) == (service, endpoint));
        // That it was used matters only where that counts.
        if same.is_some_and(|known| self.idle.is_none() || known.used >= now) {
            return None;
        }
        let session = Session {
            service,
            endpoint,
            began: same.map_or(now, |known| known.began),
            used: now,
        };
        let token = self.token(session);
        match &self.carrier {
            Carrier::Header(name) => {
                let value = HeaderValue::from_str(&token).ok()?;
                Some((name.clone(), value))
            }
            Carrier::Cookie { name, permanent } => {
                let mut text = format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax");
                if secure {
                    text.push_str("; Secure");
                }
                if let (true, Some(absolute)) = (permanent, self.absolute) {
                    let left = absolute.saturating_sub(now.saturating_sub(session.began));
                    text.push_str(&format!("; Max-Age={left}"));
                }
                Some((SET_COOKIE, HeaderValue::from_str(&text).ok()?))
            }
        }
    }

    fn token(&self, session: Session) -> String {
        let Session {
            service,
            endpoint,
            began,
            used,
        } = session;
        let body = format!("{service:016x}{endpoint:016x}{began:08x}{used:08x}");
        format!("{body}{:016x}", self.check(body.as_bytes()))
    }

    fn parse(&self, token: &[u8]) -> Option<Session> {
        let token = std::str::from_utf8(token).ok()?;
        let is_written = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if token.len() != LENGTH || !token.bytes().all(is_written) {
            return None;
        }
        let (body, check) = token.split_at(LENGTH - 16);
        let number = |from: usize, to: usize| u64::from_str_radix(&body[from..to], 16).ok();
        let time = |from: usize| u32::from_str_radix(&body[from..from + 8], 16).ok();
        if u64::from_str_radix(check, 16).ok()? != self.check(body.as_bytes()) {
            return None;
        }
        Some(Session {
            service: number(0, 16)?,
            endpoint: number(16, 32)?,
            began: time(32)?,
            used: time(40)?,
        })
    }

    fn check(&self, body: &[u8]) -> u64 {
        let mut text = self.scope.to_be_bytes().to_vec();
        text.extend_from_slice(body);
        hashed(&text)
    }
}

/// What a session knows a port of a service by.
pub(crate) fn service_hash(service: &NamespacedHostname, port: u16) -> u64 {
    hashed(format!("{service}:{port}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(absolute: Option<u64>, idle: Option<u64>) -> SessionPersistence {
        SessionPersistence {
            name: "s".into(),
            kind: Persistence::Cookie { permanent: true },
            absolute_timeout: absolute.map(Duration::from_secs),
            idle_timeout: idle.map(Duration::from_secs),
        }
    }

    fn carried(value: &str) -> HeaderMap {
        let cookie = value.split(';').next().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("cookie", format!("a=b; {cookie}; c=d").parse().unwrap());
        headers
    }

    const AT: (u64, u64) = (5, 77);

    #[test]
    fn what_is_written_is_read_until_it_is_too_old() {
        let sessions = Sessions::new(&cookies(Some(100), Some(30)), "r").unwrap();
        let (name, value) = sessions.write(None, AT, true, 1000).unwrap();
        let value = value.to_str().unwrap();
        assert_eq!(name, SET_COOKIE);
        assert!(value.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=100"));
        let headers = carried(value);
        let session = sessions.read(&headers, 1029).unwrap();
        assert_eq!((session.service, session.endpoint), AT);
        assert_eq!(sessions.read(&headers, 1030), None, "idle for too long");
        // Used in time, it goes on, and ends in any case.
        let (_, value) = sessions.write(Some(session), AT, false, 1029).unwrap();
        let value = value.to_str().unwrap();
        assert!(value.ends_with("SameSite=Lax; Max-Age=71"), "{value}");
        let headers = carried(value);
        assert!(sessions.read(&headers, 1058).is_some());
        let long = Sessions::new(&cookies(Some(100), None), "r").unwrap();
        assert!(long.read(&headers, 1099).is_some());
        assert_eq!(long.read(&headers, 1100), None);
        assert_eq!(long.read(&headers, 900), None, "from the future");
        // Nothing to say while nothing changes.
        let known = long.read(&headers, 1050);
        assert_eq!(long.write(known, AT, false, 1050), None);
        assert!(long.write(known, (5, 78), false, 1050).is_some());
        assert!(long.write(known, (6, 77), false, 1050).is_some());
    }

    #[test]
    fn what_was_not_written_for_this_does_not_count() {
        let header = SessionPersistence {
            name: "X-Session".into(),
            kind: Persistence::Header,
            ..cookies(None, None)
        };
        let sessions = Sessions::new(&header, "route a").unwrap();
        let (name, value) = sessions.write(None, AT, false, 9).unwrap();
        assert_eq!(name, "x-session");
        let headers = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("x-session", HeaderValue::from_bytes(value).unwrap());
            headers
        };
        assert!(sessions.read(&headers(value.as_bytes()), 9).is_some());
        let other = Sessions::new(&header, "route b").unwrap();
        assert_eq!(other.read(&headers(value.as_bytes()), 9), None);
        for at in 0..LENGTH {
            let mut changed = value.as_bytes().to_vec();
            changed[at] = match changed[at] {
                b'0' => b'1',
                _ => b'0',
            };
            assert_eq!(sessions.read(&headers(&changed), 9), None, "digit {at}");
        }
        let upper = value.to_str().unwrap().to_uppercase();
        for wrong in [
            &b""[..],
            b"0",
            &value.as_bytes()[1..],
            &[0xff; LENGTH],
            b"+",
        ] {
            assert_eq!(sessions.read(&headers(wrong), 9), None);
        }
        assert!(
            upper == value.to_str().unwrap()
                || sessions.read(&headers(upper.as_bytes()), 9).is_none()
        );
        let bad = SessionPersistence {
            name: "no header".into(),
            ..header
        };
        assert!(Sessions::new(&bad, "r").is_err());
    }
}
