//! A setting's value, as text and typed. The invariant: what is shown is valid input.

use super::LogFormat;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// A value as a person gave it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Given {
    /// From a variable or a flag, or a string in the file.
    Text(String),
    /// A number in the file.
    Number(i64),
    /// A switch in the file.
    Switch(bool),
    /// A list in the file, or a repeated flag.
    List(Vec<String>),
}

impl Given {
    /// From the file; nothing when it is a date or a mixed list.
    pub(super) fn of_toml(value: toml::Value) -> Option<Self> {
        Some(match value {
            toml::Value::String(text) => Self::Text(text),
            toml::Value::Integer(number) => Self::Number(number),
            toml::Value::Boolean(is_on) => Self::Switch(is_on),
            toml::Value::Array(values) => {
                let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
                Self::List(texts.collect::<Option<_>>()?)
            }
            toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
        })
    }

    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.trim().to_owned()),
            Self::Number(_) | Self::Switch(_) | Self::List(_) => None,
        }
    }

    fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(number).ok(),
            Self::Text(text) => text.trim().replace('_', "").parse().ok(),
            Self::Switch(_) | Self::List(_) => None,
        }
    }

    fn switch(self) -> Option<bool> {
        match self {
            Self::Switch(is_on) => Some(is_on),
            Self::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Some(true),
                "false" | "0" | "no" | "off" => Some(false),
                _ => None,
            },
            Self::Number(_) | Self::List(_) => None,
        }
    }

    fn list(self) -> Option<Vec<String>> {
        match self {
            Self::List(texts) => Some(texts),
            Self::Text(text) => {
                Some(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
            }
            Self::Number(_) | Self::Switch(_) => None,
        }
    }
}

