//! Parses and formats values: numbers, sizes, times. Also the refusal of a value.

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

/// Why a value is refused. None if the allowed values say enough.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a sentence and nothing else")]
pub struct Refusal(pub Option<String>);

pub(super) fn because(why: impl Into<String>) -> Refusal {
    Refusal(Some(why.into()))
}

/// The longest time, a year. No limit is written as 0.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The range of all times.
pub(super) const ANY_TIME: RangeInclusive<Duration> = Duration::ZERO..=LONGEST;

/// Parses digits only: `parse` alone would accept a sign.
pub(super) fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text);
    let unit = match unit {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return None,
    };
    whole(number)?.checked_mul(unit)
}

pub(super) fn time(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    // `number` consists of digits and dots only: no sign, exponent or infinity.
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

/// The nanoseconds of `time`, at most `u64::MAX`.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Splits a text into the leading number and the unit.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// Formats a string or a list of strings for TOML, in which those of JSON are valid.
pub(super) fn quoted(text: &impl Serialize) -> String {
    serde_json::to_string(text).expect("strings always have a form in JSON")
}

/// The message of the system, without the number of the error.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
