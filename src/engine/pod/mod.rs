//! The pod of one attempt.
//!
//! The user's image runs unchanged: no container of ours is beside it, nothing of ours is in it.
//! Inputs come as a file, outputs leave as the container's termination message.

pub(super) mod security;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        ConfigMap, ConfigMapVolumeSource, Container, DownwardAPIVolumeFile,
        DownwardAPIVolumeSource, EnvVar, KeyToPath, ObjectFieldSelector, Pod, PodSpec, Volume,
        VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;

use super::{names, outcome::MAIN_CONTAINER};
use crate::api::{FINALIZER_OUTCOME, LABEL_ATTEMPT, PodOverlay, TaskExecution};

pub use template::merge_templates;

/// The directory in the task's container that belongs to the operator.
pub const DIRECTORY: &str = "/compozy";
/// The file that a task writes its outputs to.
pub const OUTPUTS_FILE: &str = "/compozy/outputs.json";
/// The file that a task finds its inputs in.
pub const INPUTS_FILE: &str = "/compozy/inputs/inputs.json";
/// The volume with the inputs.
const INPUTS_VOLUME: &str = "compozy-inputs";
/// What the names of our volumes begin with.
pub const VOLUME_PREFIX: &str = "compozy-";
/// Prefix of the environment variables that the operator sets.
pub const ENV_PREFIX: &str = "COMPOZY_";

const INPUTS_DIRECTORY: &str = "/compozy/inputs";
const INPUTS_KEY: &str = "inputs.json";
const INPUTS_ANNOTATION: &str = "compozy.dev/inputs";

/// Larger inputs go into a ConfigMap: all annotations of a pod together may have 256 KiB, and
/// users have some too.
const LARGEST_ANNOTATION: usize = 128 * 1024;

/// What the kubelet's own deadline leaves the operator to be the first, in seconds.
const DEADLINE_MARGIN: u64 = 300;

/// The installation's say about every executor pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSettings {
    /// Pods keep to the Pod Security Standard "restricted".
    pub restricted: bool,
}

/// What one attempt needs in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptPod {
    /// The pod.
    pub pod: Pod,
    /// Inputs that are too large for the pod: to be created before it, the same for every attempt.
    pub inputs: Option<ConfigMap>,
}

