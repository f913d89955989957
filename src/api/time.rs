//! Points in time and spans as they are written in the resources.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, RFC 3339 with milliseconds. (`metav1.Time` has whole seconds: too coarse for
/// steps that follow each other in milliseconds.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub jiff::Timestamp);

impl Time {
    /// The span from `earlier` to this point; zero if `earlier` is later (clocks may step back).
    pub fn since(self, earlier: Time) -> std::time::Duration {
        std::time::Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or_default()
    }

    /// This point moved by `span`, or the latest representable point.
    pub fn after(self, span: std::time::Duration) -> Time {
        Time(self.0.saturating_add(span).unwrap_or(jiff::Timestamp::MAX))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        jiff::Timestamp::deserialize(deserializer).map(Time)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

/// A span of time as Go and Kubernetes write it: `1h30m`, `90s`, `250ms`. Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(std::time::Duration);

impl Duration {
    /// A span of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Duration(std::time::Duration::from_millis(millis))
    }

    /// A span of whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Duration(std::time::Duration::from_secs(secs))
    }

    /// The span as the standard library has it.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    /// Whole milliseconds, saturating.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl From<std::time::Duration> for Duration {
    fn from(span: std::time::Duration) -> Self {
        Duration(span)
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed: kube::core::Duration = text
            .parse()
            .map_err(|error| format!("{text:?} is not a duration such as 90s or 1h30m: {error}"))?;
        if parsed.is_negative() {
            return Err(format!("{text:?} is negative"));
        }
        Ok(Duration(parsed.into()))
    }
}

impl fmt::Display for Duration {
    /// The largest units that fit, zero ones left out: `1h30m`, `1.500s` is `1s500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": "^([0-9]{1,9}(\\.[0-9]{1,3})?(ms|s|m|h))+$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("90s", "1m30s")]
    #[case("1.5h", "1h30m")]
    #[case("1500ms", "1s500ms")]
    #[case("0s", "0s")]
    fn durations_are_written_in_the_largest_units(#[case] given: &str, #[case] written: &str) {
        let span: Duration = given.parse().unwrap();
        assert_eq!(span.to_string(), written);
        assert_eq!(written.parse::<Duration>().unwrap(), span);
    }

    #[rstest]
    #[case("-1s")]
    #[case("10")]
    #[case("soon")]
    fn what_is_no_duration_is_refused_with_an_example(#[case] given: &str) {
        assert!(given.parse::<Duration>().is_err());
    }

    #[test]
    fn times_keep_their_milliseconds() {
        let time: Time = serde_json::from_str("\"2026-01-02T03:04:05.678Z\"").unwrap();
        assert_eq!(
            serde_json::to_string(&time).unwrap(),
            "\"2026-01-02T03:04:05.678Z\""
        );
    }

    #[test]
    fn a_clock_that_stepped_back_gives_a_zero_span() {
        let early = Time(jiff::Timestamp::UNIX_EPOCH);
        let late = early.after(std::time::Duration::from_secs(5));
        assert_eq!(late.since(early).as_secs(), 5);
        assert_eq!(early.since(late).as_secs(), 0);
    }
}
