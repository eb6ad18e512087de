//! What has one meaning, what has two, and that it does not matter in which pieces it comes.

use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<State, Stop> {
    let mut framing = Framing::default();
    framing.take(bytes).map(|()| framing.state)
}

fn request(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}").into_bytes()
}

#[test]
fn proper_requests_pass() {
    for (fields, body) in [
        ("", ""),
        ("Content-Length: 0\r\n", ""),
        ("content-length:  3 \r\n", "a\nb"),
        ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        (
            "Transfer-Encoding: Chunked\r\n",
            "A;x=\"y\"\r\n0123\n56\r\n9\r\n0\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\n",
            "1\r\nx\r\n0\r\nx-sum: 1\r\n\r\n",
        ),
        ("Upgrade: h2c\r\n", ""),
        ("x-empty:\r\n", ""),
    ] {
        let mut twice = request(fields, body);
        twice.extend_from_slice(b"\r\n");
        twice.extend(request(fields, body));
        assert_eq!(read(&twice), Ok(State::Head), "{fields:?} {body:?}");
    }
}

#[test]
fn what_could_mean_two_things_stops_at_its_line() {
    use Ambiguous::{BadChunk, BadCoding, BadLength, BareLineFeed, Folded, NoName, TwoLengths};
    let length = "content-length: 4\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    for (fields, why) in [
        ("x: 1\n".to_owned(), BareLineFeed),
        ("x: 1\r\n 2\r\n".to_owned(), Folded),
        ("x: 1\r\n\tcontent-length: 2\r\n".to_owned(), Folded),
        ("content-length : 4\r\n".to_owned(), NoName),
        ("content-length\r\n".to_owned(), NoName),
        (": 4\r\n".to_owned(), NoName),
        (format!("{length}{chunked}"), TwoLengths),
        (format!("{chunked}{length}"), TwoLengths),
        (format!("{length}{length}"), TwoLengths),
        (format!("{chunked}{chunked}"), TwoLengths),
        ("content-length: 4, 4\r\n".to_owned(), BadLength),
        ("content-length: +4\r\n".to_owned(), BadLength),
        ("content-length: -4\r\n".to_owned(), BadLength),
        ("content-length: 0x4\r\n".to_owned(), BadLength),
        ("content-length: 4 4\r\n".to_owned(), BadLength),
        ("content-length:\r\n".to_owned(), BadLength),
        (
            "content-length: 99999999999999999999\r\n".to_owned(),
            BadLength,
        ),
        ("transfer-encoding: xchunked\r\n".to_owned(), BadCoding),
        ("transfer-encoding: gzip, chunked\r\n".to_owned(), BadCoding),
        (
            "transfer-encoding: chunked, identity\r\n".to_owned(),
            BadCoding,
        ),
        ("transfer-encoding: \x0bchunked\r\n".to_owned(), BadCoding),
        ("transfer-encoding: \"chunked\"\r\n".to_owned(), BadCoding),
        ("transfer-encoding:\r\n".to_owned(), BadCoding),
    ] {
        let bytes = request(&fields, "");
        let stop = read(&bytes).expect_err(&fields);
        assert_eq!((stop.why, stop.in_head), (why, true), "{fields:?}");
        assert_eq!(bytes[stop.at], b'\n', "{fields:?}");
    }
    for body in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "0x1\r\nx\r\n",
        "1 \r\nx\r\n",
        " 1\r\nx\r\n",
        "1\nx\r\n",
        "1\r\nxy\r\n",
        "1\r\nx\n",
        "1;a\rb\r\nx\r\n",
        "fffffffffffffffff\r\n",
        "0\r\n x\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\n\r\n",
        "0\r\n\n",
    ] {
        let stop = read(&request(chunked, body)).expect_err(body);
        assert!(!stop.in_head, "{body:?}");
        assert!(
            matches!(stop.why, BadChunk | BareLineFeed | Folded | NoName),
            "{body:?}"
        );
    }
}

#[test]
fn a_line_has_an_end() {
    let mut framing = Framing::default();
    let piece = [b'x'; 1024];
    let taken = (0..1024).take_while(|_| framing.take(&piece).is_ok());
    assert_eq!(taken.count(), MAX_LINE / piece.len());
}

#[test]
fn what_follows_an_upgrade_is_not_http() {
    let head = request("Connection: upgrade\r\nUpgrade: x, WebSocket\r\n", "");
    let bytes = [&head[..], b"\x81\x05\nGET"].concat();
    assert_eq!(read(&bytes), Ok(State::Left));
    let mut headers = HeaderMap::new();
    headers.insert(UPGRADE, HeaderValue::from_static("x, WebSocket"));
    assert!(leaves_http(Version::HTTP_11, &headers));
    assert!(!leaves_http(Version::HTTP_2, &headers));
    headers.insert(UPGRADE, HeaderValue::from_static("h2c"));
    assert!(!leaves_http(Version::HTTP_11, &headers));
}

/// Pieces of requests, good and bad, in any order.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "host: a\r\n",
        "\r\n",
        "\n",
        "content-length: 5\r\n",
        "hello",
        "transfer-encoding: chunked\r\n",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "x: y",
        " ",
        "upgrade: websocket\r\n",
    ]);
    prop::collection::vec(words, 0..12).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(bytes in pieces(), cuts in prop::collection::vec(any::<u8>(), 0..6)) {
        let whole = read(&bytes).map_err(|stop| (stop.at, stop.why));
        let mut framing = Framing::default();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut result = Ok(());
        for pair in cuts.windows(2) {
            result = framing.take(&bytes[pair[0]..pair[1]]).map_err(|stop| (pair[0] + stop.at, stop.why));
            if result.is_err() {
                break;
            }
        }
        prop_assert_eq!(result.map(|()| framing.state), whole);
    }
}
