//! When scheduled backups are made.

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// The numbers of hours between two backups. Each divides a day, so that backups are made at the same times every day.
const HOURS: [u64; 8] = [1, 2, 3, 4, 6, 8, 12, 24];

/// When backups are made. All times are in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupSchedule {
    /// Every so many hours, counted from midnight.
    EveryHours(u64),
    /// Once a day, so many minutes after midnight.
    DailyAt(u64),
}

impl BackupSchedule {
    /// The time between two backups, in milliseconds.
    #[must_use]
    pub const fn period_ms(self) -> u64 {
        match self {
            Self::EveryHours(hours) => hours * HOUR_MS,
            Self::DailyAt(_) => DAY_MS,
        }
    }

    /// The latest time up to `now_ms` at which a backup has become due. Both in milliseconds since 1970.
    #[must_use]
    pub const fn due_ms(self, now_ms: u64) -> u64 {
        let offset_ms = match self {
            Self::EveryHours(_) => 0,
            Self::DailyAt(minutes) => minutes * MINUTE_MS,
        };
        let period_ms = self.period_ms();
        now_ms.saturating_sub(offset_ms) / period_ms * period_ms + offset_ms
    }
}

/// Parses `every Nh` or `daily HH:MM`; an empty text means no backups.
pub(super) fn schedule(text: &str) -> Result<Option<BackupSchedule>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let every = || {
        let hours = text.strip_prefix("every ")?.trim().strip_suffix('h')?.parse().ok()?;
        HOURS.contains(&hours).then_some(BackupSchedule::EveryHours(hours))
    };
    let daily = || {
        let (hours, minutes) = text.strip_prefix("daily ")?.trim().split_once(':')?;
        let number = |text: &str, below: u64| {
            let is_plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|number: &u64| is_plain && *number < below)
        };
        Some(BackupSchedule::DailyAt(number(hours, 24)? * 60 + number(minutes, 60)?))
    };
    every().or_else(daily).map(Some).ok_or_else(|| {
        "must be 'every Nh' (N is 1, 2, 3, 4, 6, 8, 12 or 24) or 'daily HH:MM', in UTC".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_or_refused() {
        assert_eq!(schedule(""), Ok(None));
        for (text, want) in [
            ("every 1h", BackupSchedule::EveryHours(1)),
            ("every 24h", BackupSchedule::EveryHours(24)),
            ("daily 00:00", BackupSchedule::DailyAt(0)),
            ("daily 23:59", BackupSchedule::DailyAt(23 * 60 + 59)),
        ] {
            assert_eq!(schedule(text), Ok(Some(want)), "{text}");
        }
        for bad in [
            "hourly",
            "every 5h",
            "every 0h",
            "every 6",
            "every h",
            "daily",
            "daily 24:00",
            "daily 2:30",
            "daily 02:60",
            "daily +2:30",
            "02:30",
        ] {
            assert!(schedule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_backup_is_due_from_its_time_until_the_next_one() {
        let midnight_ms = 20_000 * DAY_MS;
        let six = BackupSchedule::EveryHours(6);
        assert_eq!(six.due_ms(midnight_ms + 6 * HOUR_MS - 1), midnight_ms);
        assert_eq!(six.due_ms(midnight_ms + 6 * HOUR_MS), midnight_ms + 6 * HOUR_MS);
        let night = BackupSchedule::DailyAt(150);
        let half_past_two_ms = midnight_ms + 150 * MINUTE_MS;
        assert_eq!(night.due_ms(half_past_two_ms - 1), half_past_two_ms - DAY_MS);
        assert_eq!(night.due_ms(half_past_two_ms), half_past_two_ms);
        assert_eq!(night.due_ms(half_past_two_ms + DAY_MS - 1), half_past_two_ms);
    }
}
