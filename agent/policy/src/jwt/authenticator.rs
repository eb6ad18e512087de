//! The token rules of one place, applied to requests.

use std::sync::Arc;
use std::time::SystemTime;

use agent_model::PolicyKey;
use agent_model::authentication::{Authentication, ClaimToHeader, JwtRule, KeySource};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::cache::{Cache, Entry, Fingerprint, fingerprint};
use super::claims::{Claim, Times, Token};
use super::key_set::{KeySet, KeySetError};
use super::places::{Found, Place, Places};
use super::refusal::Refusal;
use super::unverified::Unverified;
use super::verify::{accepted, verify};

/// The token rules that apply to the requests of one service or listener.
#[derive(Debug, Clone, Default)]
pub struct Authenticator {
    rules: Vec<Rule>,
    places: Places,
}

#[derive(Debug, Clone)]
struct Rule {
    issuer: String,
    audiences: Vec<String>,
    words: Vec<String>,
    keys: Keys,
    payload_header: Option<HeaderName>,
    claim_headers: Vec<(HeaderName, Vec<String>)>,
    forward: bool,
    /// Of what a token was verified against.
    fingerprint: Fingerprint,
}

#[derive(Debug, Clone)]
enum Keys {
    Inline(Arc<KeySet>),
    Remote(Arc<str>),
    /// What the policy holds cannot be read.
    Unreadable,
}

/// Headers that say where a message goes and where it ends; no claim has a say in that.
const OF_THE_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What is wrong with a policy. The rest of it is in force; tokens it would have accepted are
/// refused or not seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationFault {
    /// No header has this name, or one that belongs to the connection.
    #[error("{0:?} is not a header to find a token in or to set from one")]
    HeaderName(String),
    /// The keys of this issuer cannot be read.
    #[error("the keys of issuer {issuer:?}: {source}")]
    Keys {
        /// The issuer.
        issuer: String,
        /// What is wrong.
        source: KeySetError,
    },
}

/// What a request carries tokens in.
#[derive(Debug, Clone, Copy)]
pub struct Carrier<'r> {
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// Its query, without `?`.
    pub query: Option<&'r str>,
}

/// A request with a token that holds.
#[derive(Debug, Clone)]
pub struct Authenticated<'a> {
    /// What the token says.
    pub token: Arc<Token>,
    rule: &'a Rule,
    place: Place<'a>,
}

/// A request whose token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused<'a> {
    /// Why.
    pub why: Refusal,
    /// The key set to fetch, where the issuer's keys never came or it may have a new one: see
    /// [`KeySets::key_missed`](super::KeySets::key_missed).
    pub missing_in: Option<&'a str>,
}

