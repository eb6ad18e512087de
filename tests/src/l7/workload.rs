//! What is measured.

/// A workload by its name in tables.
#[derive(Debug)]
pub struct Workload {
    /// Name.
    pub name: &'static str,
    /// What clients speak.
    pub protocol: Protocol,
    /// Requests under way at a time.
    pub at_a_time: u32,
    /// What the routers do with them.
    pub kind: Kind,
}

/// What clients speak to the routers. Backends speak HTTP/1.1 in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A connection for each request that is under way.
    Http1,
    /// Up to 16 requests share a connection.
    Http2,
}

/// What the routers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One route, to one backend.
    One,
    /// Many routes; the last one is asked for.
    Many,
    /// One route, behind a token that is signed with RS256.
    Jwt,
    /// One route, and a line of the access log for each request.
    Logged,
}

impl Kind {
    /// All of them, in the order in which their scenes are set.
    pub const ALL: [Self; 4] = [Self::One, Self::Many, Self::Jwt, Self::Logged];

    /// Its name in names of pods and objects.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Many => "many",
            Self::Jwt => "jwt",
            Self::Logged => "logged",
        }
    }
}

/// All of them.
pub const WORKLOADS: &[Workload] = &[
    workload("HTTP/1.1 c1, 1 route", Protocol::Http1, 1, Kind::One),
    workload("HTTP/1.1 c64, 1 route", Protocol::Http1, 64, Kind::One),
    workload("HTTP/1.1 c1, many routes", Protocol::Http1, 1, Kind::Many),
    workload("HTTP/1.1 c64, many routes", Protocol::Http1, 64, Kind::Many),
    workload("HTTP/1.1 c64, JWT", Protocol::Http1, 64, Kind::Jwt),
    workload(
        "HTTP/1.1 c64, access log",
        Protocol::Http1,
        64,
        Kind::Logged,
    ),
    workload("HTTP/2 c1, 1 route", Protocol::Http2, 1, Kind::One),
    workload("HTTP/2 c64, 1 route", Protocol::Http2, 64, Kind::One),
    workload("HTTP/2 c64, many routes", Protocol::Http2, 64, Kind::Many),
    workload("HTTP/2 c64, JWT", Protocol::Http2, 64, Kind::Jwt),
    workload("HTTP/2 c64, access log", Protocol::Http2, 64, Kind::Logged),
];

const fn workload(name: &'static str, protocol: Protocol, at_a_time: u32, kind: Kind) -> Workload {
    Workload {
        name,
        protocol,
        at_a_time,
        kind,
    }
}
