//! Events of `tracing` as lines.

use std::fmt::{self, Debug, Write};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::line::{Head, Line, LogFormat};

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
        let mut message = Message::default();
        event.record(&mut message);
        let head = Head {
            level: *event.metadata().level(),
            time: SystemTime::now(),
            scope: event.metadata().target(),
            message: &message.0,
        };
        let mut line = Line::begin(&mut writer, self.0, &head);
        event.record(&mut Fields(&mut line));
        line.end()
    }
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

/// Everything but the message, which the line has already.
struct Fields<'a, 'b, W>(&'a mut Line<'b, W>);

impl<W: Write> Visit for Fields<'_, '_, W> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != MESSAGE {
            self.0.debug(field.name(), Some(value));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE {
            self.0.text(field.name(), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.bare(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match self.0.format() {
            LogFormat::Text => self.0.bare(field.name(), value),
            // JSON has no NaN and no infinity.
            LogFormat::Json => self.0.bare(field.name(), serde_json::Value::from(value)),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.bare(field.name(), value);
    }
}

#[cfg(test)]
pub(crate) mod tests;
