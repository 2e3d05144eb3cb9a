//! When a schedule is due: a cron expression read by the clocks of a time zone.
//!
//! It reads no clock itself; it only asks the machine for its time zones. The invariant: times come in order, each once.
//! A time that the clocks skip comes when they have moved on, and one that they show twice comes the first time; but what
//! repeats every hour, or more often, goes by what passes and not by what clocks show.

use crate::zone::zone as time_zone;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Zoned};
use outlive_core::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// The longest expression, in bytes.
const LEN_MAX: usize = 256;

/// How many expressions are kept.
const KNOWN_MAX: usize = 64;

/// The names of common expressions.
const NAMED: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// The fields, their longest steps, and what is expected in them. Without the first there are five.
const FIELDS: [(&str, u16, &str); 6] = [
    ("second", 59, "0-59"),
    ("minute", 59, "0-59"),
    ("hour", 23, "0-23"),
    ("day of the month", 30, "1-31, L for the last, or 15W for the weekday nearest to the 15th"),
    ("month", 11, "1-12 or JAN-DEC"),
    ("day of the week", 6, "0-7 or SUN-SAT, MON#2 for the second Monday, or MONL for the last"),
];

/// The longest time that a clock is put back.
const FOLD_MAX: SignedDuration = SignedDuration::from_hours(3);

/// Times that are passed over at most to find one that comes later: those of a night in which clocks are put back.
const SKIPPED_MAX: usize = 4 * 3_600;

/// When something is due.
#[derive(Clone)]
pub struct Cron {
    cron: Arc<croner::Cron>,
    zone: TimeZone,
    /// Whether it repeats every hour or more often.
    is_frequent: bool,
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?})", self.cron.as_str())
    }
}

impl Cron {
    /// Reads an expression of five fields, or of six that begin with seconds, or a name such as `@daily`. `zone` is a name
    /// of the IANA time zone database.
    ///
    /// # Errors
    /// What is wrong, where, and what is expected.
    pub fn parse(text: &str, zone: &str) -> Result<Self, CronError> {
        let zone = time_zone(zone).map_err(CronError::Zone)?;
        let bad = CronError::Cron;
        if text.len() > LEN_MAX {
            return Err(bad(format!("the expression has {} bytes, the limit is {LEN_MAX}", text.len())));
        }
        let text = expanded(text).map_err(bad)?;
        let fields = fields(text);
        let missing = FIELDS.len().checked_sub(fields.len()).filter(|missing| *missing < 2);
        let Some(missing) = missing else {
            return Err(bad(format!(
                "{text:?} has {} fields; expected are 5: minute, hour, day of the month, month, day of the week; or 6, \
                 with seconds before them; or a name such as @daily",
                fields.len()
            )));
        };
        for (number, (at, field)) in fields.iter().enumerate() {
            check(missing + number, *at, field).map_err(bad)?;
        }
        let cron = read(text).map_err(bad)?;
        Ok(Self { cron, zone, is_frequent: fields[2 - missing].1.starts_with('*') })
    }