impl Authenticator {
    /// Compiles policies, and says what is wrong with them.
    pub fn compile<'p>(
        policies: impl IntoIterator<Item = &'p Authentication>,
    ) -> (Self, Vec<(PolicyKey, AuthenticationFault)>) {
        let (mut compiled, mut faults) = (Self::default(), Vec::new());
        for policy in policies {
            for rule in &policy.rules {
                let found = compiled.add(rule);
                faults.extend(found.into_iter().map(|fault| (policy.key(), fault)));
            }
        }
        (compiled, faults)
    }

    fn add(&mut self, rule: &JwtRule) -> Vec<AuthenticationFault> {
        let mut faults = self.places.add(self.rules.len(), rule);
        self.rules.push(Rule::compile(rule, &mut faults));
        faults
    }

    /// True when no policy applies: no token is looked at.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Addresses of the key sets that have to be fetched.
    pub fn remote_keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().filter_map(|rule| match &rule.keys {
            Keys::Remote(address) => Some(address),
            Keys::Inline(_) | Keys::Unreadable => None,
        })
    }

    /// Finds and verifies the token of a request; `None` when it has none. `remote` gives the keys
    /// of an address, as [`KeySets`](super::KeySets) holds them.
    pub fn authenticate<'k>(
        &self,
        carrier: Carrier<'_>,
        remote: impl Fn(&str) -> Option<&'k Arc<KeySet>>,
        cache: &mut Cache,
        now: SystemTime,
    ) -> Result<Option<Authenticated<'_>>, Refused<'_>> {
        let (mut first, mut several) = (None, false);
        self.places.find(carrier.headers, carrier.query, |found| {
            several |= first.is_some();
            first = Some(found);
        });
        if several {
            return Err(Refusal::SeveralTokens.into());
        }
        match first {
            None => Ok(None),
            Some(found) => self.verify(found, remote, cache, now).map(Some),
        }
    }

    fn verify<'a, 'k>(
        &'a self,
        found: Found<'a, '_>,
        remote: impl Fn(&str) -> Option<&'k Arc<KeySet>>,
        cache: &mut Cache,
        now: SystemTime,
    ) -> Result<Authenticated<'a>, Refused<'a>> {
        if found.token.len() > super::MAX_TOKEN {
            return Err(Refusal::TooLong.into());
        }
        let candidates = || found.rules.iter().map(|index| &self.rules[*index]);
        let known = fingerprint(found.token.as_bytes());
        if let Some(entry) = cache.get(&known) {
            let rule = candidates().find(|rule| entry.is_of(rule, rule.keys.get(&remote)));
            if let Some(rule) = rule {
                return entry.recall(rule, found.place, now);
            }
        }
        let unverified = Unverified::read(found.token)?;
        let mut refused = Refused::from(Refusal::UnknownIssuer);
        let of_issuer = |rule: &&Rule| unverified.members.text("iss") == Ok(Some(&rule.issuer));
        for rule in candidates().filter(of_issuer) {
            match rule.verify(&unverified, rule.keys.get(&remote), now) {
                Ok((times, keys)) => {
                    let token = Arc::new(accepted(unverified, times, &rule.words));
                    cache.insert(
                        known,
                        Entry {
                            token: Arc::clone(&token),
                            keys: Arc::clone(keys),
                            rule: rule.fingerprint,
                        },
                    );
                    let place = found.place;
                    return Ok(Authenticated { token, rule, place });
                }
                Err(why) => refused = rule.refused(why),
            }
        }
        Err(refused)
    }

    /// Headers that only the rules may set.
    pub fn outputs(&self) -> impl Iterator<Item = &HeaderName> {
        self.rules.iter().flat_map(|rule| {
            let claims = rule.claim_headers.iter().map(|(header, _)| header);
            claims.chain(&rule.payload_header)
        })
    }

    /// Headers that tokens come in, and those that only the rules may set.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.places.headers().chain(self.outputs())
    }

    /// Writes what the rules say into a request that passes: as [`assert_claims`](Self::assert_claims)
    /// does, and takes the token out where it is not forwarded. Returns the new query where it
    /// changes.
    pub fn rewrite(
        &self,
        authenticated: Option<&Authenticated<'_>>,
        headers: &mut HeaderMap,
        query: Option<&str>,
    ) -> Option<String> {
        self.clear_outputs(headers);
        let authenticated = authenticated?;
        let new_query = if authenticated.rule.forward {
            None
        } else {
            authenticated.place.remove(headers, query)
        };
        authenticated.set_outputs(headers);
        new_query
    }

    /// Has the headers that only the rules may set say what the token proves, or nothing.
    pub fn assert_claims(
        &self,
        authenticated: Option<&Authenticated<'_>>,
        headers: &mut HeaderMap,
    ) {
        self.clear_outputs(headers);
        if let Some(authenticated) = authenticated {
            authenticated.set_outputs(headers);
        }
    }

    fn clear_outputs(&self, headers: &mut HeaderMap) {
        self.outputs().for_each(|header| {
            headers.remove(header);
        });
    }
}

impl Authenticated<'_> {
    /// Sets the headers that its rule makes of its token.
    fn set_outputs(&self, headers: &mut HeaderMap) {
        let Self { token, rule, .. } = self;
        let payload = rule
            .payload_header
            .as_ref()
            .map(|header| (header, token.payload()));
        let claims =
            rule.claim_headers
                .iter()
                .filter_map(|(header, path)| match token.claim(path)? {
                    Claim::Text(text) => Some((header, &**text)),
                    Claim::List(_) | Claim::Object(_) | Claim::Opaque => None,
                });
        for (header, text) in payload.into_iter().chain(claims) {
            // A claim that is no header value (a line break in it) is left out.
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                headers.insert(header, value);
            }
        }
    }
}

