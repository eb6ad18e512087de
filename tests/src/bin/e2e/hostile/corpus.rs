//! What hostile clients send. `@H` stands for the host, `@P` for a path below `/public` that is
//! this request's alone, `@S` for a request that must never be seen, `@L` for its length.

/// What becomes of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// The server sees so many requests, and the client gets as many answers.
    Passes(usize),
    /// The gateway refuses it, and the server sees nothing.
    Refused,
    /// The gateway finds out when the server knows of the request: that one and no other.
    BreaksOff,
}

/// Bytes to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) want: Want,
    text: &'static str,
}

impl Shape {
    pub(super) fn bytes(&self, host: &str, mark: &str) -> Vec<u8> {
        let smuggled = format!("GET /public/{mark}smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let size = smuggled.len();
        self.text
            .replace("@P", &format!("/public/{mark}"))
            .replace("@L", &size.to_string())
            .replace("@X", &format!("{size:x}"))
            .replace("@S", &smuggled)
            .replace("@H", host)
            .into_bytes()
    }
}

/// F-80, F-90: framing and fields.
pub(super) fn shapes() -> Vec<Shape> {
    let passes = PASSES
        .iter()
        .map(|(name, count, text)| (*name, Want::Passes(*count), *text));
    let refused = REFUSED
        .iter()
        .map(|(name, text)| (*name, Want::Refused, *text));
    let broken = BROKEN
        .iter()
        .map(|(name, text)| (*name, Want::BreaksOff, *text));
    let all = passes.chain(refused).chain(broken);
    all.map(|(name, want, text)| Shape { name, want, text })
        .collect()
}

/// Nothing is wrong with these: a gateway that refuses everything is no use.
const PASSES: &[(&str, usize, &str)] = &[
    (
        "a length",
        1,
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: @L\r\n\r\n@S",
    ),
    (
        "chunks",
        1,
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n@X\r\n@S\r\n0\r\n\r\n",
    ),
    (
        "chunks in capitals, with an extension",
        1,
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: CHUNKED\r\n\r\n@X;a=\"b\"\r\n@S\r\n0\r\n\r\n",
    ),
    (
        "two in a row",
        2,
        "GET @P HTTP/1.1\r\nHost: @H\r\n\r\nGET @P HTTP/1.1\r\nHost: @H\r\n\r\n",
    ),
    (
        "a GET with a body",
        1,
        "GET @P HTTP/1.1\r\nHost: @H\r\nContent-Length: @L\r\n\r\n@S",
    ),
    (
        "an underscore in place of a dash",
        1,
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer_Encoding: chunked\r\nContent-Length: @L\r\n\r\n@S",
    ),
    (
        "a length that Connection names",
        1,
        "POST @P HTTP/1.1\r\nHost: @H\r\nConnection: content-length\r\nContent-Length: @L\r\n\r\n@S",
    ),
    (
        "chunks that Connection names",
        1,
        "POST @P HTTP/1.1\r\nHost: @H\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n@X\r\n@S\r\n0\r\n\r\n",
    ),
    (
        "a host that Connection names",
        1,
        "GET @P HTTP/1.1\r\nHost: @H\r\nConnection: host\r\n\r\n",
    ),
    (
        "a body that was to wait",
        1,
        "POST @P HTTP/1.1\r\nHost: @H\r\nExpect: 100-continue\r\nContent-Length: @L\r\n\r\n@S",
    ),
    (
        "an upgrade nobody follows",
        1,
        "GET @P HTTP/1.1\r\nHost: @H\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n@S",
    ),
    (
        "the whole URL",
        1,
        "GET http://@H@P HTTP/1.1\r\nHost: @H\r\n\r\n",
    ),
    (
        "an empty line before",
        1,
        "\r\nGET @P HTTP/1.1\r\nHost: @H\r\n\r\n",
    ),
    (
        "trailers that would be fields",
        1,
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: @L\r\nHost: other\r\n\r\n",
    ),
];

const REFUSED: &[(&str, &str)] = &[
    (
        "CL.TE",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: @L\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE.CL",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n@X\r\n@S\r\n0\r\n\r\n",
    ),
    (
        "TE.TE, another coding",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE.TE, the same coding",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE: xchunked",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE: identity",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: identity\r\n\r\n@S",
    ),
    (
        "TE: chunked, identity",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE: identity, chunked",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE: gzip, chunked",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE in quotes",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE after a vertical tab",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE before a vertical tab",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE with a space before the colon",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE with a tab before the colon",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE behind a bare line feed",
        "POST @P HTTP/1.1\r\nHost: @H\r\nX: x\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE behind a bare carriage return",
        "POST @P HTTP/1.1\r\nHost: @H\r\nX: x\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE as a folded line",
        "POST @P HTTP/1.1\r\nHost: @H\r\nX: x\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE folded itself",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE with its colon folded",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE in HTTP/1.0",
        "POST @P HTTP/1.0\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    (
        "TE empty",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding:\r\nContent-Length: @L\r\n\r\n@S",
    ),
    (
        "CL twice, different",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: 0\r\nContent-Length: @L\r\n\r\n@S",
    ),
    (
        "CL twice, the same",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: @L\r\nContent-Length: @L\r\n\r\n@S",
    ),
    (
        "CL as a list",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: @L, @L\r\n\r\n@S",
    ),
    (
        "CL +",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: +@L\r\n\r\n@S",
    ),
    (
        "CL -",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: -1\r\n\r\n@S",
    ),
    (
        "CL in hexadecimal",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: 0x@X\r\n\r\n@S",
    ),
    (
        "CL with a space in it",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: 4 7\r\n\r\n@S",
    ),
    (
        "CL with more behind it",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: @L;x\r\n\r\n@S",
    ),
    (
        "CL empty",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length:\r\n\r\n@S",
    ),
    (
        "CL too large",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length: 18446744073709551617\r\n\r\n@S",
    ),
    (
        "CL with a space before the colon",
        "POST @P HTTP/1.1\r\nHost: @H\r\nContent-Length : @L\r\n\r\n@S",
    ),
    ("bare line feeds", "GET @P HTTP/1.1\nHost: @H\n\n@S"),
    (
        "a bare line feed at the end",
        "GET @P HTTP/1.1\r\nHost: @H\r\n\n@S",
    ),
    (
        "NUL in a value",
        "GET @P HTTP/1.1\r\nHost: @H\r\nX: a\0b\r\n\r\n",
    ),
    (
        "NUL in a name",
        "GET @P HTTP/1.1\r\nHost: @H\r\nX\0: a\r\n\r\n",
    ),
    (
        "a name with a space",
        "GET @P HTTP/1.1\r\nHost: @H\r\nX Y: a\r\n\r\n",
    ),
    (
        "a line without a colon",
        "GET @P HTTP/1.1\r\nHost: @H\r\nX\r\n\r\n",
    ),
    (
        "a line without a name",
        "GET @P HTTP/1.1\r\nHost: @H\r\n: x\r\n\r\n",
    ),
    (
        "twins of - and _",
        "GET @P HTTP/1.1\r\nHost: @H\r\nX-User: a\r\nX_User: b\r\n\r\n",
    ),
    (
        "a space before the first field",
        "GET @P HTTP/1.1\r\n Host: @H\r\n\r\n",
    ),
    (
        "two hosts",
        "GET @P HTTP/1.1\r\nHost: @H\r\nHost: @H\r\n\r\n",
    ),
    ("no host", "GET @P HTTP/1.1\r\n\r\n"),
    (
        "another host in the URL",
        "GET http://other.example@P HTTP/1.1\r\nHost: @H\r\n\r\n",
    ),
    (
        "user information",
        "GET @P HTTP/1.1\r\nHost: admin@@H\r\n\r\n",
    ),
    ("CONNECT", "CONNECT @H:80 HTTP/1.1\r\nHost: @H:80\r\n\r\n@S"),
    ("HTTP/1.2", "GET @P HTTP/1.2\r\nHost: @H\r\n\r\n"),
    ("HTTP/2.0 in text", "GET @P HTTP/2.0\r\nHost: @H\r\n\r\n"),
    (
        "http/1.1 in lower case",
        "GET @P http/1.1\r\nHost: @H\r\n\r\n",
    ),
    ("no version", "GET @P\r\nHost: @H\r\n\r\n"),
    ("two spaces", "GET  @P HTTP/1.1\r\nHost: @H\r\n\r\n"),
    ("a tab", "GET\t@P HTTP/1.1\r\nHost: @H\r\n\r\n"),
    (
        "a method with a space",
        "GE T @P HTTP/1.1\r\nHost: @H\r\n\r\n",
    ),
];

const BROKEN: &[(&str, &str)] = &[
    (
        "a chunk longer than it says",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n@S",
    ),
    (
        "a chunk of 0x1",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n@S",
    ),
    (
        "a chunk of -1",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n@S",
    ),
    (
        "a chunk of +1",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n@S",
    ),
    (
        "a chunk whose size wraps",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n@S",
    ),
    (
        "a space behind a size",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n@S",
    ),
    (
        "a size that ends in a bare line feed",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n@S",
    ),
    (
        "a chunk that ends in a bare line feed",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\n@S",
    ),
    (
        "an extension with a bare line feed",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n@S",
    ),
    (
        "an extension with a bare carriage return",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n1;a\rx\r\nx\r\n0\r\n\r\n@S",
    ),
    (
        "a last chunk with a bare line feed",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n@S",
    ),
    (
        "a folded trailer",
        "POST @P HTTP/1.1\r\nHost: @H\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: x\r\n y\r\n\r\n@S",
    ),
];

/// F-79: requests for `/secret/key` in every spelling that some server would follow.
pub(super) fn paths(host: &str) -> Vec<Vec<u8>> {
    let written = SPELLINGS.iter().map(|path| path.as_bytes().to_vec());
    let escaped = (1..=255).flat_map(|byte: u8| {
        [
            format!("/public/..%{byte:02x}secret/key").into_bytes(),
            format!("/public/%2e%2e%{byte:02X}secret%{byte:02x}key").into_bytes(),
        ]
    });
    let plain = (1..=255)
        .filter(|byte| !b"\r\n ".contains(byte))
        .map(|byte: u8| [&b"/public/.."[..], &[byte], b"secret/key"].concat());
    let of_path = written.chain(escaped).chain(plain).map(|path| {
        let head = format!(" HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        [&b"GET "[..], &path, head.as_bytes()].concat()
    });
    let of_host = HOSTS.iter().map(|spelling| {
        let host = spelling.replace("@H", host);
        format!("GET /secret/key HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
            .into_bytes()
    });
    of_path.chain(of_host).collect()
}

const SPELLINGS: &[&str] = &[
    "/secret/key",
    "/secret/key/",
    "//secret/key",
    "/./secret/key",
    "/public/../secret/key",
    "/public/./../secret/key",
    "/public//../secret/key",
    "/public/x/../../secret/key",
    "/public/%2e%2e/secret/key",
    "/public/.%2e/secret/key",
    "/public/%2E./secret/key",
    "/public/%252e%252e/secret/key",
    "/public/%25252e%25252e/secret/key",
    "/public/..;/secret/key",
    "/public/..;x=y/secret/key",
    "/public;/../secret/key",
    "/public/%2e%2e;/secret/key",
    "/public/..%3b/secret/key",
    "/public/..%2fsecret%2fkey",
    "/public/..%5csecret%5ckey",
    "/public/..\\secret\\key",
    "/public\\..\\secret\\key",
    "/public/..%252fsecret/key",
    "/public/.%00./secret/key",
    "/public/..%00/secret/key",
    "/public/%c0%ae%c0%ae/secret/key",
    "/public/..%c0%afsecret/key",
    "/public/%u002e%u002e/secret/key",
    "/public/%uff0e%uff0e/secret/key",
    "/public/\u{ff0e}\u{ff0e}/secret/key",
    "/public/.../secret/key",
    "/public/..../secret/key",
    "/public?/../secret/key",
    "/public?x=/../secret/key",
    "/public%3f/../../secret/key",
    "/public#/../secret/key",
    "/public%23/../../secret/key",
    "/PUBLIC/../secret/key",
    "/Public/%2e%2e/Secret/key",
    "/publicx/../secret/key",
    "/public../secret/key",
    "/public/../secret/./key",
    "/public/..//secret//key",
    "/public/../../../../secret/key",
    "/%70ublic/../%73ecret/key",
    "/public/%2e%2e/%73%65%63%72%65%74/key",
    "/public/..%20/secret/key",
    "/public/.. /secret/key",
    "/public/..\t/secret/key",
    "http://@/secret/key",
    "secret/key",
    "../secret/key",
    "*",
    "",
    "?/secret/key",
    "%2fsecret%2fkey",
    "file:///secret/key",
    "http:///secret/key",
    "http://127.0.0.1/secret/key",
];

const HOSTS: &[&str] = &[
    "@H",
    "@H.",
    "@H:80",
    "@H:8000",
    "@H:0",
    "@H:",
    "@H:99999",
    "@H:x",
    "x@@H",
    "@H@other.example",
    "@H/public",
    "@H#.other.example",
    "@H\\.other.example",
    "@H%00.other.example",
    "[::1]",
    "127.0.0.1",
    "localhost",
    "other.example",
    "@H other.example",
    "@H,other.example",
];
