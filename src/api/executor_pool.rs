//! `ExecutorPool`: workers that are there before the tasks are.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HandlerPods, ServerStatus, schema};

/// How many tasks a pod works on at once where the pool does not say.
const DEFAULT_SLOTS: u16 = 8;

/// Pods that work on tasks. Each attempt of a task is one call of their program.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "compozy.dev",
    version = "v1alpha1",
    kind = "ExecutorPool",
    plural = "executorpools",
    shortname = "xp",
    category = "compozy",
    namespaced,
    status = "ServerStatus",
    derive = "PartialEq",
    doc = "Workers that are there before the tasks are: pods that take tasks of their namespace, so that a task starts in milliseconds.",
    validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Slots", type_ = "integer", json_path = ".spec.slots", description = "tasks that each pod works on at once, if not the default"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
)]
#[serde(rename_all = "camelCase")]
pub struct ExecutorPoolSpec {
    /// What it does, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// The pods: a Deployment of the name compozy-pool-<pool>.
    #[serde(flatten)]
    pub pods: HandlerPods,
    /// How many tasks each pod works on at once; others wait for a free slot of any pod. Default 1
    /// with stdio, else 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub slots: Option<u16>,
}

impl ExecutorPoolSpec {
    /// How many tasks each pod works on at once.
    pub fn slots(&self) -> u16 {
        let usual = if self.pods.stdio.is_some() {
            1
        } else {
            DEFAULT_SLOTS
        };
        self.slots.unwrap_or(usual)
    }
}

/// The pool that runs a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolRef {
    /// The name of an ExecutorPool in the workflow's namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Which of the pool's functions is meant: its program is told. For pools that can do more than
    /// one thing. No spaces: programs are told in their environment, web servers in a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[!-~]+$"))]
    pub handler: Option<String>,
}
