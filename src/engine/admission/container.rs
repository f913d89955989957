//! The container of a task.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, Lifecycle, LifecycleHandler, Probe, SecurityContext,
};

use super::{Check, Lift};
use crate::engine::pod::{DIRECTORY, ENV_PREFIX, VOLUME_PREFIX};

/// Capabilities that the usual container runtimes give anyway.
const USUAL_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) fn check(check: &mut Check, container: &Container, path: &str) {
    owned_fields(check, container, path);
    environment(check, container, path);
    mounts(check, container, path);
    ports(check, container, path);
    probes(check, container, path);
    if let Some(context) = &container.security_context {
        security(check, context, &format!("{path}.securityContext"));
    }
}

/// What the operator decides itself.
fn owned_fields(check: &mut Check, container: &Container, path: &str) {
    let given = [
        ("name", !container.name.is_empty()),
        (
            "terminationMessagePath",
            container.termination_message_path.is_some(),
        ),
        (
            "terminationMessagePolicy",
            container.termination_message_policy.is_some(),
        ),
        ("restartPolicy", container.restart_policy.is_some()),
        (
            "restartPolicyRules",
            container.restart_policy_rules.is_some(),
        ),
    ];
    for (field, _) in given.iter().filter(|(_, given)| *given) {
        check.refuse(
            format!("{path}.{field}"),
            "the operator sets this; leave it out",
        );
    }
}

fn environment(check: &mut Check, container: &Container, path: &str) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        if variable.name.starts_with(ENV_PREFIX) {
            reserved_variable(check, format!("{path}.env[{index}].name"), &variable.name);
        }
    }
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if prefix.starts_with(ENV_PREFIX) {
            reserved_variable(check, format!("{path}.envFrom[{index}].prefix"), prefix);
        }
    }
}

fn reserved_variable(check: &mut Check, path: String, name: &str) {
    let message = format!(
        "{name:?}: variables that begin with {ENV_PREFIX} are the operator's; choose another name"
    );
    check.refuse(path, message);
}

fn mounts(check: &mut Check, container: &Container, path: &str) {
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        if mount.name.starts_with(VOLUME_PREFIX) {
            check.refuse(
                format!("{path}.name"),
                format!("volumes whose names begin with {VOLUME_PREFIX} are the operator's; choose another name"),
            );
        }
        if collides(&mount.mount_path) {
            let message = format!(
                "{:?} would hide {DIRECTORY}, where inputs and outputs are; mount it elsewhere",
                mount.mount_path
            );
            check.refuse(format!("{path}.mountPath"), message);
        }
    }
}

/// Whether something mounted at `path` lies in our directory or over it.
fn collides(path: &str) -> bool {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
        .first()
        .is_none_or(|first| *first == DIRECTORY.trim_start_matches('/'))
}

fn ports(check: &mut Check, container: &Container, path: &str) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        if port.host_port.is_some_and(|port| port != 0) {
            let path = format!("{path}.ports[{index}].hostPort");
            check.refuse_unless(Lift::HostNamespaces, path, "a host port");
        }
    }
}

/// Probes and hooks with a host of their own would make the kubelet call anything in its reach.
fn probes(check: &mut Check, container: &Container, path: &str) {
    for (name, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        if let Some(probe) = probe {
            probe_host(check, probe, &format!("{path}.{name}"));
        }
    }
    if let Some(Lifecycle {
        post_start,
        pre_stop,
        ..
    }) = &container.lifecycle
    {
        for (name, handler) in [("postStart", post_start), ("preStop", pre_stop)] {
            if let Some(handler) = handler {
                hook_host(check, handler, &format!("{path}.lifecycle.{name}"));
            }
        }
    }
}

fn probe_host(check: &mut Check, probe: &Probe, path: &str) {
    let http = probe.http_get.as_ref().and_then(|get| get.host.as_deref());
    let tcp = probe
        .tcp_socket
        .as_ref()
        .and_then(|socket| socket.host.as_deref());
    hosts(check, http, tcp, path);
}

fn hook_host(check: &mut Check, handler: &LifecycleHandler, path: &str) {
    let http = handler
        .http_get
        .as_ref()
        .and_then(|get| get.host.as_deref());
    let tcp = handler
        .tcp_socket
        .as_ref()
        .and_then(|socket| socket.host.as_deref());
    hosts(check, http, tcp, path);
}

fn hosts(check: &mut Check, http: Option<&str>, tcp: Option<&str>, path: &str) {
    for (field, host) in [("httpGet", http), ("tcpSocket", tcp)] {
        if host.is_some_and(|host| !host.is_empty()) {
            let path = format!("{path}.{field}.host");
            check.refuse_unless(Lift::HostNamespaces, path, "a host other than the pod");
        }
    }
}

fn security(check: &mut Check, context: &SecurityContext, path: &str) {
    if context.privileged == Some(true) {
        check.refuse_unless(
            Lift::Privileged,
            format!("{path}.privileged"),
            "a privileged container",
        );
    }
    if context.allow_privilege_escalation == Some(true) {
        let path = format!("{path}.allowPrivilegeEscalation");
        check.refuse_unless(Lift::Privileged, path, "privilege escalation");
    }
    if context
        .proc_mount
        .as_deref()
        .is_some_and(|mount| mount != "Default")
    {
        check.refuse_unless(
            Lift::Privileged,
            format!("{path}.procMount"),
            "an unmasked /proc",
        );
    }
    if let Some(capabilities) = &context.capabilities {
        added_capabilities(check, capabilities, &format!("{path}.capabilities.add"));
    }
    check.seccomp(context.seccomp_profile.as_ref(), path);
    check.app_armor(context.app_armor_profile.as_ref(), path);
    check.selinux(context.se_linux_options.as_ref(), path);
    check.windows(context.windows_options.as_ref(), path);
}

fn added_capabilities(check: &mut Check, capabilities: &Capabilities, path: &str) {
    for (index, name) in capabilities.add.iter().flatten().enumerate() {
        if !USUAL_CAPABILITIES.contains(&name.as_str()) {
            let what = format!("the capability {name}");
            check.refuse_unless(Lift::Privileged, format!("{path}[{index}]"), &what);
        }
    }
}
