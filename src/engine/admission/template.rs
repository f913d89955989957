//! A pod template of a workflow or a task.

use k8s_openapi::api::core::v1::{PodSecurityContext, Volume, VolumeProjection};

use super::{Check, Lift, lifted_by};
use crate::{
    api::{PodMetadata, PodOverlay, PodTemplate, RESERVED_PREFIX},
    engine::pod::VOLUME_PREFIX,
};

/// Sysctls that are namespaced and safe: they change nothing for other pods.
const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];

pub(super) fn check(check: &mut Check, template: &PodTemplate, path: &str) {
    if let Some(given) = &template.metadata {
        metadata(check, given, &format!("{path}.metadata"));
    }
    if let Some(given) = &template.spec {
        overlay(check, given, &format!("{path}.spec"));
    }
}

fn metadata(check: &mut Check, metadata: &PodMetadata, path: &str) {
    for (field, map) in [
        ("labels", &metadata.labels),
        ("annotations", &metadata.annotations),
    ] {
        for key in map.keys().filter(|key| key.starts_with(RESERVED_PREFIX)) {
            let message = format!(
                "{field} under {RESERVED_PREFIX} are the operator's; choose another prefix"
            );
            check.refuse(format!("{path}.{field}[{key:?}]"), message);
        }
    }
}

fn overlay(check: &mut Check, overlay: &PodOverlay, path: &str) {
    let account = overlay.service_account_name.as_deref();
    if let Some(account) = account {
        service_account(check, account, &format!("{path}.serviceAccountName"));
    }
    for (index, given) in overlay.volumes.iter().enumerate() {
        volume(
            check,
            given,
            account.is_some(),
            &format!("{path}.volumes[{index}]"),
        );
    }
    if let Some(context) = &overlay.security_context {
        security(check, context, &format!("{path}.securityContext"));
    }
    for (field, asked) in [
        ("hostNetwork", overlay.host_network),
        ("hostPID", overlay.host_pid),
        ("hostIPC", overlay.host_ipc),
    ] {
        if asked == Some(true) {
            check.refuse_unless(Lift::HostNamespaces, format!("{path}.{field}"), field);
        }
    }
}

fn service_account(check: &mut Check, account: &str, path: &str) {
    if !check.allow.service_accounts.contains(account) {
        let value = format!("executors.allow.serviceAccounts: [{account}]");
        let way_out = lifted_by(&value, "--allow-service-accounts");
        check.refuse(
            path,
            format!("the service account {account:?} is not on the allow-list; {way_out}"),
        );
    }
}

fn volume(check: &mut Check, volume: &Volume, has_account: bool, path: &str) {
    if volume.name.starts_with(VOLUME_PREFIX) {
        check.refuse(
            format!("{path}.name"),
            format!("volumes whose names begin with {VOLUME_PREFIX} are the operator's; choose another name"),
        );
    }
    if volume.host_path.is_some() {
        check.refuse_unless(
            Lift::HostPath,
            format!("{path}.hostPath"),
            "a hostPath volume",
        );
    }
    let sources = volume
        .projected
        .as_ref()
        .and_then(|projected| projected.sources.as_ref());
    for (index, source) in sources.into_iter().flatten().enumerate() {
        if !has_account && speaks_for_the_account(source) {
            check.refuse(
                format!("{path}.projected.sources[{index}]"),
                "a credential of a service account needs serviceAccountName in the same podTemplate, and that \
                 account on the allow-list: without it this would be the namespace's default account",
            );
        }
    }
}

/// Whether a projection lets the pod act as its service account.
fn speaks_for_the_account(source: &VolumeProjection) -> bool {
    source.service_account_token.is_some() || source.pod_certificate.is_some()
}

fn security(check: &mut Check, context: &PodSecurityContext, path: &str) {
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        if !SAFE_SYSCTLS.contains(&sysctl.name.as_str()) {
            let what = format!("the sysctl {}", sysctl.name);
            check.refuse_unless(Lift::Privileged, format!("{path}.sysctls[{index}]"), &what);
        }
    }
    check.seccomp(context.seccomp_profile.as_ref(), path);
    check.app_armor(context.app_armor_profile.as_ref(), path);
    check.selinux(context.se_linux_options.as_ref(), path);
    check.windows(context.windows_options.as_ref(), path);
}
