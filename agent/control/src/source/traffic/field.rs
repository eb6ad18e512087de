//! Fields that several parts have.

use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::Fraction;

use super::spec;
use crate::source::decode::FieldError;
use crate::source::duration;

/// Path of a field within another.
pub(super) fn at(path: &str, field: &str) -> String {
    format!("{path}.{field}")
}

/// A duration in the form of GEP-2257; 0s is one.
pub(super) fn time(path: &str, text: &str) -> Result<Duration, FieldError> {
    let message = || format!("{text:?} is not a duration such as 500ms or 1m30s");
    duration::parse(text).ok_or_else(|| FieldError::new(path, message()))
}

/// One that is not 0s, or what holds without it.
pub(super) fn time_or(
    path: &str,
    text: Option<&String>,
    default: Duration,
) -> Result<Duration, FieldError> {
    let time = text.map_or(Ok(default), |text| time(path, text))?;
    match time.is_zero() {
        true => Err(FieldError::new(path, "has to be more than 0s")),
        false => Ok(time),
    }
}

/// A number within bounds, both included.
pub(super) fn within<T: PartialOrd + std::fmt::Display + Copy>(
    path: &str,
    number: T,
    least: T,
    most: T,
) -> Result<T, FieldError> {
    match number >= least && number <= most {
        true => Ok(number),
        false => Err(FieldError::new(
            path,
            format!("{number} is not within {least} and {most}"),
        )),
    }
}

/// A share of requests; all of them when nothing is said.
pub(super) fn share(
    path: &str,
    percent: Option<u32>,
    fraction: Option<&spec::Fraction>,
) -> Result<Fraction, FieldError> {
    let (numerator, denominator) = match (percent, fraction) {
        (Some(_), Some(_)) => {
            return Err(FieldError::new(path, "has both percent and fraction"));
        }
        (None, None) => return Ok(Fraction::ALL),
        (Some(percent), None) => (within(&at(path, "percent"), percent, 0, 100)?, 100),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
    };
    if denominator == 0 || numerator > denominator {
        let message = format!("{numerator} of {denominator}");
        return Err(FieldError::new(at(path, "fraction"), message));
    }
    Ok(Fraction {
        numerator,
        denominator,
    })
}

/// The name of a header, in lower case: a `token` of RFC 9110, 5.6.2.
pub(super) fn header(path: &str, name: &str) -> Result<Arc<str>, FieldError> {
    match is_token(name) {
        true => Ok(name.to_ascii_lowercase().into()),
        false => Err(FieldError::new(
            path,
            format!("{name:?} is not the name of a header"),
        )),
    }
}

/// True for a `token` of RFC 9110, 5.6.2; names of cookies are, too.
pub(super) fn is_token(text: &str) -> bool {
    let of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(of_token)
}

/// Bytes, as a number with or without `Ki`, `Mi` or `Gi`.
pub(super) fn size(path: &str, text: &str) -> Result<u64, FieldError> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
    let unit = units.into_iter().find(|(unit, _)| text.ends_with(unit));
    let (digits, shift) = unit.map_or((text, 0), |(unit, shift)| {
        (&text[..text.len() - unit.len()], shift)
    });
    let number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.then(|| digits.parse::<u64>().ok()).flatten();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| {
        FieldError::new(
            path,
            format!("{text:?} is not a size such as 512, 64Ki or 1Mi"),
        )
    })
}
