//! One event as one line, in the two forms the ambient data plane's tools read.
//!
//! Text: `RFC3339 TAB level TAB scope TAB message TAB k="v" ...`; numbers and booleans are bare.
//! JSON: keys `level`, `time`, `scope`, `message`, then the fields.

use std::fmt::{self, Debug, Write};
use std::time::SystemTime;

use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::escape::Escaped;

/// Form of the log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Tab-separated, for people and grep.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes events as lines of one format.
pub(crate) struct LineFormat(pub(crate) LogFormat);

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self.0 {
            LogFormat::Text => text(&mut writer, event, SystemTime::now()),
            LogFormat::Json => json(&mut writer, event, SystemTime::now()),
        }
    }
}

fn text(out: &mut dyn Write, event: &Event<'_>, now: SystemTime) -> fmt::Result {
    let metadata = event.metadata();
    write_time(out, now)?;
    write!(
        out,
        "\t{}\t{}\t",
        level(metadata.level()),
        metadata.target()
    )?;
    let mut message = Message::default();
    event.record(&mut message);
    Escaped(&mut *out).write_str(&message.0)?;
    let mut fields = TextFields {
        out,
        separator: '\t',
        result: Ok(()),
    };
    event.record(&mut fields);
    fields.result?;
    out.write_char('\n')
}

fn json(out: &mut dyn Write, event: &Event<'_>, now: SystemTime) -> fmt::Result {
    let metadata = event.metadata();
    write!(
        out,
        "{{\"level\":\"{}\",\"time\":\"",
        level(metadata.level())
    )?;
    write_time(out, now)?;
    out.write_str("\",\"scope\":")?;
    write_json_string(out, metadata.target())?;
    let mut message = Message::default();
    event.record(&mut message);
    out.write_str(",\"message\":")?;
    write_json_string(out, &message.0)?;
    let mut fields = JsonFields {
        out,
        result: Ok(()),
    };
    event.record(&mut fields);
    fields.result?;
    out.write_str("}\n")
}

/// RFC 3339 in UTC with microseconds, always 27 characters, so that lines align and sort.
pub(crate) fn write_time(out: &mut dyn Write, time: SystemTime) -> fmt::Result {
    let utc = OffsetDateTime::from(time);
    write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        utc.year(),
        u8::from(utc.month()),
        utc.day(),
        utc.hour(),
        utc.minute(),
        utc.second(),
        utc.microsecond()
    )
}

fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn write_json_string(out: &mut dyn Write, text: &str) -> fmt::Result {
    out.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
}

const MESSAGE: &str = "message";

/// Picks the message out of an event's fields.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

struct TextFields<'a> {
    out: &'a mut dyn Write,
    separator: char,
    result: fmt::Result,
}

impl TextFields<'_> {
    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>, quoted: bool) {
        if self.result.is_ok() && field.name() != MESSAGE {
            self.result = self.try_field(field.name(), value, quoted);
        }
    }

    fn try_field(&mut self, name: &str, value: fmt::Arguments<'_>, quoted: bool) -> fmt::Result {
        write!(self.out, "{}{name}=", self.separator)?;
        self.separator = ' ';
        if !quoted {
            return self.out.write_fmt(value);
        }
        self.out.write_char('"')?;
        Escaped(&mut *self.out).write_fmt(value)?;
        self.out.write_char('"')
    }
}

impl Visit for TextFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, format_args!("{value:?}"), true);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, format_args!("{value}"), true);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, format_args!("{value}"), false);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, format_args!("{value}"), false);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, format_args!("{value}"), false);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, format_args!("{value}"), false);
    }
}

struct JsonFields<'a> {
    out: &'a mut dyn Write,
    result: fmt::Result,
}

impl JsonFields<'_> {
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut dyn Write) -> fmt::Result) {
        if self.result.is_ok() && field.name() != MESSAGE {
            self.result = write!(self.out, ",\"{}\":", field.name()).and_then(|()| value(self.out));
        }
    }
}

impl Visit for JsonFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, |out| write_json_string(out, &format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |out| write_json_string(out, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |out| write!(out, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |out| write!(out, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity.
        let value = serde_json::Value::from(value);
        self.field(field, |out| write!(out, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |out| write!(out, "{value}"));
    }
}

#[cfg(test)]
pub(crate) mod tests;
