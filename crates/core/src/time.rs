//! Instants as data. Nothing here reads a clock; see [`crate::port::Clock`].

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An instant of the wall clock: microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since 1970.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From whole seconds since 1970.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since 1970.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, what Agno's `created_at` fields hold.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// As text, in UTC: `2026-11-23T03:35:27.640261Z` (RFC 3339).
    ///
    /// ```
    /// assert_eq!(outlive_core::Timestamp::from_seconds(1_700_000_000).to_rfc3339(), "2023-11-14T22:13:20Z");
    /// ```
    pub fn to_rfc3339(self) -> String {
        const DAY: i64 = 86_400;
        let (seconds, micros) = (self.as_seconds(), self.0.rem_euclid(1_000_000));
        let (year, month, day) = date_of(seconds.div_euclid(DAY));
        let second = seconds.rem_euclid(DAY);
        let time = format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60);
        let fraction = format!(".{micros:06}");
        let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
        format!("{year:04}-{month:02}-{day:02}T{time}{fraction}Z")
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Year, month and day of a day since 1970. Years are counted from March, so that the leap day is a year's last, and in
/// eras of 400, which all have as many days.
fn date_of(day: i64) -> (i64, i64, i64) {
    const DAYS_OF_ERA: i64 = 146_097;
    let since_march = day + 719_468;
    let (era, day) = (since_march.div_euclid(DAYS_OF_ERA), since_march.rem_euclid(DAYS_OF_ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (era * 400 + year + i64::from(month <= 2), month, day)
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_as_text_is_that_of_the_calendar() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00Z"),
            (951_868_799_500_000, "2000-02-29T23:59:59.5Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00Z"),
            (1_700_000_000_123_400, "2023-11-14T22:13:20.1234Z"),
            (-62_135_596_800_000_000, "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(Timestamp::from_micros(micros).to_rfc3339(), text);
        }
    }
}
