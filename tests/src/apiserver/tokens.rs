//! Service account tokens: TokenRequest and TokenReview.
//!
//! A token looks like the JWT that a cluster hands out, but is known by itself: nothing is
//! verified by signature.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use serde_json::{Value, json};

use super::failure::Failure;
use super::object::{text, uid};
use super::store::{Key, Store};

/// The audience of the server itself.
const OWN_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";
const ISSUER: &str = OWN_AUDIENCE;
/// Life of a token that asks for none, and the shortest one that is granted.
const DEFAULT_LIFE: u64 = 3600;
const SHORTEST_LIFE: u64 = 600;

/// Every token handed out.
#[derive(Debug)]
pub(super) struct Tokens {
    admin: String,
    issued: BTreeMap<String, Token>,
}

#[derive(Debug, Clone)]
struct Token {
    account: Key,
    account_uid: String,
    pod: Option<Pod>,
    audiences: Vec<String>,
    id: String,
    expires: SystemTime,
}

#[derive(Debug, Clone)]
struct Pod {
    name: String,
    uid: String,
    node: Option<(String, String)>,
}

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// The kubeconfig that the fixture wrote.
    Admin,
    /// Namespace and name of a service account.
    Account(String, String),
}

impl Tokens {
    pub(super) fn new(admin: String) -> Self {
        Self {
            admin,
            issued: BTreeMap::new(),
        }
    }

    /// Who a bearer token belongs to, when it is meant for this server.
    pub(super) fn caller(&self, store: &Store, now: SystemTime, token: &str) -> Option<Caller> {
        if token == self.admin {
            return Some(Caller::Admin);
        }
        let found = self.valid(store, now, token).ok()?;
        let own = found.audiences.iter().any(|name| name == OWN_AUDIENCE);
        own.then(|| Caller::Account(found.account.0.clone(), found.account.1.clone()))
    }

    /// Answers a TokenRequest for a service account.
    pub(super) fn request(
        &mut self,
        store: &Store,
        now: SystemTime,
        account: &Key,
        body: &Value,
    ) -> Result<Value, Failure> {
        let found = store
            .get("serviceaccounts", account)
            .ok_or_else(|| Failure::not_found("serviceaccounts", &account.1))?;
        let account_uid = text(found, "/metadata/uid").to_owned();
        let spec = &body["spec"];
        let mut audiences: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        if audiences.is_empty() {
            audiences.push(OWN_AUDIENCE.to_owned());
        }
        let life = spec["expirationSeconds"].as_u64().unwrap_or(DEFAULT_LIFE);
        if life < SHORTEST_LIFE {
            return Err(Failure::invalid(format!(
                "spec.expirationSeconds: Invalid value: {life}: may not specify a duration less \
                 than 10 minutes"
            )));
        }
        let pod = bound_pod(store, account, &spec["boundObjectRef"])?;
        let token = Token {
            account: account.clone(),
            account_uid,
            pod,
            audiences,
            id: uid(),
            expires: now + Duration::from_secs(life),
        };
        let text = token.write(now);
        let expiry = humantime::format_rfc3339_seconds(token.expires).to_string();
        self.issued.insert(text.clone(), token);
        let mut answer = body.clone();
        answer["apiVersion"] = json!("authentication.k8s.io/v1");
        answer["kind"] = json!("TokenRequest");
        answer["metadata"] = json!({"name": account.1, "namespace": account.0});
        answer["status"] = json!({"token": text, "expirationTimestamp": expiry});
        Ok(answer)
    }

    /// Answers a TokenReview.
    pub(super) fn review(&self, store: &Store, now: SystemTime, body: &Value) -> Value {
        let spec = &body["spec"];
        let asked: Vec<&str> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let asked = if asked.is_empty() {
            vec![OWN_AUDIENCE]
        } else {
            asked
        };
        let mut answer = body.clone();
        answer["apiVersion"] = json!("authentication.k8s.io/v1");
        answer["kind"] = json!("TokenReview");
        answer["status"] = match self.valid(store, now, text(spec, "/token")) {
            Err(error) => json!({"user": {}, "error": error}),
            Ok(token) => {
                let shared: Vec<&String> = token
                    .audiences
                    .iter()
                    .filter(|name| asked.contains(&name.as_str()))
                    .collect();
                if shared.is_empty() {
                    let error = format!(
                        "[invalid bearer token, token audiences {:?} is invalid for the target \
                         audiences {asked:?}]",
                        token.audiences
                    );
                    json!({"user": {}, "error": error})
                } else {
                    json!({"authenticated": true, "audiences": shared, "user": token.user()})
                }
            }
        };
        answer
    }

