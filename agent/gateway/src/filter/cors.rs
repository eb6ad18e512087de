//! Cross-origin requests (the CORS protocol of the Fetch standard; Gateway API `HTTPCORSFilter`).

use agent_model::gateway::{Cors, OriginMatch};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN,
    VARY,
};
use http::{HeaderMap, Method};

use super::Unusable;

/// Fields that only the gateway writes where this filter is in force.
static OWNED: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// A CORS filter with its header values written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsRules {
    origins: Box<[OriginMatch]>,
    credentials: bool,
    methods: List,
    headers: List,
    expose: List,
    max_age: Option<HeaderValue>,
}

/// What a list of names says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum List {
    Empty,
    Any,
    Names(HeaderValue),
}

/// What one request may do, kept until its response comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    origin: Option<HeaderValue>,
}

impl CorsRules {
    /// Writes the values out.
    pub fn compile(cors: &Cors) -> Result<Self, Unusable> {
        let list = |name: &HeaderName, names: &[std::sync::Arc<str>]| {
            if names.iter().any(|name| &**name == "*") {
                return Ok(List::Any);
            }
            if names.is_empty() {
                return Ok(List::Empty);
            }
            HeaderValue::from_str(&names.join(", "))
                .map(List::Names)
                .map_err(|_| Unusable::HeaderValue(name.as_str().to_owned()))
        };
        Ok(Self {
            origins: cors.allow_origins.clone().into(),
            credentials: cors.allow_credentials,
            methods: list(&ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods)?,
            headers: list(&ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers)?,
            expose: list(&ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers)?,
            max_age: cors.max_age.map(|age| HeaderValue::from(age.as_secs())),
        })
    }

    /// What the request's origin is granted; `None` for requests without one.
    pub fn grant(&self, headers: &HeaderMap) -> Option<Granted> {
        let origin = headers.get(ORIGIN)?;
        let text = origin.to_str().unwrap_or_default();
        let allowed = self.origins.iter().any(|one| one.matches(text));
        Some(Granted {
            origin: allowed.then(|| match self.answers_any() {
                true => HeaderValue::from_static("*"),
                false => origin.clone(),
            }),
        })
    }

    /// True for a preflight request, which the gateway answers itself: it never reaches a backend
    /// and carries no credentials.
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The header fields of the answer to a preflight request.
    pub fn answer(&self, granted: &Granted, asked: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        self.finish(granted, &mut answer);
        if granted.origin.is_none() {
            return answer;
        }
        let lists = [
            (
                &self.methods,
                ACCESS_CONTROL_ALLOW_METHODS,
                ACCESS_CONTROL_REQUEST_METHOD,
            ),
            (
                &self.headers,
                ACCESS_CONTROL_ALLOW_HEADERS,
                ACCESS_CONTROL_REQUEST_HEADERS,
            ),
        ];
        for (list, name, wanted) in lists {
            match list {
                List::Empty => {}
                List::Names(names) => {
                    answer.insert(name, names.clone());
                }
                // With credentials `*` is a name like others: what was asked for is named.
                List::Any => {
                    if let Some(wanted) = asked.get(wanted) {
                        answer.insert(name, wanted.clone());
                    }
                }
            }
        }
        if let Some(age) = &self.max_age {
            answer.insert(ACCESS_CONTROL_MAX_AGE, age.clone());
        }
        answer
    }

    /// Completes a response. What the backend says of CORS does not count.
    pub fn finish(&self, granted: &Granted, headers: &mut HeaderMap) {
        for name in &OWNED {
            headers.remove(name);
        }
        if !self.answers_any() {
            headers.append(VARY, HeaderValue::from_name(ORIGIN));
        }
        let Some(origin) = &granted.origin else {
            return;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        let expose = match &self.expose {
            List::Empty => return,
            // With credentials scripts would look for a header of that name.
            List::Any if self.credentials => return,
            List::Any => HeaderValue::from_static("*"),
            List::Names(names) => names.clone(),
        };
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
    }

    /// True when every origin gets the same answer. With credentials browsers refuse `*`.
    fn answers_any(&self) -> bool {
        !self.credentials && self.origins.contains(&OriginMatch::Any)
    }
}
