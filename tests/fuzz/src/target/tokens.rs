//! The token file: a token names one node or gateway or none, and no error shows one.

use agent_control::TokenTable;

pub(super) const WORDS: &[&str] = &[
    "\n",
    "\r\n",
    "\t",
    " ",
    "#",
    "node-a",
    "node-b",
    "shop/edge",
    "/",
    "NODE",
    "secret-a",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\0",
];

pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let table = TokenTable::parse(&text);
    assert_eq!(table.client(""), None);
    let shown = format!("{table:?}");
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(token) = words.next() else {
            continue;
        };
        let found = table.client(token).map(ToString::to_string);
        assert_eq!(found, reference(&text, token), "{token:?}");
        // A node's name or a word of the message is no secret.
        if token.len() >= 8 && !"node token file, line `TOKEN NODE`, and for a gateway not `TOKEN NAMESPACE/NAME` TokenTable".contains(token) {
            assert!(!shown.contains(token), "{shown}");
        }
        assert_eq!(table.client(&format!("{token} ")), None);
        assert_eq!(table.client(&format!("{token}\n")), None);
    }
}

/// The node, or `gateway namespace/name`, of the first good line with this token.
fn reference(text: &str, token: &str) -> Option<String> {
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut nodes = lines.filter_map(|words| match words[..] {
        [first, node] if first == token => Some(node),
        _ => None,
    });
    let is_name = |word: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        !word.is_empty() && word.len() <= 253 && word.chars().all(inner)
    };
    let valid = |word: &&str| match word.split('/').collect::<Vec<_>>()[..] {
        [node] => is_name(node),
        [namespace, name] => is_name(namespace) && is_name(name),
        _ => false,
    };
    let good = !token.starts_with('#') && token.len() <= 8 * 1024;
    let found = nodes.find(valid).filter(|_| good)?;
    Some(match found.contains('/') {
        true => format!("gateway {found}"),
        false => found.to_owned(),
    })
}
