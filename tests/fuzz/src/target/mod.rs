//! One file per target.

mod admission;
mod certificate;
mod cni;
mod connect;
mod csr;
mod dns;
mod enrolment;
mod handover;
mod headers;
mod http1;
mod http2;
mod identity;
mod jwt;
mod manifest;
mod pem;
mod policy;
mod sync;
mod tokens;
mod xds;

/// Something to feed bytes to.
pub struct Target {
    /// Name, also of its folder in `corpus/`.
    pub name: &'static str,
    /// Reads the bytes; panics when it finds a defect.
    pub run: fn(&[u8]),
    /// Mutations a plain test runs: about a second's worth.
    pub mutations: u64,
    /// Words of the format, for mutations to insert.
    pub words: &'static [&'static str],
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "connect",
        run: connect::run,
        mutations: 100_000,
        words: connect::WORDS,
    },
    Target {
        name: "baggage",
        run: headers::baggage,
        mutations: 100_000,
        words: headers::WORDS,
    },
    Target {
        name: "forwarded",
        run: headers::forwarded,
        mutations: 100_000,
        words: headers::WORDS,
    },
    Target {
        name: "identity",
        run: identity::run,
        mutations: 100_000,
        words: identity::WORDS,
    },
    Target {
        name: "certificate",
        run: certificate::run,
        mutations: 100_000,
        words: identity::WORDS,
    },
    Target {
        name: "pem",
        run: pem::run,
        mutations: 4_000,
        words: pem::WORDS,
    },
    Target {
        name: "csr",
        run: csr::run,
        mutations: 4_000,
        words: identity::WORDS,
    },
    Target {
        name: "xds",
        run: xds::run,
        mutations: 20_000,
        words: xds::WORDS,
    },
    Target {
        name: "sync",
        run: sync::run,
        mutations: 5_000,
        words: &[],
    },
    Target {
        name: "manifest",
        run: manifest::run,
        mutations: 3_000,
        words: manifest::WORDS,
    },
    Target {
        name: "policy",
        run: policy::run,
        mutations: 50_000,
        words: &[],
    },
    Target {
        name: "enrolment",
        run: enrolment::run,
        mutations: 100_000,
        words: enrolment::WORDS,
    },
    Target {
        name: "handover",
        run: handover::run,
        mutations: 20_000,
        words: handover::WORDS,
    },
    Target {
        name: "cni",
        run: cni::run,
        mutations: 50_000,
        words: cni::WORDS,
    },
    Target {
        name: "tokens",
        run: tokens::run,
        mutations: 50_000,
        words: tokens::WORDS,
    },
    Target {
        name: "admission",
        run: admission::run,
        mutations: 5_000,
        words: admission::WORDS,
    },
    Target {
        name: "http2",
        run: http2::run,
        mutations: 300,
        words: http2::WORDS,
    },
    Target {
        name: "jwt",
        run: jwt::token,
        mutations: 5_000,
        words: jwt::WORDS,
    },
    Target {
        name: "jwks",
        run: jwt::key_set,
        mutations: 10_000,
        words: jwt::KEY_WORDS,
    },
    Target {
        name: "dns",
        run: dns::run,
        mutations: 100_000,
        words: dns::WORDS,
    },
    Target {
        name: "framing",
        run: http1::framing,
        mutations: 50_000,
        words: http1::WORDS,
    },
    Target {
        name: "target",
        run: http1::target,
        mutations: 100_000,
        words: http1::WORDS,
    },
];