/// The pod of attempt number `attempt` of `te`, all in it decided.
pub fn attempt_pod(te: &TaskExecution, attempt: u32, settings: &PodSettings) -> AttemptPod {
    let inputs = Inputs::of(te);
    let template = te.spec.pod_template.as_deref().cloned().unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    let overlay = template.spec.unwrap_or_default();

    let mut annotations = metadata.annotations;
    if let Inputs::Annotation(json) = &inputs {
        annotations.insert(INPUTS_ANNOTATION.to_owned(), json.clone());
    }
    let mut labels = metadata.labels;
    labels.extend(te.spec.labels());
    labels.insert(LABEL_ATTEMPT.to_owned(), attempt.to_string());

    let pod = Pod {
        metadata: ObjectMeta {
            name: Some(names::pod_name(&name(te), attempt)),
            namespace: te.metadata.namespace.clone(),
            owner_references: Some(vec![owner(te)]),
            finalizers: Some(vec![FINALIZER_OUTCOME.to_owned()]),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(spec(te, attempt, overlay, &inputs, settings)),
        status: None,
    };
    AttemptPod {
        pod,
        inputs: inputs.config_map(te),
    }
}

fn spec(
    te: &TaskExecution,
    attempt: u32,
    overlay: PodOverlay,
    inputs: &Inputs,
    settings: &PodSettings,
) -> PodSpec {
    let mut main = container(te, attempt, inputs);
    main.security_context = Some(security::container(main.security_context, settings));
    PodSpec {
        containers: vec![main],
        restart_policy: Some("Never".to_owned()),
        active_deadline_seconds: active_deadline(te),
        ..overlaid(overlay, inputs.volume(te), settings)
    }
}

/// The spec of a pod less its containers: what users may say of it, and volumes of ours.
pub(super) fn overlaid(
    overlay: PodOverlay,
    volumes: impl IntoIterator<Item = Volume>,
    settings: &PodSettings,
) -> PodSpec {
    let ours = volumes.into_iter();
    PodSpec {
        enable_service_links: Some(false),
        automount_service_account_token: Some(overlay.service_account_name.is_some()),
        service_account_name: overlay.service_account_name,
        security_context: Some(security::pod(overlay.security_context, settings)),
        node_selector: (!overlay.node_selector.is_empty()).then_some(overlay.node_selector),
        tolerations: some(overlay.tolerations),
        affinity: overlay.affinity,
        image_pull_secrets: some(overlay.image_pull_secrets),
        volumes: some(overlay.volumes.into_iter().chain(ours).collect()),
        topology_spread_constraints: some(overlay.topology_spread_constraints),
        priority_class_name: overlay.priority_class_name,
        runtime_class_name: overlay.runtime_class_name,
        scheduler_name: overlay.scheduler_name,
        termination_grace_period_seconds: overlay.termination_grace_period_seconds,
        dns_policy: overlay.dns_policy,
        dns_config: overlay.dns_config,
        host_aliases: some(overlay.host_aliases),
        host_users: overlay.host_users,
        host_network: overlay.host_network,
        host_pid: overlay.host_pid,
        host_ipc: overlay.host_ipc,
        ..PodSpec::default()
    }
}

fn container(te: &TaskExecution, attempt: u32, inputs: &Inputs) -> Container {
    let given = te.spec.container.as_deref().cloned().unwrap_or_default();
    let mut mounts = given.volume_mounts.unwrap_or_default();
    mounts.extend(inputs.mount());
    Container {
        name: MAIN_CONTAINER.to_owned(),
        env: Some(environment(
            te,
            attempt,
            inputs,
            given.env.unwrap_or_default(),
        )),
        volume_mounts: some(mounts),
        termination_message_path: Some(OUTPUTS_FILE.to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..given
    }
}

/// Ours first, so that the user's may refer to them as `$(COMPOZY_ATTEMPT)`; none of the user's
/// has a name of ours (admission sees to it, and here nothing slips through).
fn environment(
    te: &TaskExecution,
    attempt: u32,
    inputs: &Inputs,
    given: Vec<EnvVar>,
) -> Vec<EnvVar> {
    let uid = te.metadata.uid.clone().unwrap_or_default();
    let ours = [
        ("COMPOZY_OUTPUTS", Some(OUTPUTS_FILE.to_owned())),
        (
            "COMPOZY_INPUTS",
            inputs.is_some().then(|| INPUTS_FILE.to_owned()),
        ),
        ("COMPOZY_TASK_EXEC_ID", Some(uid.clone())),
        (
            "COMPOZY_WORKFLOW_EXEC_ID",
            Some(te.spec.workflow.uid.clone()),
        ),
        ("COMPOZY_ATTEMPT", Some(attempt.to_string())),
        // The same for all attempts: what an attempt did before it was lost can be recognised.
        ("COMPOZY_IDEMPOTENCY_KEY", Some(uid)),
    ];
    ours.into_iter()
        .filter(|(_, value)| value.is_some())
        .map(|(name, value)| EnvVar {
            name: name.to_owned(),
            value,
            value_from: None,
        })
        .chain(
            given
                .into_iter()
                .filter(|variable| !variable.name.starts_with(ENV_PREFIX)),
        )
        .collect()
}

/// A backstop for the time without an operator: the kubelet counts from the pod's arrival, image
/// pull included, so it must never be the first to act.
fn active_deadline(te: &TaskExecution) -> Option<i64> {
    let timeout = te.spec.timeout?.get().as_secs();
    let pull = te.spec.image_pull_timeout.get().as_secs();
    let seconds = timeout.saturating_add(pull).saturating_add(DEADLINE_MARGIN);
    i32::try_from(seconds).ok().map(i64::from)
}

/// How the task's inputs come to its pod. A task without `with` has no file, for a volume costs
/// each start a third of a second.
enum Inputs {
    None,
    Annotation(String),
    ConfigMap(String),
}

impl Inputs {
    fn of(te: &TaskExecution) -> Inputs {
        match te.spec.inputs.as_ref().map(ToString::to_string) {
            None => Inputs::None,
            Some(json) if json.len() <= LARGEST_ANNOTATION => Inputs::Annotation(json),
            Some(json) => Inputs::ConfigMap(json),
        }
    }

    fn is_some(&self) -> bool {
        !matches!(self, Inputs::None)
    }

    fn volume(&self, te: &TaskExecution) -> Option<Volume> {
        let volume = Volume {
            name: INPUTS_VOLUME.to_owned(),
            ..Volume::default()
        };
        match self {
            Inputs::None => None,
            Inputs::Annotation(_) => Some(Volume {
                downward_api: Some(annotation_source()),
                ..volume
            }),
            Inputs::ConfigMap(_) => Some(Volume {
                config_map: Some(config_map_source(te)),
                ..volume
            }),
        }
    }

    fn mount(&self) -> Option<VolumeMount> {
        self.is_some().then(|| VolumeMount {
            name: INPUTS_VOLUME.to_owned(),
            mount_path: INPUTS_DIRECTORY.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        })
    }

    fn config_map(self, te: &TaskExecution) -> Option<ConfigMap> {
        let Inputs::ConfigMap(json) = self else {
            return None;
        };
        Some(ConfigMap {
            metadata: ObjectMeta {
                name: Some(name(te)),
                namespace: te.metadata.namespace.clone(),
                owner_references: Some(vec![owner(te)]),
                labels: Some(te.spec.labels()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(INPUTS_KEY.to_owned(), json)])),
            immutable: Some(true),
            ..ConfigMap::default()
        })
    }
}

fn annotation_source() -> DownwardAPIVolumeSource {
    DownwardAPIVolumeSource {
        items: Some(vec![DownwardAPIVolumeFile {
            path: INPUTS_KEY.to_owned(),
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.annotations['{INPUTS_ANNOTATION}']"),
                ..ObjectFieldSelector::default()
            }),
            ..DownwardAPIVolumeFile::default()
        }]),
        ..DownwardAPIVolumeSource::default()
    }
}

fn config_map_source(te: &TaskExecution) -> ConfigMapVolumeSource {
    ConfigMapVolumeSource {
        name: name(te),
        items: Some(vec![KeyToPath {
            key: INPUTS_KEY.to_owned(),
            path: INPUTS_KEY.to_owned(),
            mode: None,
        }]),
        ..ConfigMapVolumeSource::default()
    }
}

fn name(te: &TaskExecution) -> String {
    te.metadata.name.clone().unwrap_or_default()
}

fn owner(te: &TaskExecution) -> OwnerReference {
    OwnerReference {
        api_version: TaskExecution::api_version(&()).into_owned(),
        kind: TaskExecution::kind(&()).into_owned(),
        name: name(te),
        uid: te.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
