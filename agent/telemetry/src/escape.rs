//! Escaping of text that reaches a log line, so that no value can forge a field or a line.

use std::fmt::{self, Write};

/// Passes text on with quotes, backslashes and everything that moves a cursor or changes the
/// reading direction replaced by escapes.
pub(crate) struct Escaped<W>(pub(crate) W);

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, c) in text.char_indices().filter(|&(_, c)| must_escape(c)) {
            self.0.write_str(&text[plain..at])?;
            write_escape(&mut self.0, c)?;
            plain = at + c.len_utf8();
        }
        self.0.write_str(&text[plain..])
    }
}

fn write_escape(out: &mut impl Write, c: char) -> fmt::Result {
    match c {
        '"' => out.write_str("\\\""),
        '\\' => out.write_str("\\\\"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        other => write!(out, "\\u{{{:x}}}", u32::from(other)),
    }
}

fn must_escape(c: char) -> bool {
    match c {
        '"' | '\\' => true,
        ' '..='~' => false,
        // Line and paragraph separators, and the marks that reorder what a terminal shows.
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = Escaped(String::new());
        out.write_str(text).unwrap();
        out.0
    }

    #[test]
    fn plain_text_is_unchanged() {
        assert_eq!(escaped("pod web-1 ünï"), "pod web-1 ünï");
    }

    #[test]
    fn nothing_that_moves_the_cursor_survives() {
        assert_eq!(
            escaped("a\n2026 info\t\"x\\\r\u{1b}[2J\u{7f}\u{85}\u{202e}\u{2028}\0"),
            "a\\n2026 info\\t\\\"x\\\\\\r\\u{1b}[2J\\u{7f}\\u{85}\\u{202e}\\u{2028}\\u{0}"
        );
    }
}
