use std::cmp::Reverse;

use agent_model::gateway::{NamedMatch, PathMatch, RouteKind, ValueMatch};
use agent_policy::pattern::MAX_PATTERN_BYTES;
use proptest::prelude::*;

use super::*;

/// Routes in the simplest form that shows every rule of precedence.
#[derive(Debug, Clone)]
struct Plain {
    hostnames: Vec<Hostname>,
    created: u64,
    key: RouteKey,
    rules: Vec<Vec<HttpMatch>>,
}

#[derive(Debug, Clone)]
struct Asked {
    host: String,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
}

impl Asked {
    fn get(host: &str, target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        Self {
            host: host.to_owned(),
            path: path.to_owned(),
            query,
            method: Method::GET,
            headers: HeaderMap::new(),
        }
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
        }
    }
}

/// (route, rule)
type Found = (usize, usize);

fn index(routes: &[Plain]) -> (Index<Found>, Vec<Fault>) {
    let entries = routes.iter().enumerate().flat_map(|(number, route)| {
        let rules = route.rules.iter().enumerate();
        rules.map(move |(rule, matches)| Entry {
            hostnames: route.hostnames.clone(),
            created: route.created,
            route: &route.key,
            rule,
            matches,
            value: (number, rule),
        })
    });
    Index::build(entries)
}

fn route(name: &str, hostnames: &[&str], rules: Vec<Vec<HttpMatch>>) -> Plain {
    Plain {
        hostnames: hostnames.iter().map(|name| name.parse().unwrap()).collect(),
        created: 0,
        key: RouteKey::new(RouteKind::Http, "ns", name),
        rules,
    }
}

fn path(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path,
        ..HttpMatch::default()
    }
}

fn prefix(text: &str) -> HttpMatch {
    path(PathMatch::Prefix(text.into()))
}

fn exact(text: &str) -> HttpMatch {
    path(PathMatch::Exact(text.into()))
}

fn regex(text: &str) -> HttpMatch {
    path(PathMatch::Regex(text.into()))
}

fn named(name: &str, value: &str) -> NamedMatch {
    NamedMatch {
        name: name.into(),
        value: ValueMatch::Exact(value.into()),
    }
}

#[track_caller]
fn finds(routes: &[Plain], asked: &Asked, expected: Option<Found>) {
    let (index, faults) = index(routes);
    assert_eq!(faults, []);
    let found = index.select(&asked.facts()).map(|selected| *selected.value);
    assert_eq!(found, expected, "{asked:?}");
}

#[test]
fn prefixes_are_of_segments() {
    let routes = [route(
        "a",
        &[],
        vec![vec![prefix("/v2/")], vec![prefix("/v2/x")]],
    )];
    for (target, expected) in [
        ("/v2", Some((0, 0))),
        ("/v2/", Some((0, 0))),
        ("/v2/y", Some((0, 0))),
        ("/v2/x", Some((0, 1))),
        ("/v2/x/", Some((0, 1))),
        ("/v2/xy", Some((0, 0))),
        ("/v2example", None),
        ("/", None),
    ] {
        finds(&routes, &Asked::get("h", target), expected);
    }
}

#[test]
fn the_prefix_that_matched_is_told() {
    let (index, _) = index(&[route(
        "a",
        &[],
        vec![vec![prefix("/a/b/")], vec![exact("/x")], vec![prefix("/")]],
    )]);
    let told = |target| {
        let asked = Asked::get("h", target);
        index.select(&asked.facts()).map(|found| found.prefix)
    };
    assert_eq!(told("/a/b/c"), Some(Some(4)));
    assert_eq!(told("/x"), Some(None));
    assert_eq!(told("/y"), Some(Some(0)));
}

#[test]
fn exact_then_longest_prefix_then_pattern_then_anything() {
    let rules = vec![
        vec![prefix("/")],
        vec![regex("/a/.*")],
        vec![prefix("/a")],
        vec![exact("/a/b")],
        vec![regex("/.*[0-9]")],
    ];
    let routes = [route("a", &[], rules)];
    for (target, rule) in [("/a/b", 3), ("/a/c", 2), ("/b/7", 4), ("/b", 0)] {
        finds(&routes, &Asked::get("h", target), Some((0, rule)));
    }
}

#[test]
fn a_pattern_matches_the_whole_path() {
    let routes = [route("a", &[], vec![vec![regex("/a|/b/.*")]])];
    finds(&routes, &Asked::get("h", "/a"), Some((0, 0)));
    finds(&routes, &Asked::get("h", "/b/c"), Some((0, 0)));
    finds(&routes, &Asked::get("h", "/ax"), None);
    finds(&routes, &Asked::get("h", "/x/a"), None);
}

