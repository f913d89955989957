//! What failed, as an event says it.

use serde_json::{Map, Value, json};

use super::payload::Failure;
use crate::api::{ErrorInfo, TransitionData};

impl Failure {
    /// The error, or the one that the status ended with, whose details say whose fault it was.
    pub fn of(data: &TransitionData, ended_with: Option<&ErrorInfo>) -> Failure {
        let error = data.error.as_ref().or(ended_with);
        let (message, code) = error
            .map(|error| (error.message.clone(), error.code.clone()))
            .unwrap_or_default();
        let mut details = match error.and_then(|error| error.details.clone()) {
            Some(Value::Object(details)) => details,
            Some(other) => Map::from_iter([("details".to_owned(), other)]),
            None => Map::new(),
        };
        if let Some(class) = data.class {
            details.entry("class").or_insert_with(|| json!(class));
        }
        Failure {
            message,
            code,
            details,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_an_object_and_say_whose_fault_it_was() {
        let failure = |data: Value| {
            serde_json::to_value(Failure::of(&TransitionData::read(Some(&data)), None)).unwrap()
        };
        assert_eq!(
            failure(
                json!({"class": "Infrastructure", "error": {"message": "m", "code": "EVICTED", "details": {"node": "n"}}})
            ),
            json!({"message": "m", "code": "EVICTED", "details": {"node": "n", "class": "Infrastructure"}})
        );
        assert_eq!(
            failure(json!({"error": {"message": "m", "code": "X"}})),
            json!({"message": "m", "code": "X", "details": {}})
        );
        assert_eq!(
            failure(json!({})),
            json!({"message": "", "code": "", "details": {}})
        );
    }
}
