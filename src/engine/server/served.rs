//! The kinds of objects that pods serve which the operator runs.

use kube::{Resource, core::object::HasStatus};

use crate::api::{ExecutorPool, HandlerPods, LABEL_POOL, LABEL_TOOL, ServerStatus, Tool};

/// A kind of object that pods serve which the operator runs.
pub trait Served: Resource<DynamicType = ()> + HasStatus<Status = ServerStatus> {
    /// What its pods have that those of other kinds have not.
    const MANNER: Manner;

    /// Its pods, unless others serve it.
    fn pods(&self) -> Option<&HandlerPods>;

    /// How much a pod works on at once, if the executor is told.
    fn at_once(&self) -> Option<u16>;
}

/// How the pods of one kind of object differ from those of another.
#[derive(Debug)]
pub struct Manner {
    /// What messages call such an object.
    pub what: &'static str,
    /// What messages call that which its pods take.
    pub takes: &'static str,
    /// Where its pods stand in it.
    pub path: &'static str,
    /// What the names of its Deployments begin with.
    pub prefix: &'static str,
    /// The label of its Deployments and pods, which has its name.
    pub label: &'static str,
    /// The container with the user's program.
    pub container: &'static str,
    /// What the executor is to do, before its name.
    pub command: &'static [&'static str],
    /// The variable that says how much a pod works on at once.
    pub at_once: &'static str,
    /// The variable that says how long what is under way may go on after SIGTERM.
    pub grace: &'static str,
    /// So many seconds before its pod is killed the executor has to end what is under way, to tell of what was cut off.
    pub farewell: i64,
    /// The variable that says how the pod is called, if the executor wants to know.
    pub pod: Option<&'static str>,
}

impl Manner {
    /// The name of the Deployment that serves the object `name`.
    pub fn deployment(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name of the object that the Deployment `name` serves, if it is one of this kind's.
    pub fn served_by<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.prefix)
    }
}

impl Served for Tool {
    const MANNER: Manner = Manner {
        what: "tool",
        takes: "calls",
        path: "spec.handler",
        prefix: "compozy-tool-",
        label: LABEL_TOOL,
        container: "tool",
        command: &["tool", "serve"],
        at_once: "COMPOZY_TOOL_CONCURRENCY",
        grace: "COMPOZY_TOOL_GRACE",
        farewell: 5,
        pod: None,
    };

    fn pods(&self) -> Option<&HandlerPods> {
        let handler = self.spec.handler.as_ref();
        handler.map(|handler| &handler.pods)
    }

    fn at_once(&self) -> Option<u16> {
        self.spec.handler.as_ref()?.concurrency
    }
}

impl Served for ExecutorPool {
    const MANNER: Manner = Manner {
        what: "pool",
        takes: "tasks",
        path: "spec",
        prefix: "compozy-pool-",
        label: LABEL_POOL,
        container: "handler",
        command: &["worker"],
        at_once: "COMPOZY_SLOTS",
        grace: "COMPOZY_GRACE",
        // What is handed back has to be stored.
        farewell: 10,
        pod: Some("COMPOZY_WORKER"),
    };

    fn pods(&self) -> Option<&HandlerPods> {
        Some(&self.spec.pods)
    }

    fn at_once(&self) -> Option<u16> {
        Some(self.spec.slots())
    }
}
