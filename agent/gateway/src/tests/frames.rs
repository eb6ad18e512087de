//! HTTP/2 as RFC 9113 has it: frames that are wrong end their stream or their connection, and no
//! request comes of them.

use std::time::Duration;

use agent_model::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::Backend;
use super::bed::{Bed, route, rule};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WHOLE: u8 = END_HEADERS | END_STREAM;

/// `GET http://a/` (RFC 7541, appendix A).
const GET: &[u8] = b"\x82\x86\x84\x41\x01a";
/// `POST http://a/`.
const POST: &[u8] = b"\x83\x86\x84\x41\x01a";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field that is not in any table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    let mut field = vec![0, length(name)];
    field.extend(name.as_bytes());
    field.push(length(value));
    field.extend(value.as_bytes());
    field
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
    frame(SETTINGS, 0, 0, &payload)
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, GET)
}

/// A whole request of these fields.
fn request(fields: &[&[u8]]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &fields.concat())
}

/// How a client's frames end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With a GOAWAY of this code.
    Connection(u32),
    /// With a RST_STREAM of this code.
    Stream(u32),
    /// With an answer.
    Answer,
    /// Without a word.
    Closed,
}

/// What comes first, of all that can end it; settings and the like are passed over.
async fn end(stream: &mut TcpStream) -> End {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return End::Closed;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            return End::Closed;
        }
        let code = |at: usize| {
            let bytes = payload.get(at..at + 4).unwrap();
            u32::from_be_bytes(bytes.try_into().unwrap())
        };
        match head[3] {
            GOAWAY => return End::Connection(code(4)),
            RST_STREAM => return End::Stream(code(0)),
            HEADERS => return End::Answer,
            _ => {}
        }
    }
}

async fn say(bed: &Bed, frames: &[u8]) -> End {
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat();
    stream.write_all(&hello).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), end(&mut stream))
        .await
        .expect("nothing comes of it")
}

async fn bed() -> (Bed, Backend) {
    let one = Backend::start("one").await;
    let mut bed = Bed::start(&[route(vec![rule("/", "one")])]);
    bed.service("one", &[&one]);
    (bed, one)
}

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

