//! Whether a token holds: signature first, then what it says.

use std::time::{SystemTime, UNIX_EPOCH};

use super::LEEWAY;
use super::claims::{Json, Members, Times, Token};
use super::key_set::KeySet;
use super::refusal::Refusal;
use super::unverified::Unverified;

/// Verifies a token whose issuer is the rule's: when it is valid, if it holds now.
pub(super) fn verify(
    token: &Unverified<'_>,
    audiences: &[String],
    keys: &KeySet,
    now: SystemTime,
) -> Result<Times, Refusal> {
    let (signed, members) = (token.signed.as_bytes(), &token.members);
    keys.verify(
        token.algorithm,
        token.kid.as_deref(),
        signed,
        &token.signature,
    )?;
    check_audience(members, audiences)?;
    members.text("sub").map_err(|_| Refusal::Malformed("sub"))?;
    let times = Times {
        not_before: time(members, "nbf")?,
        expires: time(members, "exp")?,
    };
    time(members, "iat")?;
    times.check(now)?;
    Ok(times)
}

/// What a verified token says. The texts of `words` are lists of words.
pub(super) fn accepted(token: Unverified<'_>, times: Times, words: &[String]) -> Token {
    let mut members = token.members;
    let text = |name| members.text(name).ok().flatten();
    let principal = text("iss").zip(text("sub"));
    let principal = principal.map(|(issuer, subject)| format!("{issuer}/{subject}").into());
    members.split_words(words.iter().map(String::as_str));
    Token {
        claims: members.into_claims(),
        principal,
        payload: token.payload.into(),
        times,
    }
}

impl Times {
    pub(super) fn check(self, now: SystemTime) -> Result<(), Refusal> {
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let leeway = LEEWAY.as_secs();
        if self
            .expires
            .is_some_and(|expires| now >= expires.saturating_add(leeway))
        {
            return Err(Refusal::Expired);
        }
        if self
            .not_before
            .is_some_and(|from| now.saturating_add(leeway) < from)
        {
            return Err(Refusal::NotYetValid);
        }
        Ok(())
    }
}

/// A list that holds anything but texts is no audience, whatever else it holds.
fn check_audience(members: &Members, wanted: &[String]) -> Result<(), Refusal> {
    const MALFORMED: Refusal = Refusal::Malformed("aud");
    let is_wanted = |text: &str| wanted.iter().any(|audience| audience == text);
    let mut found = wanted.is_empty();
    match members.get("aud") {
        None => {}
        Some(Json::Text(text)) => found |= is_wanted(text),
        Some(Json::List(items)) => {
            for item in items {
                let Json::Text(text) = item else {
                    return Err(MALFORMED);
                };
                found |= is_wanted(text);
            }
        }
        Some(_) => return Err(MALFORMED),
    }
    if found {
        Ok(())
    } else {
        Err(Refusal::Audience)
    }
}

/// A NumericDate (RFC 7519), rounded down.
fn time(members: &Members, name: &'static str) -> Result<Option<u64>, Refusal> {
    match members.get(name) {
        None => Ok(None),
        Some(Json::Plain(text)) => match text.parse() {
            Ok(seconds) => Ok(Some(seconds)),
            Err(_) => Err(Refusal::Malformed(name)),
        },
        // Rounded down; larger than any u64 saturates: it is a time that never comes.
        Some(Json::Fraction(seconds)) if *seconds >= 0.0 => Ok(Some(*seconds as u64)),
        Some(_) => Err(Refusal::Malformed(name)),
    }
}
