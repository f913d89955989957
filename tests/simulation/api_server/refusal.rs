//! What the API server says when it does not do what it was asked: a `Status`.

use serde_json::{Value, json};

use super::kinds::{Resource, qualified};

/// A `Status` of failure.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal(Box<Value>);

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    pub reason: Refused,
    /// Where, such as `spec.tasks[0].name`.
    pub field: String,
    /// What.
    pub message: String,
}

/// Why a field is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Forbidden,
    Invalid,
    NamespaceTerminating,
    NotSupported,
    Required,
    TooLong,
    TooMany,
    Type,
}

impl Refused {
    fn word(self) -> &'static str {
        match self {
            Refused::Forbidden => "FieldValueForbidden",
            Refused::Invalid => "FieldValueInvalid",
            Refused::NamespaceTerminating => "NamespaceTerminating",
            Refused::NotSupported => "FieldValueNotSupported",
            Refused::Required => "FieldValueRequired",
            Refused::TooLong => "FieldValueTooLong",
            Refused::TooMany => "FieldValueTooMany",
            Refused::Type => "FieldValueTypeInvalid",
        }
    }
}

impl Cause {
    pub fn new(reason: Refused, field: &str, message: impl Into<String>) -> Cause {
        Cause {
            reason,
            field: field.to_owned(),
            message: message.into(),
        }
    }

    /// Whether the object is so wrong that its rules are not even looked at.
    pub fn blocks_rules(&self) -> bool {
        matches!(
            self.reason,
            Refused::NotSupported
                | Refused::Required
                | Refused::TooLong
                | Refused::TooMany
                | Refused::Type
        )
    }
}

