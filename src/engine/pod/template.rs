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
