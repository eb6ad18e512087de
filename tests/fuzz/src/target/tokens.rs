//! The node token file: a token names one node or none, and no error shows one.

use agent_control::TokenTable;

pub(super) const WORDS: &[&str] = &[
    "\n", "\r\n", "\t", " ", "#", "node-a", "node-b", "NODE", "secret-a", "\u{85}", "\u{a0}",
    "\u{2028}", "\0",
];

pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let table = TokenTable::parse(&text);
    assert_eq!(table.node(""), None);
    let shown = format!("{table:?}");
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(token) = words.next() else {
            continue;
        };
        let found = table.node(token);
        assert_eq!(
            found.map(|node| &**node),
            reference(&text, token),
            "{token:?}"
        );
        // A node's name or a word of the message is no secret.
        if token.len() >= 8 && !"node token file, line `TOKEN NODE` TokenTable".contains(token) {
            assert!(!shown.contains(token), "{shown}");
        }
        assert_eq!(table.node(&format!("{token} ")), None);
        assert_eq!(table.node(&format!("{token}\n")), None);
    }
}

/// The node of the first good line with this token.
fn reference<'a>(text: &'a str, token: &str) -> Option<&'a str> {
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut nodes = lines.filter_map(|words| match words[..] {
        [first, node] if first == token => Some(node),
        _ => None,
    });
    let valid = |node: &&str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        node.len() <= 253 && node.chars().all(inner)
    };
    let good = !token.starts_with('#') && token.len() <= 8 * 1024;
    nodes.find(valid).filter(|_| good)
}
