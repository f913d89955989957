//! Pod templates on top of each other.

use std::collections::BTreeMap;

use crate::api::{PodMetadata, PodOverlay, PodTemplate};

/// The template of a task's pods: the installation's, the workflow's on top, then the task's own.
/// Maps are merged, the rest is replaced by the more specific one.
pub fn merge_templates(
    installation: Option<&PodTemplate>,
    workflow: Option<&PodTemplate>,
    task: Option<&PodTemplate>,
) -> PodTemplate {
    [installation, workflow, task]
        .into_iter()
        .flatten()
        .cloned()
        .fold(PodTemplate::default(), over)
}

fn over(below: PodTemplate, above: PodTemplate) -> PodTemplate {
    PodTemplate {
        metadata: combine(below.metadata, above.metadata, metadata),
        spec: combine(below.spec, above.spec, overlay),
    }
}

fn combine<T>(below: Option<T>, above: Option<T>, both: impl Fn(T, T) -> T) -> Option<T> {
    match (below, above) {
        (Some(below), Some(above)) => Some(both(below, above)),
        (below, above) => above.or(below),
    }
}

fn metadata(below: PodMetadata, above: PodMetadata) -> PodMetadata {
    PodMetadata {
        labels: merged(below.labels, above.labels),
        annotations: merged(below.annotations, above.annotations),
    }
}

fn overlay(below: PodOverlay, above: PodOverlay) -> PodOverlay {
    PodOverlay {
        service_account_name: above.service_account_name.or(below.service_account_name),
        node_selector: merged(below.node_selector, above.node_selector),
        tolerations: replaced(below.tolerations, above.tolerations),
        affinity: above.affinity.or(below.affinity),
        image_pull_secrets: replaced(below.image_pull_secrets, above.image_pull_secrets),
        security_context: above.security_context.or(below.security_context),
        volumes: replaced(below.volumes, above.volumes),
        topology_spread_constraints: replaced(
            below.topology_spread_constraints,
            above.topology_spread_constraints,
        ),
        priority_class_name: above.priority_class_name.or(below.priority_class_name),
        runtime_class_name: above.runtime_class_name.or(below.runtime_class_name),
        scheduler_name: above.scheduler_name.or(below.scheduler_name),
        termination_grace_period_seconds: above
            .termination_grace_period_seconds
            .or(below.termination_grace_period_seconds),
        dns_policy: above.dns_policy.or(below.dns_policy),
        dns_config: above.dns_config.or(below.dns_config),
        host_aliases: replaced(below.host_aliases, above.host_aliases),
        host_users: above.host_users.or(below.host_users),
        host_network: above.host_network.or(below.host_network),
        host_pid: above.host_pid.or(below.host_pid),
        host_ipc: above.host_ipc.or(below.host_ipc),
    }
}

fn merged(
    mut below: BTreeMap<String, String>,
    above: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    below.extend(above);
    below
}

fn replaced<T>(below: Vec<T>, above: Vec<T>) -> Vec<T> {
    if above.is_empty() { below } else { above }
}
