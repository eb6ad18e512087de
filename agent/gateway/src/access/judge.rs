//! One request before its guard.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use agent_model::{Action, PolicyKey, Reason};
use agent_policy::http::{Decision, Request, Ruleset};
use agent_policy::jwt::{Authenticated, Cache, Carrier, KeySet, Refusal as BadToken, Token};
use http::{HeaderMap, HeaderName};

use super::Guard;
use crate::normalize::drop_shadows;
use crate::refusal::Refusal;

/// What policies changed in a request that they let pass.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Its headers, where they are others now: tokens taken out, claims put in.
    pub headers: Option<HeaderMap>,
    /// The headers that its rule is chosen by, where rules put claims into headers: the client's,
    /// with claims as the token proves them in place of what the client says of them.
    pub proven: Option<HeaderMap>,
    /// Its query, where a token was taken out of it.
    pub query: Option<String>,
    /// The token that was verified.
    pub token: Option<Arc<Token>>,
}

/// A request that does not pass.
#[derive(Debug)]
pub struct Refused {
    /// What the client is told.
    pub refusal: Refusal,
    /// The key set that might have said otherwise, were it there or newer.
    pub missing: Option<Arc<str>>,
}

/// What a policy under trial would have done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The policy.
    pub policy: PolicyKey,
    /// What it does on a match.
    pub action: Action,
    /// The rule that matched, from 0.
    pub rule: Option<usize>,
}

impl Trial {
    /// True when the request would have been refused, were this the only policy: by a DENY that
    /// matched, or an ALLOW that did not.
    pub fn would_refuse(&self) -> bool {
        (self.action == Action::Deny) == self.rule.is_some()
    }
}

/// Key sets by the address they are fetched from.
pub(crate) type Remote = HashMap<Arc<str>, Arc<KeySet>>;

impl Guard {
    /// Judges a request, whose `token` is not known yet; `query` is without `?`. Tells `trials`
    /// of policies that are not enforced, whatever becomes of the request.
    pub(crate) fn judge(
        &self,
        request: Request<'_>,
        query: Option<&str>,
        remote: &Remote,
        cache: &mut Cache,
        now: SystemTime,
        trials: &mut Vec<Trial>,
    ) -> Result<Admitted, Refused> {
        self.ask_gateway().map_err(|refusal| Refused {
            refusal,
            missing: None,
        })?;
        let carrier = Carrier {
            headers: request.headers,
            query,
        };
        let authenticated =
            self.tokens
                .authenticate(carrier, |address| remote.get(address), cache, now);
        let authenticated = authenticated.map_err(|refused| Refused {
            refusal: of_token(refused.why),
            missing: refused.missing_in.map(Arc::from),
        })?;
        let admitted = self.rewritten(authenticated.as_ref(), request.headers, query);
        let request = Request {
            headers: admitted.headers.as_ref().unwrap_or(request.headers),
            token: authenticated.as_ref().map(|found| &*found.token),
            ..request
        };
        trials.extend(self.rules.dry_runs(&request).map(|verdict| Trial {
            policy: verdict.policy.clone(),
            action: verdict.action,
            rule: verdict.rule,
        }));
        match decided(&self.rules, &request) {
            Ok(()) => Ok(Admitted {
                token: authenticated.map(|found| found.token),
                ..admitted
            }),
            Err(by_policy) => {
                let is_token_missing = !self.tokens.is_empty() && self.rules.wants_token(&request);
                Err(Refused {
                    refusal: match is_token_missing {
                        true => without_token(&by_policy),
                        false => by_policy,
                    },
                    missing: None,
                })
            }
        }
    }

    /// Judges what a route has made of a request that this guard has let pass, with its token.
    pub(crate) fn judge_changed(&self, request: &Request<'_>) -> Result<(), Refusal> {
        decided(&self.rules, request)
    }

    /// Headers that are not for routes to change: tokens come in them, or say who asks.
    pub(crate) fn headers_of_tokens(&self) -> impl Iterator<Item = &HeaderName> {
        self.tokens.headers()
    }

    fn rewritten(
        &self,
        authenticated: Option<&Authenticated<'_>>,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Admitted {
        if self.tokens.is_empty() {
            return Admitted::default();
        }
        let mut headers = headers.clone();
        drop_shadows(&mut headers, self.tokens.outputs());
        let says_claims = self.tokens.outputs().next().is_some();
        let proven = says_claims.then(|| {
            let mut proven = headers.clone();
            self.tokens.assert_claims(authenticated, &mut proven);
            proven
        });
        let query = self.tokens.rewrite(authenticated, &mut headers, query);
        Admitted {
            headers: Some(headers),
            proven,
            query,
            token: None,
        }
    }
}

fn of_token(why: BadToken) -> Refusal {
    let reason = match why {
        BadToken::KeysUnavailable => Reason::KeysUnavailable,
        _ => Reason::TokenInvalid,
    };
    Refusal::new(reason, why.to_string())
}

fn without_token(by_policy: &Refusal) -> Refusal {
    let detail = format!("it brought no token: {}", by_policy.detail);
    Refusal::new(Reason::TokenMissing, detail)
}

/// What policies say of a request, or of a connection.
pub(super) fn decided(rules: &Ruleset, request: &Request<'_>) -> Result<(), Refusal> {
    match rules.decide(request) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny {
            reason,
            policy,
            rule,
        } => Err(by_policy(reason, policy, rule)),
    }
}

fn by_policy(reason: Reason, policy: &PolicyKey, rule: Option<usize>) -> Refusal {
    let detail = match (reason, rule) {
        (Reason::PolicyUnknown, _) => format!("policy {policy} cannot be read"),
        (_, Some(rule)) => format!("rule {rule} of policy {policy} refuses it"),
        (_, None) => format!("no rule of an ALLOW policy takes it, {policy} is one"),
    };
    Refusal::new(reason, detail)
}
