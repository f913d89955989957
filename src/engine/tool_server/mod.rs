//! What the operator does about a tool that it serves: its Deployment, and what the tool's status says of that.

mod deployment;
#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use kube::{Resource, ResourceExt};

use super::{
    admission::{self, AllowList},
    field_error::FieldError,
    pod::PodSettings,
};
use crate::api::{
    Condition, ConditionStatus, LABEL_TOOL, PodTemplate, READY, Time, Tool, ToolHandler, ToolStatus,
};

use self::deployment::Program;
pub use deployment::TOKEN_AUDIENCE;

/// The installation's say about what serves tools.
#[derive(Clone, Debug, Default)]
pub struct ServerSettings {
    /// The image with the executor.
    pub executor_image: String,
    /// When it is pulled.
    pub executor_image_pull_policy: Option<String>,
    /// Where pods find NATS.
    pub nats_url: String,
    /// The first token of every subject.
    pub nats_prefix: String,
    /// Whether NATS asks the operator who connects, so that pods show it a token.
    pub vouched_for: bool,
    /// The certificates with which NATS shows who it is, as PEM, if the connection must be TLS.
    pub nats_ca: Option<String>,
    /// What pods may ask for.
    pub allow: AllowList,
    /// The overlay under every tool's own.
    pub pod_template: PodTemplate,
    /// How its pods are made.
    pub pods: PodSettings,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Make the Deployment so: this very one, if it has a UID.
    pub apply: Option<Box<Deployment>>,
    /// Write the tool's status.
    pub record: Option<ToolStatus>,
}

/// What to do about `tool`, whose Deployment is `found` at the moment. `refused` is what the API server said when the
/// Deployment was last written, if it said no.
pub fn plan(
    tool: &Tool,
    found: Option<&Deployment>,
    refused: Option<&str>,
    settings: &ServerSettings,
    now: Time,
) -> Plan {
    // What serves a tool that is being deleted goes with it.
    let Some(handler) = tool.spec.handler.as_ref().filter(|_| !is_going(tool)) else {
        return Plan::default();
    };
    let found = found.filter(|found| !is_going(*found));
    let mut apply = None;
    let ready = match check(handler, &settings.allow) {
        Err(errors) => Ready::no("InvalidSpec", errors),
        Ok(_) if found.is_some_and(|found| !is_ours(tool, found)) => Ready::no(
            "NameTaken",
            format!(
                "there is a Deployment {} that is not this tool's; delete it or rename the tool",
                found.map(ResourceExt::name_any).unwrap_or_default()
            ),
        ),
        Ok(program) => {
            let mut wanted = deployment::deployment(tool, handler, program, settings);
            let as_wanted = |found: &Deployment| {
                hash(found) == hash(&wanted) && found.labels().contains_key(LABEL_TOOL)
            };
            if !found.is_some_and(as_wanted) {
                wanted.metadata.uid = found.and_then(|found| found.metadata.uid.clone());
                apply = Some(Box::new(wanted));
            }
            match refused {
                Some(refused) => Ready::no("Refused", refused.to_owned()),
                None => Ready::of(found.and_then(|found| found.status.as_ref())),
            }
        }
    };
    let status = status(tool, found, ready, now);
    let record = (tool.status.as_ref() != Some(&status)).then_some(status);
    Plan { apply, record }
}

/// Whether pods of `deployment` take the calls of `tool`.
pub fn serves(deployment: &Deployment, tool: &Tool) -> bool {
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas);
    is_ours(tool, deployment) && ready.unwrap_or(0) > 0
}

fn is_going<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

fn is_ours(tool: &Tool, found: &Deployment) -> bool {
    let mut owners = found.owner_references().iter();
    owners.any(|owner| {
        owner.controller == Some(true) && Some(&owner.uid) == tool.metadata.uid.as_ref()
    })
}

fn hash(deployment: &Deployment) -> Option<&String> {
    deployment.annotations().get(deployment::ANNOTATION_HASH)
}

/// What is to answer the calls, or all that is wrong with the handler.
fn check<'a>(handler: &'a ToolHandler, allow: &AllowList) -> Result<Program<'a>, String> {
    let path = "spec.handler";
    let mut errors =
        admission::check_container(&handler.container, allow, &format!("{path}.container"));
    if let Some(template) = &handler.pod_template {
        let path = format!("{path}.podTemplate");
        errors.extend(admission::check_template(template, allow, &path));
    }
    let program = Program::of(handler);
    if program.is_none() {
        let message = "needs exactly one of: exec, stdio, http";
        errors.push(FieldError::new(path, message));
    }
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    program
        .filter(|_| texts.is_empty())
        .ok_or_else(|| texts.join("; "))
}

/// Whether a tool is served, and why.
struct Ready {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Ready {
    fn no(reason: &'static str, message: String) -> Ready {
        Ready {
            holds: false,
            reason,
            message,
        }
    }

    /// What the Deployment's own controller says.
    fn of(status: Option<&DeploymentStatus>) -> Ready {
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let failure = conditions.into_iter().flatten().find(|condition| {
            let wanted = if condition.type_ == "ReplicaFailure" {
                "True"
            } else {
                "False"
            };
            ["ReplicaFailure", "Progressing"].contains(&condition.type_.as_str())
                && condition.status == wanted
        });
        let said = failure.and_then(|failure| failure.message.clone());
        let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
        if ready > 0 {
            // What serves may be the pods of an earlier spec, while those of this one do not come.
            return Ready {
                holds: true,
                reason: "Serving",
                message: said.unwrap_or_default(),
            };
        }
        let usual = "no pod takes calls: see the pods with the label compozy.dev/tool";
        Ready::no("NotServed", said.unwrap_or_else(|| usual.to_owned()))
    }
}

fn status(tool: &Tool, found: Option<&Deployment>, ready: Ready, now: Time) -> ToolStatus {
    let before = tool.status.clone().unwrap_or_default();
    let shown = found.filter(|found| is_ours(tool, found));
    let counts = shown.and_then(|found| found.status.as_ref());
    let wanted = ConditionStatus::from(ready.holds);
    let known = before
        .conditions
        .iter()
        .find(|condition| condition.kind == READY);
    let since = known.filter(|known| known.status == wanted);
    let mut conditions = before.conditions.clone();
    conditions.retain(|condition| condition.kind != READY);
    conditions.push(Condition {
        kind: READY.to_owned(),
        status: wanted,
        reason: ready.reason.to_owned(),
        message: ready.message,
        last_transition_time: since.map_or(now, |since| since.last_transition_time),
        observed_generation: tool.metadata.generation,
    });
    ToolStatus {
        observed_generation: tool.metadata.generation,
        replicas: counts.and_then(|counts| counts.replicas).unwrap_or(0),
        ready_replicas: counts.and_then(|counts| counts.ready_replicas).unwrap_or(0),
        conditions,
    }
}
