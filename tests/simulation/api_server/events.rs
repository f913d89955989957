//! What an Event must say, and that only its series may change.

use serde_json::Value;

use super::refusal::{Cause, Refused};

/// Fields that must be there, and how long they may be.
const TEXTS: [(&str, usize); 4] = [
    ("reportingController", usize::MAX),
    ("reportingInstance", 128),
    ("action", 128),
    ("reason", 128),
];
const LONGEST_NOTE: usize = 1024;

/// What is wrong with an Event. Errors name fields as the older form of Events does.
pub fn objections(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let text = |field: &str| new[field].as_str().unwrap_or_default();
    let mut causes = Vec::new();
    if let Some(old) = old {
        let fixed = [
            "action",
            "eventTime",
            "note",
            "reason",
            "regarding",
            "reportingController",
        ];
        let more = ["related", "reportingInstance", "type"];
        for field in fixed.into_iter().chain(more) {
            if new[field] != old[field] {
                let shown = if field == "note" { "message" } else { field };
                let why = format!("Invalid value: {}: field is immutable", new[field]);
                causes.push(Cause::new(Refused::Invalid, shown, why));
            }
        }
    }
    if old.is_none() && new["eventTime"].is_null() {
        causes.push(Cause::new(Refused::Required, "eventTime", "Required value"));
    }
    for (field, longest) in TEXTS {
        if text(field).is_empty() {
            causes.push(Cause::new(Refused::Required, field, "Required value"));
        } else if text(field).len() > longest {
            let why = format!("Invalid value: \"\": can have at most {longest} characters");
            causes.push(Cause::new(Refused::Invalid, field, why));
        }
    }
    if text("note").len() > LONGEST_NOTE {
        let why = format!("Invalid value: \"\": can have at most {LONGEST_NOTE} characters");
        causes.push(Cause::new(Refused::Invalid, "message", why));
    }
    if !["Normal", "Warning"].contains(&text("type")) {
        let why = format!("Invalid value: \"\": has invalid value: {}", text("type"));
        causes.push(Cause::new(Refused::Invalid, "type", why));
    }
    causes
}