    /// The first time after this one. None only at the end of the calendar.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let zoned = self.zoned(after)?;
        if self.is_frequent {
            return self.cron.find_next_occurrence(&zoned, false).ok().map(|next| from_jiff(next.timestamp()));
        }
        let mut civil = zoned.datetime();
        for _ in 0..SKIPPED_MAX {
            civil = self.cron.find_next_occurrence(&civil, false).ok()?;
            if let Some(next) = self.instant(civil).filter(|next| *next > after) {
                return Some(next);
            }
        }
        None
    }

    /// The last times from `from` to `to`, both included, in order; as many as `most`.
    pub fn last(&self, from: Timestamp, to: Timestamp, most: usize) -> VecDeque<Timestamp> {
        let mut found = VecDeque::new();
        let Some(zoned) = self.zoned(to) else { return found };
        let mut put = |time: Timestamp| {
            if time <= to && time >= from && found.front() != Some(&time) {
                found.push_front(time);
            }
            time >= from && found.len() < most
        };
        if self.is_frequent {
            let (mut time, mut is_included) = (zoned, true);
            while let Ok(earlier) = self.cron.find_previous_occurrence(&time, is_included)
                && put(from_jiff(earlier.timestamp()))
            {
                (time, is_included) = (earlier, false);
            }
            return found;
        }
        // Where clocks are put back, what they show later may have come already.
        let is_twice = !self.zone.to_ambiguous_timestamp(zoned.datetime()).offset_is_unambiguous();
        let begin = if is_twice { zoned.datetime().saturating_add(FOLD_MAX) } else { zoned.datetime() };
        let (mut civil, mut is_included) = (begin, true);
        while let Ok(earlier) = self.cron.find_previous_occurrence(&civil, is_included)
            && self.instant(earlier).is_some_and(&mut put)
        {
            (civil, is_included) = (earlier, false);
        }
        found
    }

    /// How many times there are from `from` to `to`, both included, counted up to `most`.
    pub fn count(&self, from: Timestamp, to: Timestamp, most: usize) -> usize {
        let before = Timestamp::from_micros(from.as_micros().saturating_sub(1));
        let times = std::iter::successors(self.next(before), |time| self.next(*time));
        times.take_while(|time| *time <= to).take(most).count()
    }

    fn zoned(&self, at: Timestamp) -> Option<Zoned> {
        Some(jiff::Timestamp::from_microsecond(at.as_micros()).ok()?.to_zoned(self.zone.clone()))
    }

    /// When clocks show this the first time; if they never do, when they have skipped it.
    fn instant(&self, civil: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        let is_skipped = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
        let shown = ambiguous.compatible().ok()?;
        if !is_skipped {
            return Some(from_jiff(shown));
        }
        let later = shown.checked_add(SignedDuration::from_secs(1)).ok()?;
        self.zone.preceding(later).next().map(|moved| from_jiff(moved.timestamp()))
    }
}

/// Why an expression, or a time zone, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The expression.
    #[error("{0}")]
    Cron(String),
    /// The time zone.
    #[error("{0}")]
    Zone(String),
}

fn from_jiff(time: jiff::Timestamp) -> Timestamp {
    Timestamp::from_micros(time.as_microsecond())
}

/// What was read before, by its text.
static KNOWN: LazyLock<Mutex<HashMap<String, Arc<croner::Cron>>>> = LazyLock::new(Mutex::default);

/// Reads six fields or five. The library writes down thousands of years for each, so it is asked once: many schedules have the
/// same expression.
fn read(text: &str) -> Result<Arc<croner::Cron>, String> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cron) = known.get(text) {
        return Ok(Arc::clone(cron));
    }
    let cron = parser().parse(text).map_err(|error| format!("{text:?}: {error}"))?;
    // A date that never comes is looked for through all years, so only once.
    if cron.find_next_occurrence(&DateTime::constant(2000, 1, 1, 0, 0, 0, 0), true).is_err() {
        return Err(format!("{text:?} never comes: there is no such date"));
    }
    if known.len() == KNOWN_MAX {
        known.clear();
    }
    Ok(Arc::clone(known.entry(text.to_owned()).or_insert(Arc::new(cron))))
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build()
}

/// What a name stands for.
fn expanded(text: &str) -> Result<&str, String> {
    let trimmed = text.trim();
    if !trimmed.starts_with('@') {
        return Ok(text);
    }
    let named = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(trimmed));
    let names = || NAMED.map(|(name, _)| name).join(", ");
    named.map(|(_, text)| *text).ok_or_else(|| format!("{trimmed:?} is none of {}", names()))
}

/// The fields of an expression, each with the number of its first character, from 1.
fn fields(text: &str) -> Vec<(usize, &str)> {
    let mut fields = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find(|c: char| !c.is_whitespace()) {
        let field = &rest[begin..];
        let end = field.find(char::is_whitespace).unwrap_or(field.len());
        let at = text[..text.len() - field.len()].chars().count() + 1;
        fields.push((at, &field[..end]));
        rest = &field[end..];
    }
    fields
}

