//! Which pod parts of a spec may be: whoever may create a Workflow could otherwise create any pod.
//!
//! What belongs to the operator is refused always. Beyond that the parts must fit the Pod
//! Security Standard "baseline", and a service account must be on the installation's allow-list;
//! an administrator can lift each of these rules, and the messages say how. The installation's
//! own template is an administrator's and is not checked.

mod container;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, SELinuxOptions, SeccompProfile, WindowsSecurityContextOptions,
};

use super::field_error::FieldError;
use crate::api::PodTemplate;

/// What an administrator lets workflows have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    /// Service accounts that a workflow may name.
    pub service_accounts: BTreeSet<String>,
    /// hostPath volumes.
    pub host_path: bool,
    /// Privileged containers, and whatever else brings more rights than a usual container has.
    pub privileged: bool,
    /// The node's network and process namespaces, host ports included.
    pub host_namespaces: bool,
}

/// Checks a container that stands at `path`.
pub fn check_container(container: &Container, allow: &AllowList, path: &str) -> Vec<FieldError> {
    let mut check = Check::new(allow);
    container::check(&mut check, container, path);
    check.errors
}

/// Checks a template that stands at `path`: a workflow's or a task's.
pub fn check_template(template: &PodTemplate, allow: &AllowList, path: &str) -> Vec<FieldError> {
    let mut check = Check::new(allow);
    template::check(&mut check, template, path);
    check.errors
}

/// The way out that an administrator has.
#[derive(Clone, Copy)]
enum Lift {
    HostPath,
    Privileged,
    HostNamespaces,
}

/// What is refused so far.
struct Check<'a> {
    allow: &'a AllowList,
    errors: Vec<FieldError>,
}

impl<'a> Check<'a> {
    fn new(allow: &'a AllowList) -> Self {
        Check {
            allow,
            errors: Vec::new(),
        }
    }

    /// Refuses what nobody can allow.
    fn refuse(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError::new(path, message));
    }

    /// Refuses `what` unless the installation allows it.
    fn refuse_unless(&mut self, lift: Lift, path: impl Into<String>, what: &str) {
        let (allowed, flag, value) = match lift {
            Lift::HostPath => (
                self.allow.host_path,
                "--allow-host-path",
                "executors.allow.hostPath: true",
            ),
            Lift::Privileged => (
                self.allow.privileged,
                "--allow-privileged",
                "executors.allow.privileged: true",
            ),
            Lift::HostNamespaces => (
                self.allow.host_namespaces,
                "--allow-host-namespaces",
                "executors.allow.hostNamespaces: true",
            ),
        };
        if !allowed {
            let way_out = lifted_by(value, flag);
            self.refuse(path, format!("{what} is not allowed here; {way_out}"));
        }
    }

    fn seccomp(&mut self, profile: Option<&SeccompProfile>, path: &str) {
        if profile.is_some_and(|profile| profile.type_ == "Unconfined") {
            let path = format!("{path}.seccompProfile.type");
            self.refuse_unless(Lift::Privileged, path, "Unconfined");
        }
    }

    fn app_armor(&mut self, profile: Option<&AppArmorProfile>, path: &str) {
        if profile.is_some_and(|profile| profile.type_ == "Unconfined") {
            let path = format!("{path}.appArmorProfile.type");
            self.refuse_unless(Lift::Privileged, path, "Unconfined");
        }
    }

    fn selinux(&mut self, options: Option<&SELinuxOptions>, path: &str) {
        const USUAL_TYPES: [&str; 5] = [
            "",
            "container_t",
            "container_init_t",
            "container_kvm_t",
            "container_engine_t",
        ];
        let Some(options) = options else { return };
        let path = format!("{path}.seLinuxOptions");
        let kind = options.type_.as_deref().unwrap_or_default();
        if !USUAL_TYPES.contains(&kind) {
            let what = format!("the SELinux type {kind:?}");
            self.refuse_unless(Lift::Privileged, format!("{path}.type"), &what);
        }
        for (field, value) in [("user", &options.user), ("role", &options.role)] {
            if value.as_deref().is_some_and(|value| !value.is_empty()) {
                let what = format!("an SELinux {field}");
                self.refuse_unless(Lift::Privileged, format!("{path}.{field}"), &what);
            }
        }
    }

    fn windows(&mut self, options: Option<&WindowsSecurityContextOptions>, path: &str) {
        if options.is_some_and(|options| options.host_process == Some(true)) {
            let path = format!("{path}.windowsOptions.hostProcess");
            self.refuse_unless(Lift::Privileged, path, "a host process");
        }
    }
}

/// How an administrator lifts a rule: a value of the chart, a flag of the operator.
fn lifted_by(value: &str, flag: &str) -> String {
    format!(
        "an administrator can allow it with {value} in the chart's values (the operator's flag {flag})"
    )
}
