//! Times and durations as people and programs read them.

use clap::ValueEnum;
use jiff::tz::TimeZone;
use outlive::core::Timestamp;
use std::time::Duration;

/// How a time is shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimeFormat {
    /// `3 min ago`, `in 3 min`.
    Relative,
    /// In the time zone of this machine.
    Local,
    /// RFC 3339 in UTC.
    Utc,
}

/// Now, by the system's clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
}

/// RFC 3339 in UTC with milliseconds: what JSON carries.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    format!("{:.3}", instant(at))
}

/// A time for people.
pub(crate) fn shown(at: Timestamp, format: TimeFormat, now: Timestamp) -> String {
    match format {
        TimeFormat::Utc => format!("{:.0}", instant(at)),
        TimeFormat::Local => instant(at).to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        TimeFormat::Relative if at > now => ahead(at, now),
        TimeFormat::Relative => format!("{} ago", coarse(now.since(at))),
    }
}

/// A future time: `in 12 s`.
pub(crate) fn ahead(at: Timestamp, now: Timestamp) -> String {
    format!("in {}", coarse(at.since(now)))
}

/// A duration in its largest unit: `14 s`, `3 min`, `2 h`, `5 d`.
fn coarse(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A span of work: `2.1 s`, `3 min 5 s`.
pub(crate) fn span(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    // A run of 500 million years is not expected.
    let whole = seconds as u64;
    format!("{} min {} s", whole / 60, whole % 60)
}

/// `30s`, `5m`, `1.5h`, `1d`, `200ms`; a number alone is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => return Err(format!("{text:?} is not a duration: write 30s, 5m, 2h or 1d")),
    };
    let duration = number.parse::<f64>().ok().and_then(|number| Duration::try_from_secs_f64(number * seconds).ok());
    duration.ok_or_else(|| format!("{text:?} is not a duration: write 30s, 5m, 2h or 1d"))
}

fn instant(at: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_write_them() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        for wrong in ["", "x", "-3s", "5 years", "1e400d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_relative_for_people_and_rfc_3339_for_programs() {
        let at = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20.123Z");
        assert_eq!(shown(at, TimeFormat::Relative, at + Duration::from_secs(200)), "3 min ago");
        assert_eq!(shown(at + Duration::from_secs(200), TimeFormat::Relative, at), "in 3 min");
        assert_eq!(shown(at, TimeFormat::Relative, at), "0 s ago");
        assert_eq!(shown(at, TimeFormat::Utc, at), "2023-11-14T22:13:20Z");
        assert_eq!(span(2.14), "2.1 s");
        assert_eq!(span(185.0), "3 min 5 s");
    }
}
