//! When a world is at rest.

use serde_json::Value;

use crate::{
    api_server::Kind,
    cases::UnderWay,
    world::{NAMESPACE, World},
};

impl World {
    /// What there is in pools and is to go.
    pub fn left_in_pools(&self) -> Vec<String> {
        self.pools.left(|uid| self.laws.is_taken(uid))
    }

    /// What keeps the world from being at rest.
    pub fn unfinished(&self) -> Vec<String> {
        let mut found = Vec::new();
        for kind in [Kind::Workflow, Kind::TaskExecution, Kind::Pod] {
            for (key, object) in self.all(kind) {
                let metadata = &object["metadata"];
                let held = metadata["finalizers"]
                    .as_array()
                    .is_some_and(|held| !held.is_empty());
                let deleted = !metadata["deletionTimestamp"].is_null();
                let ended = kind == Kind::Pod || !object["status"]["finishedAt"].is_null();
                let expires = kind == Kind::Workflow && ended && has_ttl(&object);
                if held || deleted || !ended || expires {
                    let phase = &object["status"]["phase"];
                    found.push(format!(
                        "{kind:?} {}: {phase}, finalizers {}, deleted {deleted}",
                        key.name, metadata["finalizers"]
                    ));
                }
            }
        }
        found.extend(self.left_in_pools());
        let namespace = self.api.get(Kind::Namespace, "", NAMESPACE);
        if namespace.is_none_or(|it| !it["metadata"]["deletionTimestamp"].is_null()) {
            found.push("the namespace is away".to_owned());
        }
        if self.case.as_ref().is_some_and(UnderWay::waits_for_users) {
            found.push("users are still to act".to_owned());
        }
        if !self.is_led() {
            found.push("no operator leads".to_owned());
        } else if !self.is_watched_by_its_leader() {
            // A list that is not answered is asked for anew after a minute.
            found.push("who leads does not see all of it yet".to_owned());
        }
        found
    }
}

/// Whether a run that has ended is deleted in a while.
fn has_ttl(run: &Value) -> bool {
    let field = match run["status"]["phase"] == "Succeeded" {
        true => "afterSucceeded",
        false => "afterFailed",
    };
    !run["spec"]["ttl"][field].is_null()
}
