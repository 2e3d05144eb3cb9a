//! The clocks of time zones: what they are called, and when the days of budgets begin and end by them.
//!
//! It reads no clock; it only asks the machine for its time zones. The invariant: a day is over when the next begins.

use jiff::tz::TimeZone;
use outlive_core::port::BudgetAccount;
use outlive_core::{Budget, BudgetDay, Definition, RunInfo, Timestamp};
use std::sync::Arc;

/// The time zone of this name, of the IANA time zone database.
///
/// # Errors
/// That this machine knows none of this name, and what to do.
pub(crate) fn zone(name: &str) -> Result<TimeZone, String> {
    let known = TimeZone::get(name).ok().filter(|zone| !zone.is_unknown());
    known.ok_or_else(|| {
        format!(
            "{name:?} is not a time zone that this machine knows: write a name such as Europe/Berlin or UTC, or install the \
             time zone database (tzdata)"
        )
    })
}

/// What keeps the days of this budget from being counted, in words for a person.
///
/// ```
/// use outlive_core::Budget;
/// use outlive_engine::budget_problem;
///
/// assert_eq!(budget_problem(&Budget::usd(5.0).per_day().time_zone("Europe/Berlin")), None);
/// assert!(budget_problem(&Budget::usd(5.0).per_day().time_zone("Berlin")).is_some());
/// ```
pub fn budget_problem(budget: &Budget) -> Option<String> {
    let problem = zone(budget.time_zone.as_deref()?).err()?;
    Some(format!("the time zone of a budget ({}): {problem}", budget.name()))
}

/// The same of all budgets of a workflow.
pub fn budget_problems(definition: &Definition) -> Vec<String> {
    definition.spending.iter().flat_map(|spending| &spending.budgets).filter_map(budget_problem).collect()
}

/// The account that a call at this time counts against. A time zone that is not known, which whoever builds a workflow
/// refuses, is UTC.
pub(crate) fn account(budget: &Budget, run: &RunInfo, now: Timestamp) -> BudgetAccount {
    let day = budget.time_zone.as_deref().and_then(|name| day(&zone(name).ok()?, now));
    budget.account_on(run, day.unwrap_or_else(|| BudgetDay::utc(now)))
}

fn day(zone: &TimeZone, now: Timestamp) -> Option<BudgetDay> {
    let date = jiff::Timestamp::from_microsecond(now.as_micros()).ok()?.to_zoned(zone.clone()).date();
    let next = date.tomorrow().ok()?.to_zoned(zone.clone()).ok()?;
    let ends_at = Timestamp::from_micros(next.timestamp().as_microsecond());
    Some(BudgetDay { date: Arc::from(date.to_string()), ends_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_micros(text.parse::<jiff::Timestamp>().expect("a time").as_microsecond())
    }

    #[test]
    fn days_begin_by_the_clocks_of_their_zone_also_where_those_are_changed() {
        for (name, now, date, ends_at) in [
            ("UTC", "2026-03-29T23:59:59Z", "2026-03-29", "2026-03-30T00:00:00Z"),
            ("Europe/Berlin", "2026-01-01T22:59:59Z", "2026-01-01", "2026-01-01T23:00:00Z"),
            ("Europe/Berlin", "2026-01-01T23:00:00Z", "2026-01-02", "2026-01-02T23:00:00Z"),
            // 23 hours, and 25.
            ("Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29", "2026-03-29T22:00:00Z"),
            ("Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25", "2026-10-25T23:00:00Z"),
            ("America/New_York", "2026-11-27T04:59:59Z", "2026-11-26", "2026-11-27T05:00:00Z"),
            ("Asia/Kathmandu", "2026-11-27T18:15:00Z", "2026-11-28", "2026-11-28T18:15:00Z"),
            // Clocks skipped midnight, and a whole day.
            ("America/Sao_Paulo", "2018-11-04T02:59:59Z", "2018-11-03", "2018-11-04T03:00:00Z"),
            ("Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29", "2011-12-30T10:00:00Z"),
            ("Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-31", "2011-12-31T10:00:00Z"),
        ] {
            let found = day(&zone(name).expect(name), at(now)).expect("a day");
            assert_eq!((&*found.date, found.ends_at), (date, at(ends_at)), "{now} in {name}");
        }
    }

    #[test]
    fn each_moment_is_in_the_day_that_ends_next_after_it() {
        for name in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia"] {
            let zone = zone(name).expect(name);
            let (mut now, end) = (at("2011-01-01T00:00:00Z"), at("2013-01-01T00:00:00Z"));
            let mut last = day(&zone, now).expect("a day");
            while now < end {
                now = now + std::time::Duration::from_secs(17 * 60);
                let today = day(&zone, now).expect("a day");
                assert_eq!(today.date != last.date, now >= last.ends_at, "{name} {}", now.to_rfc3339());
                assert!(today.date >= last.date && today.ends_at > now, "{name} {}", now.to_rfc3339());
                last = today;
            }
        }
    }

    #[test]
    fn a_zone_that_nobody_knows_is_refused_by_name() {
        for name in ["Mars/X", "Etc/Unknown", "", "../../etc/passwd", "Europe/Berlin ", "+02:00"] {
            let problem = budget_problem(&Budget::calls(1).per_day().time_zone(name)).expect(name);
            assert!(problem.contains("is not a time zone") && problem.contains("Europe/Berlin or UTC"), "{problem}");
        }
    }
}