impl Refusal {
    /// Any failure; `reason` is the word that programs look at.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Refusal {
        Refusal(Box::new(json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message.into(),
            "reason": reason,
            "code": code,
        })))
    }

    /// The HTTP status.
    pub fn code(&self) -> u16 {
        let code = self.0["code"].as_u64().unwrap_or(500);
        u16::try_from(code).unwrap_or(500)
    }

    /// The body of the answer.
    pub fn body(&self) -> &Value {
        &self.0
    }

    /// With what the failure is about.
    pub fn about(mut self, resource: &Resource, name: &str) -> Refusal {
        self.0["details"] = details(name, resource.group, resource.plural);
        self
    }

    fn with_causes(mut self, causes: &[Cause]) -> Refusal {
        self.0["details"]["causes"] = causes
            .iter()
            .map(|cause| {
                json!({"reason": cause.reason.word(), "message": cause.message, "field": cause.field})
            })
            .collect();
        self
    }

    pub fn not_found(resource: &Resource, name: &str) -> Refusal {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Refusal::new(404, "NotFound", message).about(resource, name)
    }

    /// The path leads nowhere: the kind is not installed.
    pub fn no_such_path() -> Refusal {
        let message = "the server could not find the requested resource";
        let mut refusal = Refusal::new(404, "NotFound", message);
        refusal.0["details"] = json!({});
        refusal
    }

    pub fn already_exists(resource: &Resource, name: &str, found: &Value) -> Refusal {
        let deleted = !found["metadata"]["deletionTimestamp"].is_null();
        let message = format!(
            "{}{} \"{name}\" already exists",
            if deleted {
                "object is being deleted: "
            } else {
                ""
            },
            resource.qualified()
        );
        Refusal::new(409, "AlreadyExists", message).about(resource, name)
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Refusal {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            resource.qualified()
        );
        Refusal::new(409, "Conflict", message).about(resource, name)
    }

    /// Somebody else wrote first.
    pub fn modified(resource: &Resource, name: &str) -> Refusal {
        Refusal::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "BadRequest", message)
    }

    pub fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Refusal {
        let all: Vec<_> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        let list = match all.as_slice() {
            [one] => one.clone(),
            more => format!("[{}]", more.join(", ")),
        };
        let group = group_of_kind(resource);
        let of = qualified(resource.kind, group);
        let mut refusal = Refusal::new(
            422,
            "Invalid",
            format!("{of} \"{name}\" is invalid: {list}"),
        );
        refusal.0["details"] = details(name, group, resource.kind);
        refusal.with_causes(causes)
    }

    /// What does not exist has no version.
    pub fn version_on_create() -> Refusal {
        let mut refusal = Refusal::new(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        );
        if let Value::Object(status) = refusal.0.as_mut() {
            status.remove("reason");
        }
        refusal
    }

    /// What a patch makes of an object cannot be read as one.
    pub fn patch_unfit(wrong: &Refusal) -> Refusal {
        let why = wrong.0["message"].as_str().unwrap_or_default();
        let cause = Cause::new(Refused::Invalid, "patch", format!("Invalid value: {why}"));
        let message = format!(" \"\" is invalid: patch: {}", cause.message);
        let mut refusal = Refusal::new(422, "Invalid", message);
        refusal.0["details"] = json!({});
        refusal.with_causes(&[cause])
    }

    /// A deletion was meant for another object, or another version; it says so of the kind, not
    /// of the resource.
    pub fn precondition_failed(resource: &Resource, name: &str, why: &str) -> Refusal {
        let group = group_of_kind(resource);
        let of = qualified(resource.kind, group);
        let message = format!("Operation cannot be fulfilled on {of} \"{name}\": {why}");
        let mut refusal = Refusal::new(409, "Conflict", message);
        refusal.0["details"] = details(name, group, resource.kind);
        refusal
    }

    /// This kind is never overwritten blindly.
    pub fn version_missing(resource: &Resource, name: &str) -> Refusal {
        let cause = Cause::new(
            Refused::Invalid,
            "metadata.resourceVersion",
            "Invalid value: 0: must be specified for an update",
        );
        let mut refusal = Refusal::invalid(resource, name, &[cause]);
        let of = resource.qualified();
        refusal.0["message"] = format!(
            "{of} \"{name}\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
        )
        .into();
        refusal.0["details"]["kind"] = resource.plural.into();
        refusal
    }

    /// A namespace that is being deleted takes nothing new in.
    pub fn namespace_terminating(resource: &Resource, name: &str, namespace: &str) -> Refusal {
        let message = format!(
            "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
            resource.qualified()
        );
        Refusal::new(403, "Forbidden", message)
            .about(resource, name)
            .with_causes(&[Cause::new(
                Refused::NamespaceTerminating,
                "metadata.namespace",
                format!("namespace {namespace} is being terminated"),
            )])
    }

    /// What was asked for is no longer kept.
    pub fn expired(message: impl Into<String>) -> Refusal {
        Refusal::new(410, "Expired", message)
    }

    pub fn invalid_version(version: &str) -> Refusal {
        Refusal::bad_request(format!(
            "invalid resource version \"{version}\": strconv.ParseUint: parsing \"{version}\": invalid syntax"
        ))
    }

    pub fn unsupported_media_type() -> Refusal {
        Refusal::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )
    }

    /// Too many requests, as the real one answers while it is overloaded.
    pub fn too_many_requests(retry_after_seconds: u32) -> Refusal {
        let mut refusal = Refusal::new(
            429,
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later",
        );
        refusal.0["details"] = json!({"retryAfterSeconds": retry_after_seconds});
        refusal
    }

    /// Something broke inside.
    pub fn internal(message: &str) -> Refusal {
        Refusal::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// It is there but does not work, as a load balancer says it too.
    pub fn unavailable() -> Refusal {
        Refusal::new(
            503,
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
        )
    }

    /// A quota allows no further object.
    pub fn over_quota(resource: &Resource, name: &str) -> Refusal {
        let message = format!(
            "{} \"{name}\" is forbidden: exceeded quota: all, requested: {plural}=1, used: {plural}=1, limited: {plural}=1",
            resource.qualified(),
            plural = resource.plural
        );
        Refusal::new(403, "Forbidden", message).about(resource, name)
    }

    /// An admission webhook says no.
    pub fn by_webhook(why: &str) -> Refusal {
        let message = format!("admission webhook \"no.example.com\" denied the request: {why}");
        Refusal::new(400, "BadRequest", message)
    }
}

/// Events of either group are kept as those of the core group.
fn group_of_kind(resource: &Resource) -> &'static str {
    if resource.kind == "Event" {
        ""
    } else {
        resource.group
    }
}

fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut details = json!({"kind": kind});
    for (key, value) in [("name", name), ("group", group)] {
        if !value.is_empty() {
            details[key] = value.into();
        }
    }
    details
}
