//! `Tool`: something that tasks call over NATS.

use k8s_openapi::api::core::v1::Container;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, Duration, PodTemplate};

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
    status = "ToolStatus",
    derive = "PartialEq",
    doc = "Something that tasks of its namespace call over NATS. Its name is the tool_id of its events.",
    validation = Rule::new("size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be a DNS label: at most 63 lower-case letters, digits and '-', no dots (it becomes part of NATS subjects)"),
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
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("[has(self.exec), has(self.stdio), has(self.http)].filter(given, given).size() == 1")
        .message("a handler needs exactly one of: exec (a program for each call), stdio (one process for all calls), http (a web server)"),
    validation = Rule::new("has(self.http) || !(has(self.container.command) || has(self.container.args))")
        .message("with exec and stdio the executor starts the program: leave out container.command and container.args, and put the program into exec.command or stdio.command"),
    validation = Rule::new("has(self.http) || !has(self.container.lifecycle)")
        .message("with exec and stdio the executor runs in the container and needs the time that a hook would take: leave out container.lifecycle"),
    validation = Rule::new("!has(self.http) || self.http.port != 6960")
        .message("is the executor's own port: choose another one").field_path(".http.port"),
    validation = Rule::new("has(self.http) || !has(self.container.readinessProbe)")
        .message("with exec and stdio a pod is ready when the executor takes calls: leave out container.readinessProbe"),
)]
#[serde(rename_all = "camelCase")]
pub struct ToolHandler {
    /// The container with the program. With `http` it is started as it is; with `exec` and `stdio`
    /// the executor runs in it.
    #[schemars(schema_with = "super::schema::container")]
    pub container: Container,
    /// Starts a program for each call: the input as JSON on standard input, the output as JSON on
    /// standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<HandlerCommand>,
    /// Keeps a program running and gives it a line of JSON for each call; it writes one for each
    /// answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdio: Option<HandlerCommand>,
    /// Posts each call to a web server that runs in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HandlerAddress>,
    /// How many calls each pod works on at once; others wait. Default 1 with stdio, else 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: Option<u16>,
    /// How many pods serve. Default 1; left out, an autoscaler may decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<u16>,
    /// Labels, annotations and parts of the pods' spec, on top of the installation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// A program to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandlerCommand {
    /// The program and its arguments. No shell reads them; $(NAME) is replaced as in a container's
    /// command.
    #[schemars(length(min = 1, max = 256))]
    pub command: Vec<String>,
}

/// A web server in the same pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandlerAddress {
    /// Its port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The path to post to. Default /.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/[!-~]*$"))]
    pub path: Option<String>,
}

/// How the pods of a tool are. A tool that others serve has none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many pods there are.
    #[serde(default)]
    pub replicas: i32,
    /// How many of them take calls.
    #[serde(default)]
    pub ready_replicas: i32,
    /// `Ready`: whether a pod takes calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
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
