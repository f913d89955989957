//! Security contexts: safe by default, and "restricted" in the sense of Pod Security where the
//! installation wants it.

use k8s_openapi::api::core::v1::{
    Capabilities, PodSecurityContext, SeccompProfile, SecurityContext,
};

use super::PodSettings;

/// The uid and gid of restricted pods that name none.
const NONROOT: i64 = 65532;

/// The one capability that "restricted" lets a container add.
const HARMLESS_CAPABILITY: &str = "NET_BIND_SERVICE";

/// The pod's security context.
pub(in crate::engine) fn pod(
    given: Option<PodSecurityContext>,
    settings: &PodSettings,
) -> PodSecurityContext {
    let mut context = given.unwrap_or_default();
    if settings.restricted {
        context.seccomp_profile = context.seccomp_profile.filter(is_confined);
        context.run_as_non_root = Some(true);
        if context.run_as_user.is_none() {
            context.run_as_user = Some(NONROOT);
            context.run_as_group.get_or_insert(NONROOT);
        }
    }
    context
        .seccomp_profile
        .get_or_insert_with(|| SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        });
    context
}

/// The security context of a user's container.
pub(in crate::engine) fn container(
    given: Option<SecurityContext>,
    settings: &PodSettings,
) -> SecurityContext {
    let mut context = given.unwrap_or_default();
    if settings.restricted {
        restrict(&mut context);
    } else if context.privileged != Some(true) && !adds_sys_admin(&context) {
        // With either of the two the API server refuses an explicit `false`.
        context.allow_privilege_escalation.get_or_insert(false);
    }
    context
}

/// What the container says itself goes before what the pod says, so it is restricted as well.
fn restrict(context: &mut SecurityContext) {
    context.allow_privilege_escalation = Some(false);
    context.privileged = None;
    context.proc_mount = None;
    context.run_as_non_root = context.run_as_non_root.and(Some(true));
    context.seccomp_profile = context.seccomp_profile.take().filter(is_confined);
    let capabilities = context
        .capabilities
        .get_or_insert_with(Capabilities::default);
    capabilities.drop = Some(vec!["ALL".to_owned()]);
    capabilities.add = capabilities.add.take().and_then(|added| {
        let harmless: Vec<_> = added
            .into_iter()
            .filter(|name| name == HARMLESS_CAPABILITY)
            .collect();
        (!harmless.is_empty()).then_some(harmless)
    });
}

fn is_confined(profile: &SeccompProfile) -> bool {
    profile.type_ != "Unconfined"
}

fn adds_sys_admin(context: &SecurityContext) -> bool {
    let capabilities = context.capabilities.as_ref();
    let added = capabilities.and_then(|capabilities| capabilities.add.as_ref());
    added
        .into_iter()
        .flatten()
        .any(|name| name == "CAP_SYS_ADMIN")
}
