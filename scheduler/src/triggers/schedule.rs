//! When a cron line is due.

use super::config::Schedule;
use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::str::FromStr;

/// A schedule whose line and time zone are good.
#[derive(Clone, Debug)]
pub struct Due {
    cron: Cron,
    zone: TimeZone,
}

impl Due {
    /// # Errors
    /// When the cron line or the time zone is none; the text says which.
    pub fn of(schedule: &Schedule) -> Result<Due, String> {
        let cron = Cron::from_str(&schedule.cron)
            .map_err(|e| format!("schedule {:?}: {:?} is no cron line: {e}", schedule.name, schedule.cron))?;
        let zone = TimeZone::get(&schedule.timezone)
            .map_err(|e| format!("schedule {:?}: {:?} is no time zone: {e}", schedule.name, schedule.timezone))?;
        Ok(Due { cron, zone })
    }

    /// The first moment after `after` that the line names. The line is read against the zone's wall clock: a time that
    /// a change to summer time skips is taken as the moment after the gap, one that happens twice as the first.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let wall = after.to_zoned_datetime(self.zone.clone()).datetime();
        // croner counts on chrono's wall clock; both read the same one.
        let mut from = chrono::DateTime::from_timestamp(seconds_of(wall)?, 0)?.naive_utc();
        loop {
            from = self.cron.find_next_occurrence(&from, false).ok()?;
            let second = Timestamp::from_second(from.and_utc().timestamp()).ok()?;
            let wall = second.to_zoned_datetime(TimeZone::UTC).datetime();
            let moment = self.zone.to_zoned_datetime(wall).ok()?.timestamp();
            // When clocks go back, the wall time after an hour that happens twice can lie before `after`.
            if moment > after {
                return Some(moment);
            }
        }
    }
}

/// Seconds since 1970 of a wall clock, as if it were UTC's.
fn seconds_of(wall: jiff::civil::DateTime) -> Option<i64> {
    Some(TimeZone::UTC.to_zoned_datetime(wall).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, zone: &str, after: &str) -> String {
        let schedule = Schedule {
            name: "nightly".into(),
            cron: cron.into(),
            timezone: zone.into(),
            ref_name: "master".into(),
            variables: std::collections::BTreeMap::new(),
        };
        Due::of(&schedule).unwrap().next(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn next_moment_is_strictly_later_and_in_the_zone_of_the_line() {
        for (cron, zone, after, expected) in [
            ("0 4 * * *", "UTC", "2026-06-01T03:59:59Z", "2026-06-01T04:00:00Z"),
            ("0 4 * * *", "UTC", "2026-06-01T04:00:00Z", "2026-06-02T04:00:00Z"),
            ("0 4 * * *", "Europe/Oslo", "2026-06-01T00:00:00Z", "2026-06-01T02:00:00Z"),
            ("*/15 * * * *", "UTC", "2026-06-01T00:07:00Z", "2026-06-01T00:15:00Z"),
            ("0 0 29 2 *", "UTC", "2026-06-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            // 02:30 does not exist on the day that summer time begins: it is taken an hour later.
            ("30 2 * * *", "Europe/Oslo", "2026-03-28T23:00:00Z", "2026-03-29T01:30:00Z"),
            // It happens twice on the day that it ends: the first one counts, and the next is a day later.
            ("30 2 * * *", "Europe/Oslo", "2026-10-24T23:00:00Z", "2026-10-25T00:30:00Z"),
            ("30 2 * * *", "Europe/Oslo", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ] {
            assert_eq!(next(cron, zone, after), expected, "{cron} {zone} after {after}");
        }
    }

    #[test]
    fn bad_line_and_bad_zone_are_named() {
        let mut schedule = Schedule {
            name: "nightly".into(),
            cron: "61 * * * *".into(),
            timezone: "UTC".into(),
            ref_name: "master".into(),
            variables: std::collections::BTreeMap::new(),
        };
        assert!(Due::of(&schedule).unwrap_err().contains("is no cron line"));
        schedule.cron = "1 * * * *".into();
        schedule.timezone = "Mars/Olympus".into();
        assert!(Due::of(&schedule).unwrap_err().contains("is no time zone"));
    }
}
