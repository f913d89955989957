//! Which objects a list or a watch is about.

use serde_json::Value;

use super::{kinds::Kind, refusal::Refusal, request::Request};

/// Conditions on labels and fields, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    labels: Vec<LabelRule>,
    /// Path, value, and whether they must be equal.
    fields: Vec<(String, String, bool)>,
}

#[derive(Clone, Debug, PartialEq)]
enum LabelRule {
    Exists(String),
    Missing(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

impl Selector {
    /// The selectors of a request.
    ///
    /// # Errors
    /// A selector that cannot be read, or a field that cannot be selected by.
    pub fn of(request: &Request) -> Result<Selector, Refusal> {
        let labels = split_outside_parentheses(request.parameter("labelSelector"))
            .into_iter()
            .map(label_rule)
            .collect::<Result<_, _>>()?;
        let fields = request
            .parameter("fieldSelector")
            .split(',')
            .filter(|term| !term.is_empty())
            .map(|term| field_rule(term, request.kind))
            .collect::<Result<_, _>>()?;
        Ok(Selector { labels, fields })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether this object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|rule| rule.holds(labels))
            && self.fields.iter().all(|(path, value, equal)| {
                let found = path.split('.').fold(object, |at, name| &at[name]);
                (found.as_str().unwrap_or_default() == value) == *equal
            })
    }
}

impl LabelRule {
    fn holds(&self, labels: &Value) -> bool {
        let value = |key: &str| labels.get(key).and_then(Value::as_str);
        match self {
            LabelRule::Exists(key) => value(key).is_some(),
            LabelRule::Missing(key) => value(key).is_none(),
            LabelRule::In(key, values) => {
                value(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            // A label that is not there differs from every value.
            LabelRule::NotIn(key, values) => {
                value(key).is_none_or(|value| values.iter().all(|one| one != value))
            }
        }
    }
}

fn label_rule(term: &str) -> Result<LabelRule, Refusal> {
    let term = term.trim();
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(LabelRule::NotIn(word(key)?, vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(LabelRule::In(word(key)?, vec![value.trim().to_owned()]));
    }
    if let Some(list) = term.strip_suffix(')') {
        let (head, values) = list.split_once('(').ok_or_else(|| unreadable(term))?;
        let values = values.split(',').map(|value| value.trim().to_owned());
        return match head.split_whitespace().collect::<Vec<_>>().as_slice() {
            [key, "in"] => Ok(LabelRule::In(word(key)?, values.collect())),
            [key, "notin"] => Ok(LabelRule::NotIn(word(key)?, values.collect())),
            _ => Err(unreadable(term)),
        };
    }
    match term.strip_prefix('!') {
        Some(key) => Ok(LabelRule::Missing(word(key)?)),
        None => Ok(LabelRule::Exists(word(term)?)),
    }
}

fn word(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !text.is_empty() && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(unreadable(text))
    }
}

fn unreadable(term: &str) -> Refusal {
    Refusal::bad_request(format!(
        "unable to parse requirement: found '{term}', expected: identifier"
    ))
}

fn field_rule(term: &str, kind: Kind) -> Result<(String, String, bool), Refusal> {
    let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (path, value, true)
    } else {
        return Err(Refusal::bad_request(format!(
            "invalid selector: '{term}'; can't understand '{term}'"
        )));
    };
    let known = path == "metadata.name"
        || path == "metadata.namespace" && kind.resource().namespaced
        || kind.resource().selectable.contains(&path);
    if known {
        Ok((path.to_owned(), value.to_owned(), equal))
    } else {
        Err(Refusal::bad_request(format!(
            "field label not supported: {path}"
        )))
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .filter(|term| !term.is_empty())
    .collect()
}
