//! One line of the log, in the two forms the ambient data plane's tools read.
//!
//! Text: `RFC3339 TAB level TAB scope TAB message TAB k="v" ...`; numbers and booleans are bare.
//! JSON: keys `level`, `time`, `scope`, `message`, then the fields.

use std::fmt::{self, Debug, Display, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tracing::Level;

use crate::clock;
use crate::escape::{Escaped, EscapedJson};

/// Form of the log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Tab-separated, for people and grep.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What each line begins with.
pub(crate) struct Head<'a> {
    pub(crate) level: Level,
    pub(crate) time: SystemTime,
    pub(crate) scope: &'a str,
    pub(crate) message: &'a str,
}

/// A line that is being written. Takes fields by name, in the order they are to have; what has no
/// value is left out. Names are written as they are, values are escaped.
#[derive(Debug)]
pub struct Line<'a, W = String> {
    out: &'a mut W,
    format: LogFormat,
    /// What stands before the next field of a text line.
    separator: char,
    result: fmt::Result,
}

impl<'a, W: Write> Line<'a, W> {
    pub(crate) fn begin(out: &'a mut W, format: LogFormat, head: &Head<'_>) -> Self {
        let result = match format {
            LogFormat::Text => begin_text(out, head),
            LogFormat::Json => begin_json(out, head),
        };
        Self {
            out,
            format,
            separator: '\t',
            result,
        }
    }

    /// Ends the line, and says whether all of it could be written.
    pub(crate) fn end(self) -> fmt::Result {
        self.result?;
        self.out.write_str(match self.format {
            LogFormat::Text => "\n",
            LogFormat::Json => "}\n",
        })
    }

    /// A field that is text.
    pub fn text<'v>(&mut self, name: &str, value: impl Into<Option<&'v str>>) {
        if let Some(value) = value.into() {
            self.quoted(name, |line| line.escape(value));
        }
    }

    /// A field as people read it.
    pub fn display(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.quoted(name, |line| line.escape_all(format_args!("{value}")));
        }
    }

    /// A field as programmers read it.
    pub fn debug(&mut self, name: &str, value: Option<impl Debug>) {
        if let Some(value) = value {
            self.quoted(name, |line| line.escape_all(format_args!("{value:?}")));
        }
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: impl Into<Option<u64>>) {
        if let Some(value) = value.into() {
            self.field(name, |line| line.digits(value));
        }
    }

    /// An address, as `IP:PORT` or `[IP]:PORT`.
    pub fn address(&mut self, name: &str, value: impl Into<Option<SocketAddr>>) {
        match value.into() {
            Some(SocketAddr::V4(address)) => self.quoted(name, |line| {
                for (place, octet) in address.ip().octets().into_iter().enumerate() {
                    if place > 0 {
                        line.out.write_char('.')?;
                    }
                    line.digits(octet.into())?;
                }
                line.out.write_char(':')?;
                line.digits(address.port().into())
            }),
            v6_or_none => self.display(name, v6_or_none),
        }
    }

    /// A time in milliseconds, such as `1.024ms`.
    pub fn millis(&mut self, name: &str, value: Duration) {
        self.quoted(name, |line| {
            line.digits(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))?;
            let micros = value.subsec_micros() % 1000;
            write_digits(line.out, ".", [micros / 100, micros / 10 % 10, micros % 10])?;
            line.out.write_str("ms")
        });
    }

    /// An id, as lower-case hexadecimal digits.
    pub fn hex(&mut self, name: &str, value: Option<&[u8]>) {
        if let Some(id) = value {
            self.quoted(name, |line| {
                let digits = |byte: &u8| [u32::from(byte >> 4), u32::from(byte & 15)];
                id.iter()
                    .try_for_each(|byte| write_digits(line.out, "", digits(byte)))
            });
        }
    }

    /// A value that needs neither quotes nor escapes, in any form.
    pub(crate) fn bare(&mut self, name: &str, value: impl Display) {
        self.field(name, |line| write!(line.out, "{value}"));
    }

    pub(crate) fn format(&self) -> LogFormat {
        self.format
    }

    fn quoted(&mut self, name: &str, value: impl FnOnce(&mut Self) -> fmt::Result) {
        self.field(name, |line| {
            line.out.write_char('"')?;
            value(line)?;
            line.out.write_char('"')
        });
    }

    fn field(&mut self, name: &str, value: impl FnOnce(&mut Self) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.name(name).and_then(|()| value(self));
        }
    }

    fn name(&mut self, name: &str) -> fmt::Result {
        match self.format {
            LogFormat::Text => {
                self.out.write_char(self.separator)?;
                self.separator = ' ';
                self.out.write_str(name)?;
                self.out.write_char('=')
            }
            LogFormat::Json => {
                self.out.write_str(",\"")?;
                self.out.write_str(name)?;
                self.out.write_str("\":")
            }
        }
    }

    fn digits(&mut self, number: u64) -> fmt::Result {
        self.out.write_str(itoa::Buffer::new().format(number))
    }

    fn escape(&mut self, text: &str) -> fmt::Result {
        match self.format {
            LogFormat::Text => Escaped(&mut *self.out).write_str(text),
            LogFormat::Json => EscapedJson(&mut *self.out).write_str(text),
        }
    }

    fn escape_all(&mut self, value: fmt::Arguments<'_>) -> fmt::Result {
        match self.format {
            LogFormat::Text => Escaped(&mut *self.out).write_fmt(value),
            LogFormat::Json => EscapedJson(&mut *self.out).write_fmt(value),
        }
    }
}

fn begin_text(out: &mut impl Write, head: &Head<'_>) -> fmt::Result {
    clock::with_text(head.time, |time| out.write_str(time))?;
    for part in ["\t", level(head.level), "\t", head.scope, "\t"] {
        out.write_str(part)?;
    }
    Escaped(out).write_str(head.message)
}

fn begin_json(out: &mut impl Write, head: &Head<'_>) -> fmt::Result {
    out.write_str("{\"level\":\"")?;
    out.write_str(level(head.level))?;
    out.write_str("\",\"time\":\"")?;
    clock::with_text(head.time, |time| out.write_str(time))?;
    out.write_str("\",\"scope\":\"")?;
    EscapedJson(&mut *out).write_str(head.scope)?;
    out.write_str("\",\"message\":\"")?;
    EscapedJson(&mut *out).write_str(head.message)?;
    out.write_char('"')
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Writes digits of a base up to 16.
fn write_digits<const N: usize>(
    out: &mut impl Write,
    before: &str,
    digits: [u32; N],
) -> fmt::Result {
    out.write_str(before)?;
    let digits = digits
        .iter()
        .filter_map(|digit| char::from_digit(*digit, 16));
    digits
        .into_iter()
        .try_for_each(|digit| out.write_char(digit))
}
