//! What the operator does about a tool or a pool that it serves: the Deployment, and what the status says of that.

mod deployment;
mod served;
#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use kube::{Resource, ResourceExt};

use super::{
    admission::{self, AllowList},
    field_error::FieldError,
    pod::PodSettings,
};
use crate::api::{Condition, ConditionStatus, HandlerPods, PodTemplate, READY, ServerStatus, Time};

use self::deployment::{Program, Server};
pub use deployment::TOKEN_AUDIENCE;
pub use served::{Manner, Served};

/// The installation's say about what serves tools and pools.
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
    /// The overlay under everybody's own.
    pub pod_template: PodTemplate,
    /// How pods are made.
    pub pods: PodSettings,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Make the Deployment so: this very one, if it has a UID.
    pub apply: Option<Box<Deployment>>,
    /// Write the status.
    pub record: Option<ServerStatus>,
}

/// What to do about `served`, whose Deployment is `found` at the moment. `refused` is what the API server said when the
/// Deployment was last written, if it said no.
pub fn plan<K: Served>(
    served: &K,
    found: Option<&Deployment>,
    refused: Option<&str>,
    settings: &ServerSettings,
    now: Time,
) -> Plan {
    // What serves an object that is being deleted goes with it.
    let Some(server) = Server::of(served).filter(|_| !is_going(served)) else {
        return Plan::default();
    };
    let what = server.manner.what;
    let found = found.filter(|found| !is_going(*found));
    let mut apply = None;
    let ready = match check(server.manner, server.pods, &settings.allow) {
        Err(errors) => Ready::no("InvalidSpec", errors),
        Ok(_) if found.is_some_and(|found| !is_ours(served, found)) => Ready::no(
            "NameTaken",
            format!(
                "there is a Deployment {} that is not this {what}'s; delete it or rename the {what}",
                found.map(ResourceExt::name_any).unwrap_or_default()
            ),
        ),
        Ok(program) => {
            let mut wanted = deployment::deployment(&server, program, settings);
            let as_wanted = |found: &Deployment| {
                hash(found) == hash(&wanted) && found.labels().contains_key(server.manner.label)
            };
            if !found.is_some_and(as_wanted) {
                wanted.metadata.uid = found.and_then(|found| found.metadata.uid.clone());
                apply = Some(Box::new(wanted));
            }
            match refused {
                Some(refused) => Ready::no("Refused", refused.to_owned()),
                None => Ready::of(server.manner, found.and_then(|found| found.status.as_ref())),
            }
        }
    };
    let status = status(served, found, ready, now);
    let record = (served.status() != Some(&status)).then_some(status);
    Plan { apply, record }
}

/// Whether pods of `deployment` take what there is for `served`.
pub fn serves<K: Served>(deployment: &Deployment, served: &K) -> bool {
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas);
    is_ours(served, deployment) && ready.unwrap_or(0) > 0
}

fn is_going<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

fn is_ours<K: Served>(served: &K, found: &Deployment) -> bool {
    let mut owners = found.owner_references().iter();
    owners.any(|owner| {
        owner.controller == Some(true) && Some(&owner.uid) == served.meta().uid.as_ref()
    })
}

fn hash(deployment: &Deployment) -> Option<&String> {
    deployment.annotations().get(deployment::ANNOTATION_HASH)
}

/// What is to do the work, or all that is wrong with the pods.
fn check<'a>(
    manner: &Manner,
    pods: &'a HandlerPods,
    allow: &AllowList,
) -> Result<Program<'a>, String> {
    let path = manner.path;
    let mut errors =
        admission::check_container(&pods.container, allow, &format!("{path}.container"));
    if let Some(template) = &pods.pod_template {
        let path = format!("{path}.podTemplate");
        errors.extend(admission::check_template(template, allow, &path));
    }
    let program = Program::of(pods);
    if program.is_none() {
        let message = "needs exactly one of: exec, stdio, http";
        errors.push(FieldError::new(path, message));
    }
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    program
        .filter(|_| texts.is_empty())
        .ok_or_else(|| texts.join("; "))
}

/// Whether somebody serves, and why.
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
    fn of(manner: &Manner, status: Option<&DeploymentStatus>) -> Ready {
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
        let Manner { takes, label, .. } = manner;
        let usual = || format!("no pod takes {takes}: see the pods with the label {label}");
        Ready::no("NotServed", said.unwrap_or_else(usual))
    }
}

fn status<K: Served>(
    served: &K,
    found: Option<&Deployment>,
    ready: Ready,
    now: Time,
) -> ServerStatus {
    let before = served.status().cloned().unwrap_or_default();
    let generation = served.meta().generation;
    let shown = found.filter(|found| is_ours(served, found));
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
        observed_generation: generation,
    });
    ServerStatus {
        observed_generation: generation,
        replicas: counts.and_then(|counts| counts.replicas).unwrap_or(0),
        ready_replicas: counts.and_then(|counts| counts.ready_replicas).unwrap_or(0),
        conditions,
    }
}
