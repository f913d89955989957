//! The namespace is deleted under the runs: nothing new comes into it, everything in it goes, and
//! somebody makes it again.

use serde_json::{Value, json};

use crate::{
    api_server::{Kind, Request},
    world::{NAMESPACE, World},
};

impl World {
    /// Somebody deletes the namespace, if it is not being deleted.
    pub fn end_namespace(&mut self) -> bool {
        let Some(namespace) = self.api.get(Kind::Namespace, "", NAMESPACE) else {
            return false;
        };
        if !namespace["metadata"]["deletionTimestamp"].is_null() {
            return false;
        }
        let request = Request::delete(Kind::Namespace, "", NAMESPACE, Value::Null);
        let deleted = self.ask("user", &request).is_ok();
        self.later(100, World::empty_namespace);
        deleted
    }

    /// What the namespace controller does, again and again until the namespace is gone.
    fn empty_namespace(&mut self) {
        for request in self.api.namespace_work() {
            let _ = self.ask("ns", &request);
        }
        self.api.remove_empty_namespaces();
        let is_there = self.api.get(Kind::Namespace, "", NAMESPACE).is_some();
        let wait = self.faults.dice.u64(500..5000);
        self.later(
            wait,
            if is_there {
                World::empty_namespace
            } else {
                World::make_namespace
            },
        );
    }

    fn make_namespace(&mut self) {
        let body = json!({"metadata": {"name": NAMESPACE}});
        let _ = self.ask("user", &Request::create(Kind::Namespace, "", body));
    }
}
