//! Times in the format that existing clients read.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A time such as `3/30/2026, 1:08:26 PM`, in US English and in the time zone of this machine. `time_ms` is in
/// milliseconds since the Unix epoch.
pub(super) fn us_english(time_ms: u64) -> String {
    us_english_in(time_ms, TimeZone::system())
}

fn us_english_in(time_ms: u64, zone: TimeZone) -> String {
    let time = i64::try_from(time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let time = time.unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone);
    let (hour, half) = match time.hour() {
        0 => (12, "AM"),
        hour @ 1..12 => (hour, "AM"),
        12 => (12, "PM"),
        hour => (hour - 12, "PM"),
    };
    let (month, day, year) = (time.month(), time.day(), time.year());
    format!("{month}/{day}/{year}, {hour}:{:02}:{:02} {half}", time.minute(), time.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn midnight_and_noon_are_twelve() {
        let at = |seconds: u64| us_english_in(seconds * 1_000, TimeZone::UTC);
        assert_eq!(at(1_774_876_106), "3/30/2026, 1:08:26 PM");
        assert_eq!(at(0), "1/1/1970, 12:00:00 AM");
        assert_eq!(at(12 * 3_600 + 61), "1/1/1970, 12:01:01 PM");
    }
}
