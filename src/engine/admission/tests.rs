use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn container(fields: Value) -> Container {
    let mut full = json!({"image": "busybox:1.36"});
    full.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    serde_json::from_value(full).unwrap()
}

fn template(value: Value) -> PodTemplate {
    serde_json::from_value(value).unwrap()
}

fn everything() -> AllowList {
    AllowList {
        service_accounts: BTreeSet::from(["builder".to_owned()]),
        host_path: true,
        privileged: true,
        host_namespaces: true,
    }
}

/// What is wrong with the pod parts of a task.
fn errors(container_fields: Value, template_fields: Value, allow: &AllowList) -> Vec<FieldError> {
    let mut errors = check_container(
        &container(container_fields),
        allow,
        "spec.tasks[2].container",
    );
    let path = "spec.tasks[2].podTemplate";
    errors.extend(check_template(&template(template_fields), allow, path));
    errors
}

fn security(context: Value) -> Value {
    json!({"securityContext": context})
}

/// What an administrator can allow: the field, and how.
#[rstest]
#[case::privileged("securityContext.privileged", "allow.privileged", security(json!({"privileged": true})))]
#[case::escalation("securityContext.allowPrivilegeEscalation", "allow.privileged", security(json!({"allowPrivilegeEscalation": true})))]
#[case::capability("securityContext.capabilities.add[1]", "allow.privileged", security(json!({"capabilities": {"add": ["CHOWN", "NET_ADMIN"]}})))]
#[case::all_capabilities("securityContext.capabilities.add[0]", "allow.privileged", security(json!({"capabilities": {"add": ["ALL"]}})))]
#[case::proc("securityContext.procMount", "allow.privileged", security(json!({"procMount": "Unmasked"})))]
#[case::seccomp("securityContext.seccompProfile.type", "allow.privileged", security(json!({"seccompProfile": {"type": "Unconfined"}})))]
#[case::app_armor("securityContext.appArmorProfile.type", "allow.privileged", security(json!({"appArmorProfile": {"type": "Unconfined"}})))]
#[case::selinux_type("securityContext.seLinuxOptions.type", "allow.privileged", security(json!({"seLinuxOptions": {"type": "spc_t"}})))]
#[case::selinux_user("securityContext.seLinuxOptions.user", "allow.privileged", security(json!({"seLinuxOptions": {"user": "root"}})))]
#[case::host_process("securityContext.windowsOptions.hostProcess", "allow.privileged", security(json!({"windowsOptions": {"hostProcess": true}})))]
#[case::host_port("ports[0].hostPort", "allow.hostNamespaces", json!({"ports": [{"containerPort": 80, "hostPort": 80}]}))]
#[case::probe_host("livenessProbe.httpGet.host", "allow.hostNamespaces", json!({"livenessProbe": {"httpGet": {"port": 80, "host": "10.0.0.1"}}}))]
#[case::hook_host("lifecycle.preStop.tcpSocket.host", "allow.hostNamespaces", json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 80, "host": "10.0.0.1"}}}}))]
fn a_container_with_more_rights_needs_the_installations_leave(
    #[case] field: &str,
    #[case] way_out: &str,
    #[case] given: Value,
) {
    let seen = errors(given.clone(), json!({}), &AllowList::default());
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].path, format!("spec.tasks[2].container.{field}"));
    assert!(
        seen[0].message.contains(way_out) && seen[0].message.contains("--allow-"),
        "{}",
        seen[0]
    );
    assert_eq!(errors(given, json!({}), &everything()), []);
}

#[rstest]
#[case::account("serviceAccountName", "allow.serviceAccounts: [builder]", json!({"serviceAccountName": "builder"}))]
#[case::host_path("volumes[1].hostPath", "allow.hostPath", json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/"}}]}))]
#[case::network("hostNetwork", "allow.hostNamespaces", json!({"hostNetwork": true}))]
#[case::processes("hostPID", "allow.hostNamespaces", json!({"hostPID": true}))]
#[case::memory("hostIPC", "allow.hostNamespaces", json!({"hostIPC": true}))]
#[case::sysctl("securityContext.sysctls[0]", "allow.privileged", security(json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})))]
#[case::seccomp("securityContext.seccompProfile.type", "allow.privileged", security(json!({"seccompProfile": {"type": "Unconfined"}})))]
fn a_pod_with_more_rights_needs_the_installations_leave(
    #[case] field: &str,
    #[case] way_out: &str,
    #[case] given: Value,
) {
    let seen = errors(json!({}), json!({"spec": given}), &AllowList::default());
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(
        seen[0].path,
        format!("spec.tasks[2].podTemplate.spec.{field}")
    );
    assert!(
        seen[0].message.contains(way_out) && seen[0].message.contains("--allow-"),
        "{}",
        seen[0]
    );
    assert_eq!(errors(json!({}), json!({"spec": given}), &everything()), []);
}