#[test]
fn hosts_from_the_most_specific_on() {
    let routes = [
        route("any", &[], vec![vec![prefix("/")]]),
        route("wide", &["*.org"], vec![vec![prefix("/")]]),
        route("narrow", &["*.a.org"], vec![vec![prefix("/")]]),
        route("one", &["x.a.org"], vec![vec![prefix("/only")]]),
    ];
    for (host, target, expected) in [
        ("x.a.org", "/only", 3),
        ("x.a.org", "/else", 2),
        ("y.x.a.org", "/", 2),
        ("a.org", "/", 1),
        ("org", "/", 0),
        ("", "/", 0),
        (".org", "/", 0),
    ] {
        finds(&routes, &Asked::get(host, target), Some((expected, 0)));
    }
}

#[test]
fn headers_and_query_parameters() {
    let with = |headers: Vec<NamedMatch>, query: Vec<NamedMatch>| {
        vec![HttpMatch {
            headers,
            query,
            ..HttpMatch::default()
        }]
    };
    let routes = [route(
        "a",
        &[],
        vec![
            with(vec![named("version", "one")], vec![]),
            with(
                vec![named("version", "two"), named("color", "blue")],
                vec![],
            ),
            with(vec![], vec![named("animal", "a whale")]),
            with(vec![named("list", "a,b")], vec![]),
        ],
    )];
    let get = |target| Asked::get("h", target);
    finds(&routes, &get("/").header("version", "one"), Some((0, 0)));
    let both = get("/").header("version", "two").header("color", "blue");
    finds(&routes, &both, Some((0, 1)));
    finds(&routes, &get("/").header("version", "two"), None);
    finds(&routes, &get("/?x=1&animal=a+whale"), Some((0, 2)));
    finds(&routes, &get("/?%61nimal=a%20whale"), Some((0, 2)));
    finds(&routes, &get("/?animal=dog&animal=a+whale"), None);
    finds(&routes, &get("/?animal"), None);
    let list = get("/").header("list", "a").header("list", "b");
    finds(&routes, &list, Some((0, 3)));
    finds(&routes, &get("/").header("list", "a"), None);
}

#[test]
fn age_then_name_then_place() {
    let mut routes = [
        route("b", &[], vec![vec![prefix("/")], vec![prefix("/")]]),
        route("a", &[], vec![vec![prefix("/")]]),
        route("c", &[], vec![vec![prefix("/")]]),
    ];
    finds(&routes, &Asked::get("h", "/"), Some((1, 0)));
    routes[0].created = 1;
    routes[1].created = 2;
    routes[2].created = 3;
    finds(&routes, &Asked::get("h", "/"), Some((0, 0)));
}

#[test]
fn what_cannot_be_used_is_left_out_and_told() {
    let long = "x".repeat(MAX_PATTERN_BYTES + 1);
    let bad = HttpMatch {
        headers: vec![named("a b", "x")],
        ..HttpMatch::default()
    };
    let routes = [route(
        "a",
        &[],
        vec![
            vec![regex("("), prefix("/ok")],
            vec![regex("a)|(/b")],
            vec![regex(&long)],
            vec![regex("(x{500}){500}")],
            vec![bad],
            vec![exact("no-slash")],
        ],
    )];
    let (index, faults) = index(&routes);
    let rules: Vec<_> = faults.iter().map(|fault| fault.rule).collect();
    assert_eq!(rules, [0, 1, 2, 3, 4, 5]);
    let found = |target| {
        let asked = Asked::get("h", target);
        index.select(&asked.facts()).map(|found| *found.value)
    };
    assert_eq!(found("/ok"), Some((0, 0)));
    assert_eq!(found("/b"), None);
}

#[test]
fn a_listener_narrows_the_names_of_a_route() {
    let names = |names: &[&str]| -> Vec<Hostname> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    };
    let wide: Hostname = "*.org".parse().unwrap();
    assert_eq!(effective_hostnames(None, &[]), Some(vec![]));
    assert_eq!(
        effective_hostnames(Some(&wide), &[]),
        Some(names(&["*.org"]))
    );
    let met = effective_hostnames(Some(&wide), &names(&["a.org", "b.com", "*.c.org"]));
    assert_eq!(met, Some(names(&["a.org", "*.c.org"])));
    assert_eq!(effective_hostnames(Some(&wide), &names(&["b.com"])), None);
}

/// The same by brute force: every match that holds, the best of them by one long key.
fn naive(routes: &[Plain], asked: &Asked) -> Option<Found> {
    let mut all = Vec::new();
    for (number, route) in routes.iter().enumerate() {
        for (rule, matches) in route.rules.iter().enumerate() {
            let every = vec![HttpMatch::default()];
            let matches = if matches.is_empty() { &every } else { matches };
            for (place, one) in matches.iter().enumerate() {
                let Some(host) = host_rank(&route.hostnames, &asked.host) else {
                    continue;
                };
                let Some(path) = path_rank(&one.path, &asked.path) else {
                    continue;
                };
                if !rest_holds(one, asked) {
                    continue;
                }
                let counts = (one.method.is_some(), one.headers.len(), one.query.len());
                let age = (route.created, &route.key.name, rule, place);
                all.push(((Reverse((host, path, counts)), age), (number, rule)));
            }
        }
    }
    all.into_iter()
        .min_by(|a, b| a.0.cmp(&b.0))
        .map(|(_, found)| found)
}

