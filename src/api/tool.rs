//! `Tool`: something that tasks call over NATS.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, HandlerPods, ServerStatus, schema};

/// How long an answer is waited for where the tool does not say.
pub const DEFAULT_TOOL_TIMEOUT: Duration = Duration::from_secs(60);

/// What a tool is and who serves it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "compozy.dev",
    version = "v1alpha1",
    kind = "Tool",
    plural = "tools",
    category = "compozy",
    namespaced,
    status = "ServerStatus",
    derive = "PartialEq",
    doc = "Something that tasks of its namespace call over NATS. Its name is the tool_id of its events.",
    validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Timeout", type_ = "string", json_path = ".spec.timeout"),
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
)]
#[x_kube(
    validation = Rule::new("(has(self.external) && self.external) != has(self.handler)")
        .message("a tool needs exactly one of: external: true (whoever subscribes to its subject serves it, such as `executor tool serve`), handler (the operator runs what serves it)"),
    validation = Rule::new("has(self.handler) || !has(oldSelf.handler)")
        .message("a tool keeps its handler, for its pods serve it: delete it and create it again as external"),
)]
#[serde(rename_all = "camelCase")]
pub struct ToolSpec {
    /// What it does, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// It is served by whoever subscribes to its subject, in the queue group of its name:
    /// `executor tool serve`, or a NATS client of any language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<bool>,
    /// It is served by pods that the operator runs: a Deployment of the name
    /// compozy-tool-<tool>.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<ToolHandler>,
    /// How long an answer is waited for, such as 90s or 1h30m. Default 1m. Then the call has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

impl ToolSpec {
    /// How long an answer is waited for.
    pub fn patience(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TOOL_TIMEOUT)
    }
}

/// Pods that serve a tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolHandler {
    /// The pods.
    #[serde(flatten)]
    pub pods: HandlerPods,
    /// How many calls each pod works on at once; others wait. Default 1 with stdio, else 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: Option<u16>,
}

/// The tool that a task calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolRef {
    /// The name of a Tool in the workflow's namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
}
