//! JSON to CEL and back.

use super::{MAX_OUTPUT_BYTES, MAX_OUTPUT_DEPTH};
use cel::common::types::{
    CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelType,
    CelUInt, Kind,
};
use cel::common::value::{CowVal, Val};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;

/// The integers that JSON carries without loss everywhere: within ±2⁵³.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_992.0;

/// The CEL value of `json`. Text is borrowed, not copied.
///
/// Integral numbers within ±2⁵³ are `int`, however they are written (3, 3.0 and 3e0 are the same
/// number in JSON, and the API server writes them the same way); all others are `double`.
pub fn to_cel<'v>(json: &'v Value) -> Box<dyn Val + 'v> {
    match json {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Number(number) => number_to_cel(number),
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(items) => {
            Box::new(CelList::from(items.iter().map(to_cel).collect::<Vec<_>>()))
        }
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, value)| (key.as_str(), to_cel(value)));
            Box::new(map_to_cel(fields))
        }
    }
}

/// A CEL map with text for keys.
pub(super) fn map_to_cel<'v>(
    fields: impl IntoIterator<Item = (&'v str, Box<dyn Val + 'v>)>,
) -> CelMap<'v> {
    let entries = fields
        .into_iter()
        .map(|(key, value)| (CelMapKey::String(CelString::from(key)), value));
    CelMap::from(entries.collect::<HashMap<_, _>>())
}

fn number_to_cel<'v>(number: &Number) -> Box<dyn Val + 'v> {
    match (
        number.as_i64().filter(|value| is_safe(*value as f64)),
        number.as_f64(),
    ) {
        (Some(value), _) => Box::new(CelInt::from(value)),
        (None, Some(value)) if is_safe(value) => Box::new(CelInt::from(value as i64)),
        (None, value) => Box::new(CelDouble::from(value.unwrap_or(f64::NAN))),
    }
}

/// Whether `value` is an integer within ±2⁵³.
fn is_safe(value: f64) -> bool {
    value.fract() == 0.0 && value.abs() <= MAX_SAFE_INTEGER
}

/// The JSON of a CEL value, or what keeps it from being JSON.
///
/// An integral `double` within ±2⁵³ is written as an integer, `uint` as a number, a timestamp as
/// RFC 3339 text, a duration as text such as `5400s`, a type as its name, and the keys of a map as
/// text. Bytes are refused (there is more than one way to write them), and so are numbers that JSON
/// cannot hold, and results that are too large or too deep.
pub fn from_cel(value: &dyn Val) -> Result<Value, String> {
    Output::new().take(value, 0)
}

/// Converts results, and counts what they take of [`MAX_OUTPUT_BYTES`].
pub(super) struct Output {
    bytes: usize,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { bytes: 0 }
    }

    /// Counts `bytes` more.
    pub(super) fn count(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_OUTPUT_BYTES {
            return Err(format!(
                "the result is larger than {} KiB; keep large data elsewhere and pass a \
                 reference to it",
                MAX_OUTPUT_BYTES / 1024
            ));
        }
        Ok(())
    }

    /// The JSON of `value`, which will stand `depth` levels deep in something larger.
    pub(super) fn take(&mut self, value: &dyn Val, depth: usize) -> Result<Value, String> {
        if depth > MAX_OUTPUT_DEPTH {
            return Err(format!(
                "the result is nested more than {MAX_OUTPUT_DEPTH} levels deep"
            ));
        }
        if let Some(list) = value.downcast_ref::<CelList>() {
            return self.list(list, depth);
        }
        if let Some(map) = value.downcast_ref::<CelMap>() {
            return self.map(map, depth);
        }
        let json = scalar(value)?;
        self.count(match &json {
            Value::String(text) => text.len() + 2,
            _ => json.to_string().len(),
        })?;
        Ok(json)
    }

    fn list(&mut self, list: &CelList<'_>, depth: usize) -> Result<Value, String> {
        self.count(2 + list.len())?;
        let items = list.iter().map(|item| self.take(item.as_ref(), depth + 1));
        items.collect::<Result<_, _>>().map(Value::Array)
    }

    fn map(&mut self, map: &CelMap<'_>, depth: usize) -> Result<Value, String> {
        self.count(2)?;
        // Sorted, so that the first of two faults is always the same one.
        let mut entries: Vec<_> = map.iter().collect();
        entries.sort_by(|a, b| a.0.cmp(b.0));
        let mut fields = Map::new();
        for (key, value) in entries {
            let key = key_text(key);
            self.count(key.len() + 4)?;
            let value = self.take(value.as_ref(), depth + 1)?;
            if let Some(_twice) = fields.insert(key.clone(), value) {
                return Err(format!("a map has two keys that are `{key}` in JSON"));
            }
        }
        Ok(Value::Object(fields))
    }
}

fn key_text(key: &CelMapKey<'_>) -> String {
    match key {
        CelMapKey::String(text) => text.inner().to_owned(),
        CelMapKey::Int(value) => value.inner().to_string(),
        CelMapKey::UInt(value) => value.inner().to_string(),
        CelMapKey::Bool(value) => value.inner().to_string(),
    }
}

fn scalar(value: &dyn Val) -> Result<Value, String> {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return Ok(Value::from(text.inner()));
    }
    if let Some(number) = value.downcast_ref::<CelInt>() {
        return Ok(Value::from(*number.inner()));
    }
    if let Some(number) = value.downcast_ref::<CelDouble>() {
        return double(*number.inner());
    }
    if let Some(boolean) = value.downcast_ref::<CelBool>() {
        return Ok(Value::from(*boolean.inner()));
    }
    if let Some(number) = value.downcast_ref::<CelUInt>() {
        return Ok(Value::from(*number.inner()));
    }
    if let Some(name) = value.downcast_ref::<CelType>() {
        return Ok(Value::from(name.name()));
    }
    match value.get_type().kind() {
        Kind::NullType => Ok(Value::Null),
        Kind::Timestamp | Kind::Duration => text_of(value),
        _ if value.downcast_ref::<CelBytes>().is_some() => Err(
            "the result is bytes, which JSON does not have; string(…) makes text of them"
                .to_owned(),
        ),
        _ => Err(format!(
            "the result is a {}, which JSON does not have",
            value.get_type().name()
        )),
    }
}

fn double(value: f64) -> Result<Value, String> {
    if is_safe(value) {
        return Ok(Value::from(value as i64));
    }
    match Number::from_f64(value) {
        Some(number) => Ok(Value::Number(number)),
        None => Err(format!(
            "the result is {value}, which is not a number in JSON"
        )),
    }
}

/// What CEL's own `string(value)` gives.
fn text_of(value: &dyn Val) -> Result<Value, String> {
    let argument = [CowVal::Borrowed(value)];
    let string = super::scope::environment().find_overload("string", &argument);
    let [argument] = argument;
    let text = string.and_then(|string| string(vec![argument]).ok());
    let text = text.and_then(|text| {
        text.downcast_ref::<CelString>()
            .map(|text| text.inner().to_owned())
    });
    text.map(Value::from).ok_or_else(|| {
        format!(
            "the result is a {}, which has no text",
            value.get_type().name()
        )
    })
}

/// A value as it stands in text: a string as it is, all else as compact JSON.
pub(super) fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