/// Where a setting's value is stored, and so what type it has.
pub(crate) enum Place<'a> {
    File(&'a mut PathBuf),
    Text(&'a mut String),
    List(&'a mut Vec<String>),
    Format(&'a mut LogFormat),
    Switch(&'a mut bool),
    /// 1 or more.
    Count(&'a mut usize),
    /// 1 or more.
    SmallCount(&'a mut u32),
    /// A percentage below 100.
    Percent(&'a mut u32),
    /// 0 or more.
    Rate(&'a mut u64),
    /// More than nothing.
    Period(&'a mut Duration),
    /// More than nothing, or no limit.
    Age(&'a mut Option<Duration>),
    /// 0 or more, or no limit.
    Most(&'a mut Option<u64>),
    /// A size, or no limit.
    Size(&'a mut Option<u64>),
}

impl Place<'_> {
    /// Sets a value.
    ///
    /// # Errors
    /// What it must be, phrased to follow its name.
    pub(super) fn set(self, given: Given) -> Result<(), &'static str> {
        match self {
            Self::File(place) => {
                let text = given.text().filter(|text| !text.is_empty());
                *place = PathBuf::from(text.ok_or("must be a path")?);
            }
            Self::Text(place) => *place = given.text().ok_or("must be text")?,
            Self::List(place) => *place = given.list().ok_or("must be a list of strings")?,
            Self::Format(place) => {
                *place = match given.text().as_deref() {
                    Some("text") => LogFormat::Text,
                    Some("json") => LogFormat::Json,
                    _ => return Err("must be text or json"),
                }
            }
            Self::Switch(place) => *place = given.switch().ok_or("must be true or false")?,
            Self::Count(place) => {
                let number = given.number().and_then(|number| usize::try_from(number).ok());
                *place = number.filter(|number| (1..=1 << 32).contains(number)).ok_or(COUNT)?;
            }
            Self::SmallCount(place) => {
                let number = given.number().and_then(|number| u32::try_from(number).ok());
                *place = number.filter(|number| *number > 0).ok_or(COUNT)?;
            }
            Self::Percent(place) => {
                let number = given.number().and_then(|number| u32::try_from(number).ok());
                *place = number.filter(|number| *number < 100).ok_or("must be a whole number from 0 to 99")?;
            }
            Self::Rate(place) => *place = given.number().ok_or("must be a number, 0 or more")?,
            Self::Period(place) => {
                let text = given.text().ok_or(PERIOD)?;
                let period = crate::times::parse_duration(&text).map_err(|_| PERIOD)?;
                *place = Some(period).filter(|period| (SHORTEST..=LONGEST).contains(period)).ok_or(PERIOD)?;
            }
            Self::Age(place) => {
                let text = given.text().ok_or(AGE)?;
                *place = match text.as_str() {
                    NONE => None,
                    text => {
                        let age = crate::times::parse_duration(text).map_err(|_| AGE)?;
                        Some(Some(age).filter(|age| (SHORTEST..=OLDEST).contains(age)).ok_or(AGE)?)
                    }
                };
            }
            Self::Most(place) => {
                *place = match &given {
                    Given::Text(text) if text.trim() == NONE => None,
                    _ => Some(given.number().filter(|number| *number <= 1 << 60).ok_or(MOST)?),
                };
            }
            Self::Size(place) => {
                *place = match &given {
                    Given::Text(text) if text.trim() == NONE => None,
                    Given::Text(text) => Some(parse_size(text).map_err(|_| SIZE)?),
                    _ => Some(given.number().ok_or(SIZE)?),
                };
            }
        }
        Ok(())
    }

    /// The value for people, in a form that can be entered again.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Text(text) => (*text).clone(),
            Self::List(texts) => texts.join(","),
            Self::Format(LogFormat::Text) => "text".to_owned(),
            Self::Format(LogFormat::Json) => "json".to_owned(),
            Self::Switch(is_on) => is_on.to_string(),
            Self::Count(count) => count.to_string(),
            Self::SmallCount(count) | Self::Percent(count) => count.to_string(),
            Self::Rate(rate) => rate.to_string(),
            Self::Period(length) => period(**length),
            Self::Age(age) => age.map_or_else(|| NONE.to_owned(), age_text),
            Self::Most(most) | Self::Size(most) => most.map_or_else(|| NONE.to_owned(), |most| most.to_string()),
        }
    }

    /// The value for programs.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::File(_)
            | Self::Text(_)
            | Self::Format(_)
            | Self::Period(_)
            | Self::Age(_)
            | Self::Most(None)
            | Self::Size(None) => json!(self.shown()),
            Self::List(texts) => json!(texts),
            Self::Switch(is_on) => json!(is_on),
            Self::Count(count) => json!(count),
            Self::SmallCount(count) | Self::Percent(count) => json!(count),
            Self::Rate(rate) => json!(rate),
            Self::Most(most) | Self::Size(most) => json!(most),
        }
    }
}

const COUNT: &str = "must be a whole number, 1 or more";
const PERIOD: &str = "must be a duration from 1ms to 1d, like 500ms, 30s or 5m";
const AGE: &str = "must be an age from 1ms to 36500d, like 12h or 30d, or none";
const MOST: &str = "must be a whole number, 0 or more, or none";
const SIZE: &str = "must be a size, like 500MB or 2GB, or none";
/// No limit.
const NONE: &str = "none";
const OLDEST: Duration = Duration::from_secs(36_500 * 86_400);
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(86_400);

/// `30d`, `12h`, `90s`.
fn age_text(age: Duration) -> String {
    let seconds = age.as_secs();
    match (age.subsec_nanos(), seconds % 86_400, seconds % 3_600) {
        (0, 0, _) => format!("{}d", seconds / 86_400),
        (0, _, 0) => format!("{}h", seconds / 3_600),
        _ => period(age),
    }
}

/// `30s`, `500ms`.
pub(super) fn period(length: Duration) -> String {
    match length.subsec_nanos() {
        0 => format!("{}s", length.as_secs()),
        _ => format!("{}ms", length.as_secs_f64() * 1e3),
    }
}

/// `2GB`, `500 MiB`, `1.5G`; a number alone is bytes. A thousand or 1024, as the unit says.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" | "byte" | "bytes" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => 0,
    };
    let bytes = number.replace('_', "").parse::<f64>().ok().map(|number| number * factor as f64);
    // What a file can be.
    let bytes = bytes.filter(|bytes| factor > 0 && *bytes <= (1_u64 << 60) as f64);
    bytes.map(|bytes| bytes as u64).ok_or_else(|| format!("{text:?} is not a size: write 500MB, 2GB or 1.5GiB"))
}
