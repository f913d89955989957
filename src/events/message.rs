//! An event as a message: a CloudEvent in binary mode, its attributes in headers and its data as JSON.

use bytes::Bytes;

use super::names::{Entity, Subjects, event_type};
use super::payload::{About, AboutCall, Details, Payload, Referenced, ReferencedCall};
use crate::ports::Message;

/// A larger body goes by reference. NATS takes 1 MiB by default; subscribers should not have to.
const BODY_LIMIT: usize = 256 * 1024;

/// A change of state, ready to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    about: About,
    call: Option<AboutCall>,
    entity: Entity,
    name: &'static str,
    dataref: String,
    message: Message,
}

impl Event {
    pub(super) fn new(
        subjects: &Subjects,
        entity: Entity,
        name: &'static str,
        about: About,
        details: Details,
        dataref: String,
    ) -> Self {
        let uid = match &about.task {
            Some(task) => &task.task_exec_id,
            None => &about.workflow_exec_id,
        };
        let call = details.call().cloned();
        let instance = call.as_ref().map_or(uid, |call| &call.tool_exec_id);
        let message = Message {
            subject: subjects.event(entity, instance, name),
            filter: subjects.chain(entity, instance),
            id: format!("{uid}:{}", about.sequence),
            headers: headers(&about, entity, uid, instance, name),
            payload: body(&about, details),
        };
        let mut event = Self {
            about,
            call,
            entity,
            name,
            dataref,
            message,
        };
        if event.message.payload.len() > BODY_LIMIT {
            event.message = event.by_reference();
        }
        event
    }

    /// Its place in its object's history.
    pub fn sequence(&self) -> u64 {
        self.about.sequence
    }

    /// The message that tells it.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The message with a reference to the object instead of the details, for a server that takes no more.
    pub fn by_reference(&self) -> Message {
        let dataref = self.dataref.clone();
        let details = match self.call.clone() {
            Some(call) => Details::ReferencedCall(ReferencedCall { call, dataref }),
            None => Details::Referenced(Referenced { dataref }),
        };
        let mut message = self.message.clone();
        message.headers.retain(|(name, _)| *name != "ce-dataref");
        message.headers.push(("ce-dataref", self.dataref.clone()));
        message.payload = body(&self.about, details);
        message
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.entity.as_str(),
            self.name,
            self.message.id
        )
    }
}

fn headers(
    about: &About,
    entity: Entity,
    uid: &str,
    instance: &str,
    name: &str,
) -> Vec<(&'static str, String)> {
    let About {
        namespace,
        workflow_exec_id,
        sequence,
        timestamp,
        ..
    } = about;
    let kind = event_type(entity, name);
    let entity = entity.as_str();
    vec![
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", format!("{uid}:{sequence}")),
        ("ce-type", kind),
        (
            "ce-source",
            format!("/namespaces/{namespace}/workflows/{workflow_exec_id}"),
        ),
        ("ce-subject", format!("{entity}/{instance}")),
        ("ce-time", timestamp.to_string()),
        ("ce-sequence", sequence.to_string()),
        ("ce-datacontenttype", "application/json".to_owned()),
    ]
}

fn body(about: &About, details: Details) -> Bytes {
    let payload = Payload {
        about: about.clone(),
        details,
    };
    // Nothing in it can fail to be JSON: all keys are strings.
    serde_json::to_vec(&payload).unwrap_or_default().into()
}