    /// A token that holds now: not expired, and what it is bound to still exists.
    fn valid(&self, store: &Store, now: SystemTime, text_of: &str) -> Result<&Token, String> {
        let token = self.issued.get(text_of).ok_or("invalid bearer token")?;
        if now >= token.expires {
            return Err("[invalid bearer token, service account token has expired]".to_owned());
        }
        let same = |resource: &str, key: &Key, uid: &str| {
            store
                .get(resource, key)
                .is_some_and(|object| text(object, "/metadata/uid") == uid)
        };
        if !same("serviceaccounts", &token.account, &token.account_uid) {
            return Err("[invalid bearer token, service account has been deleted]".to_owned());
        }
        if let Some(pod) = &token.pod {
            let key = (token.account.0.clone(), pod.name.clone());
            if !same("pods", &key, &pod.uid) {
                return Err("[invalid bearer token, pod has been deleted]".to_owned());
            }
        }
        Ok(token)
    }
}

impl Token {
    fn write(&self, now: SystemTime) -> String {
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        };
        let (namespace, account) = &self.account;
        let mut about = json!({
            "namespace": namespace,
            "serviceaccount": {"name": account, "uid": self.account_uid},
        });
        if let Some(pod) = &self.pod {
            about["pod"] = json!({"name": pod.name, "uid": pod.uid});
            if let Some((name, uid)) = &pod.node {
                about["node"] = json!({"name": name, "uid": uid});
            }
        }
        let claims = json!({
            "iss": ISSUER,
            "aud": self.audiences,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "jti": self.id,
            "iat": seconds(now),
            "nbf": seconds(now),
            "exp": seconds(self.expires),
            "kubernetes.io": about,
        });
        let header = json!({"alg": "RS256", "kid": "fixture"});
        let signature: [u8; 32] = rand::rng().random();
        [
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string()),
            URL_SAFE_NO_PAD.encode(signature),
        ]
        .join(".")
    }

    fn user(&self) -> Value {
        let (namespace, account) = &self.account;
        let extra = "authentication.kubernetes.io";
        let mut user = json!({
            "username": format!("system:serviceaccount:{namespace}:{account}"),
            "uid": self.account_uid,
            "groups": [
                "system:serviceaccounts",
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated",
            ],
            "extra": {format!("{extra}/credential-id"): [format!("JTI={}", self.id)]},
        });
        if let Some(pod) = &self.pod {
            user["extra"][format!("{extra}/pod-name")] = json!([pod.name]);
            user["extra"][format!("{extra}/pod-uid")] = json!([pod.uid]);
            if let Some((name, uid)) = &pod.node {
                user["extra"][format!("{extra}/node-name")] = json!([name]);
                user["extra"][format!("{extra}/node-uid")] = json!([uid]);
            }
        }
        user
    }
}

fn bound_pod(store: &Store, account: &Key, reference: &Value) -> Result<Option<Pod>, Failure> {
    let name = text(reference, "/name");
    if reference.is_null() || text(reference, "/kind") != "Pod" {
        return Ok(None);
    }
    let pod = store
        .get("pods", &(account.0.clone(), name.to_owned()))
        .ok_or_else(|| Failure::not_found("pods", name))?;
    let uid = text(pod, "/metadata/uid");
    let wanted = text(reference, "/uid");
    if !wanted.is_empty() && wanted != uid {
        let why = format!("the UID in the bound object reference ({wanted}) does not match");
        return Err(Failure::conflict("pods", name, &why));
    }
    let owner = text(pod, "/spec/serviceAccountName");
    if owner != account.1 {
        return Err(Failure::bad_request(format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different \
             serviceaccount \"{owner}\"",
            account.1
        )));
    }
    let node = text(pod, "/spec/nodeName");
    let node = (!node.is_empty()).then(|| {
        let found = store.get("nodes", &(String::new(), node.to_owned()));
        let uid = found.map_or("", |node| text(node, "/metadata/uid"));
        (node.to_owned(), uid.to_owned())
    });
    Ok(Some(Pod {
        name: name.to_owned(),
        uid: uid.to_owned(),
        node,
    }))
}
