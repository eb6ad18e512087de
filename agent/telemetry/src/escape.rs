//! Escaping of text that reaches a log line, so that no value can forge a field or a line.

use std::fmt::{self, Write};

/// Passes text on with quotes, backslashes and everything that moves a cursor or changes the
/// reading direction replaced by escapes.
pub(crate) struct Escaped<W>(pub(crate) W);

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(is_plain) {
            return self.0.write_str(text);
        }
        let mut plain = 0;
        for (at, c) in text.char_indices().filter(|&(_, c)| must_escape(c)) {
            self.0.write_str(&text[plain..at])?;
            write_escape(&mut self.0, c)?;
            plain = at + c.len_utf8();
        }
        self.0.write_str(&text[plain..])
    }
}

/// Most of what is logged: printable ASCII without quotes and backslashes.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
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

/// Passes text on as what may stand between the quotes of a JSON string.
pub(crate) struct EscapedJson<W>(pub(crate) W);

impl<W: Write> Write for EscapedJson<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        // What is escaped is ASCII, so that text is cut between characters.
        let bytes = text.bytes().enumerate();
        for (at, byte) in bytes.filter(|&(_, byte)| must_escape_in_json(byte)) {
            self.0.write_str(&text[plain..at])?;
            write_json_escape(&mut self.0, byte)?;
            plain = at + 1;
        }
        self.0.write_str(&text[plain..])
    }
}

fn must_escape_in_json(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

fn write_json_escape(out: &mut impl Write, byte: u8) -> fmt::Result {
    match byte {
        b'"' => out.write_str("\\\""),
        b'\\' => out.write_str("\\\\"),
        b'\n' => out.write_str("\\n"),
        b'\r' => out.write_str("\\r"),
        b'\t' => out.write_str("\\t"),
        0x08 => out.write_str("\\b"),
        0x0c => out.write_str("\\f"),
        other => write!(out, "\\u{other:04x}"),
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

    /// Each character alone and among others, where the short way is not taken.
    #[test]
    fn plain_text_takes_the_short_way_and_nothing_else_does() {
        for c in ('\0'..='\u{3000}').chain(['\u{fffd}', '\u{1f600}']) {
            let alone = escaped(&c.to_string());
            assert_eq!(alone != c.to_string(), must_escape(c), "{c:?}");
            assert_eq!(escaped(&format!("é{c}é")), format!("é{alone}é"), "{c:?}");
        }
    }

    #[test]
    fn json_is_escaped_as_its_library_does() {
        for c in ('\0'..='\u{3000}').chain(['\u{fffd}', '\u{1f600}']) {
            let text = format!("a{c}{c}é");
            let mut out = EscapedJson(String::new());
            out.write_str(&text).unwrap();
            let want = serde_json::to_string(&text).unwrap();
            assert_eq!(format!("\"{}\"", out.0), want, "{c:?}");
        }
    }
}