/// What nobody can allow.
#[rstest]
#[case::name("name", json!({"name": "app"}))]
#[case::message_path("terminationMessagePath", json!({"terminationMessagePath": "/dev/null"}))]
#[case::message_policy("terminationMessagePolicy", json!({"terminationMessagePolicy": "File"}))]
#[case::restarts("restartPolicy", json!({"restartPolicy": "Always"}))]
#[case::variable("env[1].name", json!({"env": [{"name": "A"}, {"name": "COMPOZY_ATTEMPT", "value": "9"}]}))]
#[case::prefix("envFrom[0].prefix", json!({"envFrom": [{"prefix": "COMPOZY_", "configMapRef": {"name": "a"}}]}))]
#[case::our_volume("volumeMounts[0].name", json!({"volumeMounts": [{"name": "compozy-inputs", "mountPath": "/in"}]}))]
#[case::our_directory("volumeMounts[0].mountPath", json!({"volumeMounts": [{"name": "a", "mountPath": "/compozy"}]}))]
#[case::in_our_directory("volumeMounts[0].mountPath", json!({"volumeMounts": [{"name": "a", "mountPath": "/compozy/outputs.json"}]}))]
#[case::over_our_directory("volumeMounts[0].mountPath", json!({"volumeMounts": [{"name": "a", "mountPath": "/"}]}))]
#[case::by_a_detour("volumeMounts[0].mountPath", json!({"volumeMounts": [{"name": "a", "mountPath": "//tmp/.././compozy/"}]}))]
fn what_is_the_operators_in_a_container(#[case] field: &str, #[case] given: Value) {
    let seen = errors(given, json!({}), &everything());
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].path, format!("spec.tasks[2].container.{field}"));
}

#[rstest]
#[case::label(r#"metadata.labels["compozy.dev/task"]"#, json!({"metadata": {"labels": {"compozy.dev/task": "x"}}}))]
#[case::annotation(r#"metadata.annotations["compozy.dev/inputs"]"#, json!({"metadata": {"annotations": {"compozy.dev/inputs": "x"}}}))]
#[case::volume("spec.volumes[0].name", json!({"spec": {"volumes": [{"name": "compozy-inputs", "emptyDir": {}}]}}))]
#[case::token("spec.volumes[0].projected.sources[1]", json!({"spec": {"volumes": [{"name": "t", "projected": {"sources": [
    {"configMap": {"name": "a"}}, {"serviceAccountToken": {"path": "token"}},
]}}]}}))]
fn what_is_the_operators_in_a_template(#[case] field: &str, #[case] given: Value) {
    let seen = errors(json!({}), given, &everything());
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].path, format!("spec.tasks[2].podTemplate.{field}"));
}

#[test]
fn a_token_of_an_allowed_account_is_allowed() {
    let given = json!({"spec": {
        "serviceAccountName": "builder",
        "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
    }});
    assert_eq!(errors(json!({}), given, &everything()), []);
}

#[test]
fn an_account_that_is_not_on_the_list_is_refused_beside_others_that_are() {
    let given = json!({"spec": {"serviceAccountName": "default"}});
    let seen = errors(json!({}), given, &everything());
    assert!(seen[0].message.contains("\"default\""), "{seen:?}");
}

#[test]
fn what_a_usual_task_has_is_welcome() {
    let container = json!({
        "command": ["sh"], "env": [{"name": "COMPOZ", "value": "x"}], "envFrom": [{"secretRef": {"name": "db"}}],
        "resources": {"limits": {"memory": "1Gi"}}, "ports": [{"containerPort": 80}],
        "volumeMounts": [{"name": "scratch", "mountPath": "/compozy-scratch"}, {"name": "b", "mountPath": "/data/compozy"}],
        "livenessProbe": {"httpGet": {"port": 80}},
        "securityContext": {
            "runAsUser": 0, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "privileged": false,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "NET_BIND_SERVICE"]}, "procMount": "Default",
            "seccompProfile": {"type": "RuntimeDefault"}, "seLinuxOptions": {"level": "s0:c1"},
        },
    });
    let template = json!({
        "metadata": {"labels": {"team": "data", "my.compozy.dev/x": "y"}, "annotations": {"note": "x"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "db"}}],
            "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}], "fsGroup": 1},
        },
    });
    assert_eq!(errors(container, template, &AllowList::default()), []);
}

#[test]
fn every_mistake_is_told_at_once() {
    let seen = errors(
        json!({"name": "x", "env": [{"name": "COMPOZY_A"}], "securityContext": {"privileged": true}}),
        json!({"spec": {"serviceAccountName": "admin", "volumes": [{"name": "r", "hostPath": {"path": "/"}}]}}),
        &AllowList::default(),
    );
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert_eq!(
        seen[1].to_string(),
        "spec.tasks[2].container.env[0].name: \"COMPOZY_A\": variables that begin with COMPOZY_ are the operator's; choose another name"
    );
}
