//! Times as text.

use std::cell::Cell;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// Length of what stays the same within a second: up to the point.
const TO_THE_SECOND: usize = "2026-11-21T10:00:00.".len();

thread_local! {
    static CLOCK: Cell<Clock> = Cell::default();
}

/// Gives `write` a time as RFC 3339 in UTC with microseconds, always 27 characters, so that lines
/// align and sort. Nothing is allocated, and what each second has in common is computed once in a
/// thread.
pub(crate) fn with_text<R>(time: SystemTime, write: impl FnOnce(&str) -> R) -> R {
    // A thread that is ending has no such place any more.
    let mut clock = CLOCK.try_with(Cell::take).unwrap_or_default();
    let written = write(clock.text(time));
    let _ = CLOCK.try_with(|place| place.set(clock));
    written
}

/// The time that was last asked for.
#[derive(Default)]
struct Clock {
    second: u64,
    /// Empty at first.
    text: String,
}

impl Clock {
    fn text(&mut self, time: SystemTime) -> &str {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            self.render();
        }
        self.text.truncate(TO_THE_SECOND);
        let mut digits = [b'0'; 6];
        let mut left = since.subsec_micros();
        for digit in digits.iter_mut().rev() {
            // Less than ten.
            *digit += (left % 10) as u8;
            left /= 10;
        }
        self.text.extend(digits.map(char::from));
        self.text.push('Z');
        &self.text
    }

    fn render(&mut self) {
        let utc = SystemTime::UNIX_EPOCH + Duration::from_secs(self.second);
        let utc = OffsetDateTime::from(utc);
        self.text.clear();
        // Writing to a String cannot fail.
        let _ = write!(
            self.text,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.",
            utc.year(),
            u8::from(utc.month()),
            utc.day(),
            utc.hour(),
            utc.minute(),
            utc.second(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_fixed_width() {
        let at = |micros| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
            with_text(time, str::to_owned)
        };
        // The same second, the one before it, and a day that is not there every year.
        for (micros, text) in [
            (1_700_000_000_000_042, "2023-11-14T22:13:20.000042Z"),
            (1_700_000_000_987_654, "2023-11-14T22:13:20.987654Z"),
            (1_699_999_999_999_999, "2023-11-14T22:13:19.999999Z"),
            (1_709_164_800_000_000, "2024-02-29T00:00:00.000000Z"),
            (0, "1970-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(at(micros), text);
        }
    }
}
