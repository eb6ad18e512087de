//! Durations of the Gateway API (GEP-2257).

use std::time::Duration;

/// Parses up to four numbers of at most five digits, each with its unit, such as `1h30m` or
/// `500ms`. `None` for anything else.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let unit = units.into_iter().find(|(unit, _)| after.starts_with(unit));
        let (unit, milliseconds) = unit?;
        total += Duration::from_millis(number * milliseconds);
        rest = &after[unit.len()..];
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("1h2m3s4ms", 3_723_004),
            ("99999h", 359_996_400_000),
            ("1s1s1s1s", 4_000),
        ] {
            let expected = Some(Duration::from_millis(milliseconds));
            assert_eq!(parse(text), expected, "{text}");
        }
        for bad in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "100000s",
            "1d",
            "1s1s1s1s1s",
            " 1s",
            "1s ",
            "1S",
            "1us",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
