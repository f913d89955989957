//! Pods with a program of the user's, to which the executor gives what there is to do.

use k8s_openapi::api::core::v1::Container;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, PodTemplate};

/// What the pods of tools and of pools have in common. Calls are what the program is given: those of a tool, or the
/// attempts of a pool's tasks.
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
pub struct HandlerPods {
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

/// How the pods are that serve it. What others serve has none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
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
