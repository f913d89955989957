//! Kubernetes Events, only for what a person must see.

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tracing::warn;

use super::fence::Fence;
use crate::api::Duration;

/// An Event is worth no longer wait.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Writes Events.
#[derive(Clone)]
pub struct Warnings {
    recorder: Recorder,
    fence: Fence,
}

impl Warnings {
    /// Events that say they come from this operator.
    pub fn new(client: Client, fence: Fence, instance: &str) -> Warnings {
        let reporter = Reporter {
            controller: "compozy-operator".into(),
            instance: Some(instance.to_owned()),
        };
        Warnings {
            recorder: Recorder::new(client, reporter),
            fence,
        }
    }

    /// A deleted object was let go before NATS had all of its events.
    pub async fn let_go<K: Resource<DynamicType = ()>>(&self, object: &K, grace: Duration) {
        let event = Event {
            type_: EventType::Warning,
            reason: "EventsLost".to_owned(),
            note: Some(format!(
                "NATS was away for {grace} after the deletion; events of this object were not published"
            )),
            action: "LetGo".to_owned(),
            secondary: None,
        };
        let reference = object.object_ref(&());
        let Some(left) = self.fence.left() else {
            return;
        };
        let written = self.recorder.publish(&event, &reference);
        match tokio::time::timeout(TIMEOUT.min(left), written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "an Event could not be written"),
            Err(_) => warn!("an Event could not be written in time"),
        }
    }
}