fn host_rank(names: &[Hostname], host: &str) -> Option<(u8, usize)> {
    if names.is_empty() {
        return Some((0, 0));
    }
    let ranks = names.iter().filter_map(|name| {
        let text = name.as_str();
        match text.strip_prefix('*') {
            Some(suffix) => {
                (host.len() > suffix.len() && host.ends_with(suffix)).then_some((1, text.len()))
            }
            None => (text == host).then_some((2, text.len())),
        }
    });
    ranks.max()
}

fn path_rank(path: &PathMatch, asked: &str) -> Option<(u8, usize)> {
    match path {
        PathMatch::Exact(exact) => (**exact == *asked).then_some((3, 0)),
        PathMatch::Prefix(prefix) => {
            let bare = prefix.strip_suffix('/').unwrap_or(prefix);
            let holds = asked == bare || asked.starts_with(&format!("{bare}/"));
            let class = if bare.is_empty() { 0 } else { 2 };
            holds.then_some((class, bare.len()))
        }
        PathMatch::Regex(pattern) => {
            let whole = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
            // The length of what the index compiles, which wraps all of them alike.
            whole.is_match(asked).then_some((1, pattern.len()))
        }
    }
}

fn rest_holds(one: &HttpMatch, asked: &Asked) -> bool {
    let is = |value: &ValueMatch, found: &str| match value {
        ValueMatch::Exact(exact) => **exact == *found,
        ValueMatch::Regex(_) => false,
    };
    one.method
        .as_deref()
        .is_none_or(|method| method == asked.method.as_str())
        && one.headers.iter().all(|named| {
            let found = asked.headers.get(&*named.name);
            found.is_some_and(|found| is(&named.value, found.to_str().unwrap()))
        })
        && one.query.iter().all(|named| {
            let pairs = asked.query.as_deref().unwrap_or("").split('&');
            let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
            let found = pairs.find(|(name, _)| **name == *named.name);
            found.is_some_and(|(_, value)| is(&named.value, value))
        })
}

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(words).prop_map(str::to_owned)
}

fn some_match() -> impl Strategy<Value = HttpMatch> {
    let paths = one_of(&["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b"]);
    let path = (0..4_u8, paths).prop_map(|(kind, text)| match kind {
        0 => PathMatch::Exact(text.into()),
        1 => PathMatch::Regex(format!("{text}.*").into()),
        _ => PathMatch::Prefix(text.into()),
    });
    let pairs = || {
        let pair = (one_of(&["k", "l"]), one_of(&["1", "2"]));
        let pair = pair.prop_map(|(name, value)| named(&name, &value));
        prop::collection::vec(pair, 0..2)
    };
    let method = prop::option::weighted(0.3, one_of(&["GET", "POST"]));
    (path, method, pairs(), pairs()).prop_map(|(path, method, headers, query)| HttpMatch {
        path,
        method: method.map(|method| method.as_str().into()),
        headers,
        query,
    })
}

fn some_routes() -> impl Strategy<Value = Vec<Plain>> {
    let names = one_of(&["x.org", "a.x.org", "*.x.org", "*.org", "*.a.x.org"]);
    let rules = prop::collection::vec(prop::collection::vec(some_match(), 0..3), 1..3);
    let route = (prop::collection::vec(names, 0..3), 0..2_u64, rules);
    prop::collection::vec(route, 1..8).prop_map(|routes| {
        let routes = routes.into_iter().enumerate();
        routes
            .map(|(number, (hostnames, created, rules))| Plain {
                hostnames: hostnames.iter().map(|name| name.parse().unwrap()).collect(),
                created,
                key: RouteKey::new(RouteKind::Http, "ns", &format!("r{number}")),
                rules,
            })
            .collect()
    })
}

fn some_request() -> impl Strategy<Value = Asked> {
    let host = one_of(&["x.org", "a.x.org", "b.a.x.org", "y.org", "org", "z"]);
    let path = one_of(&[
        "/", "/a", "/a/", "/a/b", "/a/b/c", "/a/b/c/d", "/ab", "/b/c", "/c",
    ]);
    let pair = || (one_of(&["k", "l"]), one_of(&["1", "2"]));
    let method = prop::sample::select(vec![Method::GET, Method::POST, Method::PUT]);
    let (headers, query) = (
        prop::option::of(pair()),
        prop::collection::vec(pair(), 0..3),
    );
    (host, path, method, headers, query).prop_map(|(host, path, method, header, query)| {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            let name: http::HeaderName = name.parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        let query: Vec<_> = query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Asked {
            host,
            path,
            query: (!query.is_empty()).then(|| query.join("&")),
            method,
            headers,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn the_index_finds_what_brute_force_finds(routes in some_routes(), requests in prop::collection::vec(some_request(), 8)) {
        let (index, faults) = index(&routes);
        prop_assert!(faults.is_empty());
        for asked in &requests {
            let found = index.select(&asked.facts()).map(|found| *found.value);
            prop_assert_eq!(found, naive(&routes, asked), "{:?}", asked);
        }
    }
}