/// Whether this can be field number `number` of [`FIELDS`]; it begins at character `at`.
fn check(number: usize, at: usize, field: &str) -> Result<(), String> {
    let alone: Vec<&str> = (0..FIELDS.len()).map(|other| if other == number { field } else { "*" }).collect();
    let is_empty = field.split(',').any(str::is_empty);
    let (name, step_max, expected) = FIELDS[number];
    if is_empty || parser().parse(&alone.join(" ")).is_err() {
        return Err(format!(
            "at character {at}: {field:?} is no {name}; expected is {expected}, *, a range 1-5, a list 1,3 or steps */2"
        ));
    }
    // Steps begin anew whenever the field does, so a longer one would be as good as none.
    let steps = field.split(',').filter_map(|part| part.split_once('/')?.1.parse::<u16>().ok());
    match steps.max() {
        Some(step) if step > step_max => Err(format!(
            "at character {at}: {field:?} has steps of {step}, and the field of the {name} can have steps of {step_max} at most: they \
             begin anew each time; for longer ones, use another field"
        )),
        _ => Ok(()),
    }
}

/// Whether clocks show a time once.
trait IsUnambiguous {
    fn offset_is_unambiguous(&self) -> bool;
}

impl IsUnambiguous for jiff::tz::AmbiguousTimestamp {
    fn offset_is_unambiguous(&self) -> bool {
        matches!(self.offset(), AmbiguousOffset::Unambiguous { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        from_jiff(text.parse().expect("a time"))
    }

    fn cron(text: &str, zone: &str) -> Cron {
        Cron::parse(text, zone).expect("good")
    }

    /// The next times after this one.
    fn times(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = cron(text, zone);
        let times = std::iter::successors(cron.next(at(after)), |time| cron.next(*time));
        times.take(count).map(Timestamp::to_rfc3339).collect()
    }

    #[test]
    fn what_clocks_skip_comes_once_when_they_have_moved_on() {
        // Clocks in Berlin skip 02:00 to 03:00 at 01:00 UTC; in New York at 07:00 UTC.
        let before = "2026-03-28T12:00:00Z";
        assert_eq!(times("30 2 * * *", "Europe/Berlin", before, 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        assert_eq!(
            times("0,20,40 2,3 * * *", "Europe/Berlin", before, 4),
            ["2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z", "2026-03-29T01:40:00Z", "2026-03-30T00:00:00Z"]
        );
        assert_eq!(times("*/20 2 * * *", "Europe/Berlin", before, 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
        assert_eq!(
            times("30 2 * * *", "America/New_York", "2026-03-08T00:00:00Z", 2),
            ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"]
        );
        // Clocks were skipped at midnight, and once for a whole day.
        assert_eq!(times("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", 1), ["2018-11-04T03:00:00Z"]);
        assert_eq!(
            times("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", 3),
            ["2011-12-29T19:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T19:00:00Z"]
        );
        // Every hour is every hour.
        assert_eq!(
            times("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3),
            ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"]
        );
    }

    #[test]
    fn what_clocks_show_twice_comes_once() {
        // Clocks in Berlin show 02:00 to 03:00 twice, from 00:00 and from 01:00 UTC; in New York from 05:00 UTC.
        let before = "2026-10-24T12:00:00Z";
        assert_eq!(times("30 2 * * *", "Europe/Berlin", before, 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        // Also for who asks between the two.
        assert_eq!(times("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1), ["2026-10-26T01:30:00Z"]);
        assert_eq!(
            times("0-40/20 2 * * *", "Europe/Berlin", before, 4),
            ["2026-10-25T00:00:00Z", "2026-10-25T00:20:00Z", "2026-10-25T00:40:00Z", "2026-10-26T01:00:00Z"]
        );
        assert_eq!(
            times("30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z", 2),
            ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"]
        );
        assert_eq!(
            times("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]
        );
    }

    #[test]
    fn the_last_times_are_the_next_ones_seen_from_their_end() {
        let zones = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo"];
        for zone in zones {
            let frequent = ["15 * * * *", "0 */6 * * 0", "30 */2 * * *", "45 0 */2 * * *", "*/25 */3 * * *"];
            for text in ["30 2 * * *", "*/20 1,2 * * *", "0 0 * * *", "45 1-3 * * *"].into_iter().chain(frequent) {
                let cron = cron(text, zone);
                for day in 0..40 {
                    // Each hour around where clocks change in 2026, and where they did in 2018.
                    let base = ["2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2018-11-03"];
                    let from = at(&format!("{}T00:00:00Z", base[day % base.len()]));
                    let to = from + std::time::Duration::from_secs(3_600 * (30 + day as u64));
                    let start = Timestamp::from_micros(from.as_micros() - 1);
                    let next = std::iter::successors(cron.next(start), |time| cron.next(*time));
                    let expected: VecDeque<Timestamp> = next.take_while(|time| *time <= to).collect();
                    let place = format!("{text} in {zone} until {}", to.to_rfc3339());
                    assert_eq!(cron.last(from, to, 1_000), expected, "{place}");
                    assert_eq!(cron.count(from, to, 1_000), expected.len(), "{place}");
                    let newest: VecDeque<Timestamp> = expected.iter().rev().take(3).rev().copied().collect();
                    assert_eq!(cron.last(from, to, 3), newest, "{place}");
                }
            }
        }
    }

    #[test]
    fn seconds_and_names_are_understood() {
        let now = "2026-03-28T23:30:05Z";
        assert_eq!(times("*/10 * * * * *", "UTC", now, 2), ["2026-03-28T23:30:10Z", "2026-03-28T23:30:20Z"]);
        assert_eq!(times("@daily", "UTC", now, 1), ["2026-03-29T00:00:00Z"]);
        assert_eq!(times(" @Hourly ", "UTC", now, 1), ["2026-03-29T00:00:00Z"]);
        assert_eq!(times("0 9 * * mon-fri", "UTC", now, 1), ["2026-03-30T09:00:00Z"]);
        assert_eq!(times("0 0 L * *", "UTC", now, 1), ["2026-03-31T00:00:00Z"]);
        // Either day, as everywhere.
        assert_eq!(times("0 0 1 * 0", "UTC", now, 2), ["2026-03-29T00:00:00Z", "2026-04-01T00:00:00Z"]);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_place() {
        for (text, part) in [
            ("60 * * * *", "at character 1: \"60\" is no minute; expected is 0-59"),
            ("0 9 * * MON-FRY", "at character 9: \"MON-FRY\" is no day of the week; expected is 0-7 or SUN-SAT"),
            ("0  24 * * *", "at character 4: \"24\" is no hour"),
            ("61 * * * * *", "at character 1: \"61\" is no second"),
            ("0 0 32 1 *", "at character 5: \"32\" is no day of the month"),
            ("0 0 1 13 *", "at character 7: \"13\" is no month"),
            ("0 9 * * MON,,TUE", "at character 9"),
            ("*/0 * * * *", "at character 1"),
            (
                "*/90 * * * *",
                "at character 1: \"*/90\" has steps of 90, and the field of the minute can have steps of 59 at most",
            ),
            ("0 1,*/24 * * *", "at character 3: \"1,*/24\" has steps of 24, and the field of the hour can"),
            ("0 0 * 1-12/12 *", "at character 7"),
            ("5-1 * * * *", "at character 1"),
            ("١ * * * *", "at character 1"),
            ("1-99999999999999999999 * * * *", "at character 1"),
            ("* * *", "has 3 fields; expected are 5"),
            ("* * * * * * *", "has 7 fields"),
            ("", "has 0 fields"),
            ("@reboot", "\"@reboot\" is none of @yearly"),
            ("0 0 30 2 *", "never comes"),
            ("0 0 31 4,6 *", "never comes"),
        ] {
            let error = Cron::parse(text, "UTC").expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let long = "1,".repeat(200) + "1 * * * *";
        assert!(Cron::parse(&long, "UTC").expect_err("too long").to_string().contains("limit is 256"));
        for zone in ["Mars/X", "Etc/Unknown", "", "../../etc/passwd", "Europe/Berlin "] {
            let error = Cron::parse("* * * * *", zone).expect_err(zone).to_string();
            assert!(error.contains("is not a time zone") && error.contains("Europe/Berlin or UTC"), "{zone}: {error}");
        }
    }
}
