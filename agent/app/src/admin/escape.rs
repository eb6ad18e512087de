//! Text for a terminal: names come from other people's manifests and errors from the wire.

/// `text` with everything that is not printable escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c => out.extend(c.escape_default()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_text_reaches_the_terminal() {
        assert_eq!(
            printable("pod-1 ü\u{1b}[2J\n\u{202e}"),
            "pod-1 ü\\u{1b}[2J\\n\\u{202e}"
        );
    }
}
