//! Lines in the node's log about what is on disk, in the form that the node's process uses (daemon/lean.py).

use crate::command::settings::{Name, Settings};
use std::io::Write;

/// Who writes lines, and how.
#[derive(Clone)]
pub struct Notes {
    name: String,
    json: bool,
}

impl Notes {
    /// As the settings say.
    pub fn new(settings: &Settings) -> Notes {
        let id = settings.text(Name::node_id);
        let name = if id.is_empty() { format!("node-{}", settings.number(Name::port)) } else { id.to_owned() };
        Notes { name, json: settings.text(Name::log_format) == "json" }
    }

    /// Something worth knowing.
    pub fn info(&self, event: &str, fields: &[(&str, &dyn std::fmt::Display)]) {
        self.write("info", event, fields);
    }

    /// Something an operator should look at.
    pub fn error(&self, event: &str, fields: &[(&str, &dyn std::fmt::Display)]) {
        self.write("error", event, fields);
    }

    fn write(&self, level: &str, event: &str, fields: &[(&str, &dyn std::fmt::Display)]) {
        let time = stamp(crate::clock::wall_ms());
        let line = if self.json {
            let mut line = serde_json::Map::new();
            let mut put = |key: &str, value: String| line.insert(key.to_owned(), value.into());
            put("time", time);
            put("level", level.to_owned());
            put("process", self.name.clone());
            put("event", event.to_owned());
            fields.iter().for_each(|(key, value)| drop(put(key, value.to_string())));
            serde_json::Value::from(line).to_string()
        } else {
            let fields: String = fields.iter().map(|(key, value)| format!(" {key}={value}")).collect();
            format!("{time} {level:<7} {} {event}{fields}", self.name)
        };
        // Nobody may read any more; serving goes on.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}

/// A time as `2026-11-26T07:05:04.123Z`.
pub fn stamp(ms: u64) -> String {
    let (days, rest) = ((ms / 86_400_000) as i64, ms % 86_400_000);
    // Civil date of a day number, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

#[test]
fn times_are_told_as_people_write_them() {
    assert_eq!(stamp(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(stamp(1_709_210_096_789), "2024-02-29T12:34:56.789Z");
    assert_eq!(stamp(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    assert_eq!(stamp(1_735_689_599_999), "2024-12-31T23:59:59.999Z");
}