/// F-87: what ends the connection, with the code that the RFC has for it.
#[tokio::test]
async fn f_87_frames_that_end_their_connection() {
    let (bed, one) = bed().await;
    let broken = frame(HEADERS, END_STREAM, 1, GET);
    let cases: Vec<(&str, Vec<u8>, u32)> = vec![
        ("DATA of no stream", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("HEADERS of no stream", get(0), PROTOCOL_ERROR),
        ("a stream of the server's", get(2), PROTOCOL_ERROR),
        (
            "DATA of an idle stream",
            frame(DATA, 0, 1, b"x"),
            PROTOCOL_ERROR,
        ),
        (
            "RST_STREAM of no stream",
            frame(RST_STREAM, 0, 0, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        (
            "RST_STREAM of an idle stream",
            frame(RST_STREAM, 0, 1, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        (
            "a short RST_STREAM",
            [get(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            FRAME_SIZE_ERROR,
        ),
        (
            "SETTINGS of a stream",
            frame(SETTINGS, 0, 1, &[]),
            PROTOCOL_ERROR,
        ),
        (
            "SETTINGS of five bytes",
            frame(SETTINGS, 0, 0, &[0; 5]),
            FRAME_SIZE_ERROR,
        ),
        (
            "settings in an acknowledgement",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            FRAME_SIZE_ERROR,
        ),
        ("push of a third kind", setting(2, 2), PROTOCOL_ERROR),
        (
            "a window that is too large",
            setting(4, 1 << 31),
            FLOW_CONTROL_ERROR,
        ),
        (
            "frames that are too small",
            setting(5, (1 << 14) - 1),
            PROTOCOL_ERROR,
        ),
        (
            "frames that are too large",
            setting(5, 1 << 24),
            PROTOCOL_ERROR,
        ),
        (
            "a promise of a client",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        ("a short PING", frame(PING, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        (
            "PING of a stream",
            frame(PING, 0, 1, &[0; 8]),
            PROTOCOL_ERROR,
        ),
        (
            "GOAWAY of a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            PROTOCOL_ERROR,
        ),
        (
            "a short WINDOW_UPDATE",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            FRAME_SIZE_ERROR,
        ),
        (
            "WINDOW_UPDATE by nothing",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        (
            "WINDOW_UPDATE of an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            PROTOCOL_ERROR,
        ),
        (
            "a window that overflows",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            FLOW_CONTROL_ERROR,
        ),
        (
            "CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, GET),
            PROTOCOL_ERROR,
        ),
        (
            "a head that PING breaks into",
            [broken.clone(), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a head that another goes on with",
            [broken, frame(CONTINUATION, END_HEADERS, 3, &[])].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a frame that is too long",
            frame(HEADERS, WHOLE, 1, &[0; (1 << 14) + 1]),
            FRAME_SIZE_ERROR,
        ),
        (
            "more padding than there is",
            frame(HEADERS, WHOLE | PADDED, 1, &[9, 0x82]),
            PROTOCOL_ERROR,
        ),
        (
            "an index of no table",
            frame(HEADERS, WHOLE, 1, &[0x82, 0xff, 0x80, 0x01]),
            COMPRESSION_ERROR,
        ),
        (
            "an index of nothing",
            frame(HEADERS, WHOLE, 1, &[0x80]),
            COMPRESSION_ERROR,
        ),
        (
            "a table that is too large",
            frame(HEADERS, WHOLE, 1, &[0x3f, 0xe1, 0xff, 0xff, 0x07]),
            COMPRESSION_ERROR,
        ),
        (
            "a text that breaks off",
            frame(HEADERS, WHOLE, 1, &[0x82, 0x41, 0x05, b'a']),
            COMPRESSION_ERROR,
        ),
    ];
    let mut wrong = Vec::new();
    let count = cases.len();
    for (what, frames, code) in cases {
        let found = say(&bed, &frames).await;
        // The general code will do for a finer one.
        if ![code, PROTOCOL_ERROR].map(End::Connection).contains(&found) {
            wrong.push((what, found));
        }
    }
    assert_eq!(wrong, []);
    assert!(
        one.seen().len() <= 1,
        "of the one that was whole: {:?}",
        one.seen()
    );
    broken_off(&bed, count).await;
}

/// Each of so many connections that were broken off has a record, and nothing else has one like it.
async fn broken_off(bed: &Bed, count: usize) {
    let wait = async {
        loop {
            let records = bed.records(0).await.into_iter();
            let broken: Vec<_> = records
                .filter(|record| record.reason == Reason::RequestInvalid)
                .collect();
            if broken.len() >= count {
                return broken;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let broken = tokio::time::timeout(Duration::from_secs(10), wait).await;
    let broken = broken.expect("one record each");
    assert_eq!(broken.len(), count);
    for record in broken {
        assert_eq!(record.status, None);
        assert!(record.detail.contains("_ERROR"), "{}", record.detail);
    }
}

/// Who leaves in order, or says itself that the gateway is wrong, is not told of.
#[tokio::test]
async fn an_end_of_the_client_is_no_record() {
    let (bed, _one) = bed().await;
    for code in [0_u32, PROTOCOL_ERROR] {
        let goaway = [[0; 4], code.to_be_bytes()].concat();
        say(&bed, &frame(GOAWAY, 0, 0, &goaway)).await;
    }
    // The connections before it are over.
    assert_eq!(
        say(&bed, &frame(DATA, 0, 0, b"x")).await,
        End::Connection(1)
    );
    broken_off(&bed, 1).await;
}

/// F-87: heads that are no request (8.1.1, 8.2, 8.3), and frames after the last one.
#[tokio::test]
async fn f_87_streams_that_are_no_request() {
    let (bed, one) = bed().await;
    let method = b"\x82".as_slice();
    let (scheme, path, authority) = (
        b"\x86".as_slice(),
        b"\x84".as_slice(),
        b"\x41\x01a".as_slice(),
    );
    let with = |name: &str, value: &str| request(&[GET, &field(name, value)]);
    let body = |said: &str| {
        let head = [POST, &field("content-length", said)].concat();
        [
            frame(HEADERS, END_HEADERS, 1, &head),
            frame(DATA, END_STREAM, 1, b"xx"),
        ]
        .concat()
    };
    let cases: Vec<(&str, Vec<u8>, u32)> = vec![
        (
            "no method",
            request(&[scheme, path, authority]),
            PROTOCOL_ERROR,
        ),
        (
            "no path",
            request(&[method, scheme, authority]),
            PROTOCOL_ERROR,
        ),
        (
            "no scheme",
            request(&[method, path, authority]),
            PROTOCOL_ERROR,
        ),
        (
            "two methods",
            request(&[method, method, scheme, path, authority]),
            PROTOCOL_ERROR,
        ),
        ("two paths", request(&[GET, path]), PROTOCOL_ERROR),
        (
            "an empty path",
            request(&[method, scheme, authority, &field(":path", "")]),
            PROTOCOL_ERROR,
        ),
        ("a status", with(":status", "200"), PROTOCOL_ERROR),
        ("an unknown pseudo field", with(":x", "y"), PROTOCOL_ERROR),
        (
            "a pseudo field at the end",
            request(&[method, scheme, authority, &field("x", "y"), path]),
            PROTOCOL_ERROR,
        ),
        ("capitals", with("X", "y"), PROTOCOL_ERROR),
        (
            "Connection",
            with("connection", "keep-alive"),
            PROTOCOL_ERROR,
        ),
        ("Keep-Alive", with("keep-alive", "1"), PROTOCOL_ERROR),
        (
            "Transfer-Encoding",
            with("transfer-encoding", "chunked"),
            PROTOCOL_ERROR,
        ),
        ("Upgrade", with("upgrade", "x"), PROTOCOL_ERROR),
        ("TE other than trailers", with("te", "gzip"), PROTOCOL_ERROR),
        (
            "a line feed in a value",
            with("x", "y\nz: 1"),
            PROTOCOL_ERROR,
        ),
        ("less than was said", body("3"), PROTOCOL_ERROR),
        ("more than was said", body("1"), PROTOCOL_ERROR),
        (
            "DATA after the end",
            [get(1), frame(DATA, END_STREAM, 1, b"x")].concat(),
            STREAM_CLOSED,
        ),
        (
            "HEADERS after the end",
            [get(1), get(1)].concat(),
            STREAM_CLOSED,
        ),
        (
            "a stream that was passed over",
            [get(5), get(3)].concat(),
            PROTOCOL_ERROR,
        ),
    ];
    let mut wrong = Vec::new();
    for (what, frames, code) in cases {
        let found = say(&bed, &frames).await;
        // An error of a stream may be taken for one of its connection (5.4.2).
        let fine = [
            End::Stream(code),
            End::Connection(code),
            End::Connection(PROTOCOL_ERROR),
        ];
        if !fine.contains(&found) {
            wrong.push((what, found));
        }
    }
    assert_eq!(wrong, []);
    let seen = one.seen().len();
    assert!(seen <= 3, "of those that were whole: {seen}");
}

/// F-87: what has to be passed over or put together (4.1, 5.5, 6.5.2).
#[tokio::test]
async fn f_87_frames_that_harm_nothing() {
    let (bed, one) = bed().await;
    let (first, rest) = GET.split_at(2);
    let padded = [&[3], GET, &[0; 3]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an unknown frame", frame(0xfe, 0xff, 0, b"what")),
        ("an unknown setting", setting(0xfefe, 7)),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9])),
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("unknown flags", frame(PING, 0xf6, 0, &[7; 8])),
        (
            "a reserved bit",
            frame(WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 1]),
        ),
        ("nothing else", Vec::new()),
    ];
    let count = cases.len();
    for (what, frames) in cases {
        assert_eq!(
            say(&bed, &[frames, get(1)].concat()).await,
            End::Answer,
            "{what}"
        );
    }
    let pieces = [
        frame(HEADERS, END_STREAM, 1, first),
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, END_HEADERS, 1, rest),
    ];
    assert_eq!(say(&bed, &pieces.concat()).await, End::Answer);
    let padded = frame(HEADERS, WHOLE | PADDED, 1, &padded);
    assert_eq!(say(&bed, &padded).await, End::Answer);
    assert_eq!(one.seen().len(), count + 2);
}