impl Rule {
    fn compile(rule: &JwtRule, faults: &mut Vec<AuthenticationFault>) -> Self {
        let mut header = |name: &str| {
            let header = HeaderName::from_bytes(name.as_bytes()).ok();
            let header = header.filter(|name| !OF_THE_CONNECTION.contains(name));
            if header.is_none() {
                faults.push(AuthenticationFault::HeaderName(name.to_owned()));
            }
            header
        };
        let payload_header = rule
            .output_payload_to_header
            .as_deref()
            .and_then(&mut header);
        let claim_headers = rule.output_claim_to_headers.iter();
        let claim_headers = claim_headers
            .filter_map(
                |ClaimToHeader {
                     header: name,
                     claim,
                 }| Some((header(name)?, claim.clone())),
            )
            .collect();
        let mut words = vec!["scope".to_owned(), "permission".to_owned()];
        words.extend(rule.space_delimited_claims.iter().cloned());
        let fingerprint = demands_fingerprint(&rule.issuer, &rule.audiences, &words);
        Self {
            issuer: rule.issuer.clone(),
            audiences: rule.audiences.clone(),
            words,
            keys: Keys::compile(rule, faults),
            payload_header,
            claim_headers,
            forward: rule.forward_original_token,
            fingerprint,
        }
    }

    fn verify<'k>(
        &self,
        token: &Unverified<'_>,
        keys: Option<&'k Arc<KeySet>>,
        now: SystemTime,
    ) -> Result<(Times, &'k Arc<KeySet>), Refusal> {
        let keys = keys.ok_or(Refusal::KeysUnavailable)?;
        let times = verify(token, &self.audiences, keys, now)?;
        Ok((times, keys))
    }

    fn refused(&self, why: Refusal) -> Refused<'_> {
        let missing_in = match (&self.keys, why) {
            (Keys::Remote(address), Refusal::UnknownKey | Refusal::KeysUnavailable) => {
                Some(&**address)
            }
            _ => None,
        };
        Refused { why, missing_in }
    }
}

impl Keys {
    fn compile(rule: &JwtRule, faults: &mut Vec<AuthenticationFault>) -> Self {
        match &rule.keys {
            KeySource::Remote(address) => Self::Remote(Arc::clone(address)),
            KeySource::Inline(text) => match KeySet::parse(text.as_bytes()) {
                Ok(keys) => Self::Inline(Arc::new(keys)),
                Err(source) => {
                    let issuer = rule.issuer.clone();
                    faults.push(AuthenticationFault::Keys { issuer, source });
                    Self::Unreadable
                }
            },
        }
    }

    fn get<'s, 'k: 's>(
        &'s self,
        remote: impl Fn(&str) -> Option<&'k Arc<KeySet>>,
    ) -> Option<&'s Arc<KeySet>> {
        match self {
            Self::Inline(keys) => Some(keys),
            Self::Remote(address) => remote(address),
            Self::Unreadable => None,
        }
    }
}

impl Entry {
    fn is_of(&self, rule: &Rule, keys: Option<&Arc<KeySet>>) -> bool {
        self.rule == rule.fingerprint && keys.is_some_and(|keys| Arc::ptr_eq(keys, &self.keys))
    }

    /// Of a verified token only the time has to be asked again.
    fn recall<'a>(
        &self,
        rule: &'a Rule,
        place: Place<'a>,
        now: SystemTime,
    ) -> Result<Authenticated<'a>, Refused<'a>> {
        self.token.times.check(now)?;
        let token = Arc::clone(&self.token);
        Ok(Authenticated { token, rule, place })
    }
}

impl From<Refusal> for Refused<'_> {
    fn from(why: Refusal) -> Self {
        Self {
            why,
            missing_in: None,
        }
    }
}

/// Every text with its length before it, so that no two lists look the same.
fn demands_fingerprint(issuer: &str, audiences: &[String], words: &[String]) -> Fingerprint {
    let mut bytes = Vec::new();
    let mut add = |text: &str| {
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    add(issuer);
    add(&audiences.len().to_string());
    audiences.iter().chain(words).for_each(|text| add(text));
    fingerprint(&bytes)
}
