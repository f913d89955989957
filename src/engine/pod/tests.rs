use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::PodTemplate;

fn te(spec: Value) -> TaskExecution {
    let mut full = json!({
        "workflow": {"name": "hello", "uid": "w-uid", "id": "hello"},
        "task": "greet",
        "container": {"image": "busybox:1.36", "command": ["true"]},
        "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "5m", "jitter": 0.1}},
        "infrastructureRetries": 3,
        "imagePullTimeout": "10m",
    });
    let fields = full.as_object_mut().unwrap();
    fields.extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1",
        "kind": "TaskExecution",
        "metadata": {"name": "hello-greet-abcdefgh", "namespace": "team", "uid": "te-uid"},
        "spec": full,
    }))
    .unwrap()
}

fn plan(spec: Value) -> AttemptPod {
    attempt_pod(&te(spec), 2, &PodSettings::default())
}

/// The pod as the API server would get it.
fn json_of(spec: Value) -> Value {
    serde_json::to_value(plan(spec).pod).unwrap()
}

fn restricted(spec: Value) -> Value {
    let settings = PodSettings { restricted: true };
    serde_json::to_value(attempt_pod(&te(spec), 2, &settings).pod).unwrap()
}

#[test]
fn a_plain_pod_is_this_and_no_more() {
    assert_eq!(
        json_of(json!({})),
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "hello-greet-abcdefgh-2",
                "namespace": "team",
                "finalizers": ["compozy.dev/outcome"],
                "labels": {
                    "compozy.dev/workflow": "hello",
                    "compozy.dev/workflow-uid": "w-uid",
                    "compozy.dev/task": "greet",
                    "compozy.dev/attempt": "2",
                },
                "ownerReferences": [{
                    "apiVersion": "compozy.dev/v1alpha1",
                    "kind": "TaskExecution",
                    "name": "hello-greet-abcdefgh",
                    "uid": "te-uid",
                    "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "spec": {
                "restartPolicy": "Never",
                "enableServiceLinks": false,
                "automountServiceAccountToken": false,
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "main",
                    "image": "busybox:1.36",
                    "command": ["true"],
                    "env": [
                        {"name": "COMPOZY_OUTPUTS", "value": "/compozy/outputs.json"},
                        {"name": "COMPOZY_TASK_EXEC_ID", "value": "te-uid"},
                        {"name": "COMPOZY_WORKFLOW_EXEC_ID", "value": "w-uid"},
                        {"name": "COMPOZY_ATTEMPT", "value": "2"},
                        {"name": "COMPOZY_IDEMPOTENCY_KEY", "value": "te-uid"},
                    ],
                    "securityContext": {"allowPrivilegeEscalation": false},
                    "terminationMessagePath": "/compozy/outputs.json",
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                }],
            },
        })
    );
}

#[test]
fn inputs_are_a_file_from_an_annotation() {
    let pod = json_of(json!({"inputs": {"text": "a\"b$(HOME)\n"}}));
    assert_eq!(
        pod["metadata"]["annotations"],
        json!({"compozy.dev/inputs": r#"{"text":"a\"b$(HOME)\n"}"#})
    );
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "compozy-inputs", "downwardAPI": {"items": [{
            "path": "inputs.json",
            "fieldRef": {"fieldPath": "metadata.annotations['compozy.dev/inputs']"},
        }]}}])
    );
    let main = &pod["spec"]["containers"][0];
    assert_eq!(
        main["volumeMounts"],
        json!([{"name": "compozy-inputs", "mountPath": "/compozy/inputs", "readOnly": true}])
    );
    assert_eq!(
        main["env"][1],
        json!({"name": "COMPOZY_INPUTS", "value": "/compozy/inputs/inputs.json"})
    );
}

#[rstest]
#[case::the_last_that_fits(128 * 1024, false)]
#[case::the_first_that_does_not(128 * 1024 + 1, true)]
fn large_inputs_are_a_file_from_a_config_map(#[case] size: usize, #[case] is_large: bool) {
    let text = "x".repeat(size - 2);
    let AttemptPod { pod, inputs } = plan(json!({"inputs": text}));
    assert_eq!(pod.metadata.annotations.is_none(), is_large);
    assert_eq!(inputs.is_some(), is_large);
    let volume = &pod.spec.unwrap().volumes.unwrap()[0];
    assert_eq!(volume.config_map.is_some(), is_large);
    let Some(config_map) = inputs else { return };
    let config_map = serde_json::to_value(config_map).unwrap();
    assert_eq!(config_map["metadata"]["name"], "hello-greet-abcdefgh");
    assert_eq!(
        config_map["metadata"]["ownerReferences"][0]["uid"],
        "te-uid"
    );
    assert_eq!(config_map["immutable"], true);
    assert_eq!(
        config_map["data"]["inputs.json"].as_str().map(str::len),
        Some(size)
    );
}

#[test]
fn every_attempt_has_the_same_inputs_and_idempotency_key() {
    let te = te(json!({"inputs": "x".repeat(200 * 1024)}));
    let settings = PodSettings::default();
    let (first, second) = (
        attempt_pod(&te, 1, &settings),
        attempt_pod(&te, 2, &settings),
    );
    assert_eq!(first.inputs, second.inputs);
    assert_ne!(first.pod.metadata.name, second.pod.metadata.name);
    assert_eq!(
        first,
        attempt_pod(&te, 1, &settings),
        "a plan depends on nothing else"
    );
}

#[test]
fn the_users_variables_follow_ours_and_replace_none() {
    let env = json!([
        {"name": "N", "value": "$(COMPOZY_ATTEMPT)"},
        {"name": "COMPOZY_ATTEMPT", "value": "99"},
    ]);
    let pod = json_of(json!({"container": {"image": "a", "env": env}}));
    let env = pod["spec"]["containers"][0]["env"].as_array().unwrap();
    let attempts: Vec<_> = env
        .iter()
        .filter(|variable| variable["name"] == "COMPOZY_ATTEMPT")
        .collect();
    assert_eq!(
        attempts,
        [&json!({"name": "COMPOZY_ATTEMPT", "value": "2"})]
    );
    assert_eq!(env.last().unwrap()["name"], "N");
}

#[rstest]
#[case::none(json!({}), Value::Null)]
#[case::timeout(json!({"timeout": "1m"}), json!(60 + 600 + 300))]
#[case::longer_than_the_api_takes(json!({"timeout": "999999h"}), Value::Null)]
fn the_kubelets_deadline_is_a_backstop(#[case] spec: Value, #[case] expected: Value) {
    assert_eq!(json_of(spec)["spec"]["activeDeadlineSeconds"], expected);
}

#[test]
fn the_template_goes_in_and_cannot_take_what_is_ours() {
    let pod = json_of(json!({
        "inputs": 1,
        "podTemplate": {
            "metadata": {
                "labels": {"team": "data", "compozy.dev/attempt": "99"},
                "annotations": {"note": "x", "compozy.dev/inputs": "forged"},
            },
            "spec": {
                "serviceAccountName": "builder",
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "batch", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
                "imagePullSecrets": [{"name": "registry"}],
                "securityContext": {"fsGroup": 5},
                "volumes": [{"name": "scratch", "emptyDir": {}}],
            },
        },
    }));
    assert_eq!(pod["metadata"]["labels"]["team"], "data");
    assert_eq!(pod["metadata"]["labels"]["compozy.dev/attempt"], "2");
    assert_eq!(
        pod["metadata"]["annotations"],
        json!({"note": "x", "compozy.dev/inputs": "1"})
    );
    let spec = &pod["spec"];
    assert_eq!(spec["serviceAccountName"], "builder");
    assert_eq!(spec["automountServiceAccountToken"], true);
    assert_eq!(spec["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(
        spec["tolerations"],
        json!([{"key": "batch", "operator": "Exists"}])
    );
    assert_eq!(spec["affinity"], json!({"nodeAffinity": {}}));
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(
        spec["securityContext"],
        json!({"fsGroup": 5, "seccompProfile": {"type": "RuntimeDefault"}})
    );
    let names: Vec<_> = spec["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| &volume["name"])
        .collect();
    assert_eq!(names, ["scratch", "compozy-inputs"]);
}

#[rstest]
#[case::by_default(json!({}), json!({"allowPrivilegeEscalation": false}))]
#[case::asked_for(json!({"allowPrivilegeEscalation": true}), json!({"allowPrivilegeEscalation": true}))]
#[case::privileged(json!({"privileged": true}), json!({"privileged": true}))]
#[case::administrator(json!({"capabilities": {"add": ["CAP_SYS_ADMIN"]}}), json!({"capabilities": {"add": ["CAP_SYS_ADMIN"]}}))]
fn what_an_installation_allows_is_left_as_it_is(#[case] given: Value, #[case] expected: Value) {
    let pod = json_of(json!({"container": {"image": "a", "securityContext": given}}));
    assert_eq!(pod["spec"]["containers"][0]["securityContext"], expected);
}

#[test]
fn restricted_pods_are_what_the_standard_asks() {
    let pod = restricted(json!({}));
    assert_eq!(
        pod["spec"]["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    assert_eq!(
        pod["spec"]["containers"][0]["securityContext"],
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
    );
}

#[test]
fn restricted_pods_keep_a_user_of_their_own() {
    let pod =
        restricted(json!({"podTemplate": {"spec": {"securityContext": {"runAsUser": 1000}}}}));
    let context = &pod["spec"]["securityContext"];
    assert_eq!(
        (&context["runAsUser"], &context["runAsGroup"]),
        (&json!(1000), &Value::Null)
    );
}

#[test]
fn restricted_pods_cannot_ask_for_more() {
    let pod = restricted(json!({
        "container": {"image": "a", "securityContext": {
            "privileged": true, "allowPrivilegeEscalation": true, "runAsNonRoot": false, "procMount": "Unmasked",
            "capabilities": {"add": ["NET_BIND_SERVICE", "NET_ADMIN"], "drop": ["KILL"]},
            "seccompProfile": {"type": "Unconfined"}, "readOnlyRootFilesystem": true,
        }},
        "podTemplate": {"spec": {"securityContext": {
            "runAsNonRoot": false, "seccompProfile": {"type": "Unconfined"},
        }}},
    }));
    assert_eq!(
        pod["spec"]["containers"][0]["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
        })
    );
    let context = &pod["spec"]["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context["seccompProfile"], json!({"type": "RuntimeDefault"}));
}

fn template(value: Value) -> PodTemplate {
    serde_json::from_value(value).unwrap()
}

#[test]
fn of_three_templates_the_most_specific_one_has_the_last_word() {
    let installation = template(json!({
        "metadata": {"labels": {"a": "1", "b": "1"}},
        "spec": {"nodeSelector": {"x": "1"}, "imagePullSecrets": [{"name": "one"}], "securityContext": {"fsGroup": 1}},
    }));
    let workflow =
        template(json!({"metadata": {"labels": {"b": "2", "c": "2"}, "annotations": {"n": "2"}}}));
    let task = template(json!({
        "metadata": {"labels": {"c": "3"}},
        "spec": {"nodeSelector": {"y": "3"}, "securityContext": {"runAsUser": 3}, "serviceAccountName": "three"},
    }));
    assert_eq!(
        serde_json::to_value(merge_templates(
            Some(&installation),
            Some(&workflow),
            Some(&task)
        ))
        .unwrap(),
        json!({
            "metadata": {"labels": {"a": "1", "b": "2", "c": "3"}, "annotations": {"n": "2"}},
            "spec": {
                "serviceAccountName": "three",
                "nodeSelector": {"x": "1", "y": "3"},
                "imagePullSecrets": [{"name": "one"}],
                "securityContext": {"runAsUser": 3},
            },
        })
    );
}

#[rstest]
#[case(json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}))]
#[case(json!({"priorityClassName": "batch", "runtimeClassName": "gvisor", "schedulerName": "mine"}))]
#[case(json!({"terminationGracePeriodSeconds": 90}))]
#[case(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.1"]}, "hostAliases": [{"ip": "10.0.0.2", "hostnames": ["db"]}]}))]
#[case(json!({"hostUsers": false, "hostNetwork": true, "hostPID": true, "hostIPC": true}))]
fn each_part_of_a_template_reaches_the_pod(#[case] part: Value) {
    let only = template(json!({"spec": part}));
    let merged = merge_templates(Some(&only), Some(&template(json!({"spec": {}}))), None);
    assert_eq!(serde_json::to_value(&merged).unwrap()["spec"], part);
    let pod = json_of(json!({"podTemplate": {"spec": part}}));
    for (field, value) in part.as_object().unwrap() {
        assert_eq!(&pod["spec"][field], value, "{field}");
    }
}

#[test]
fn no_template_at_all_is_an_empty_one() {
    assert_eq!(merge_templates(None, None, None), PodTemplate::default());
    let only = template(json!({"metadata": {"labels": {"a": "1"}}}));
    assert_eq!(merge_templates(None, Some(&only), None), only);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn inputs_arrive_as_the_bytes_they_are(text in any::<String>()) {
        let annotations = plan(json!({"inputs": {"text": text}})).pod.metadata.annotations.unwrap();
        let back: Value = serde_json::from_str(&annotations["compozy.dev/inputs"]).unwrap();
        prop_assert_eq!(back, json!({"text": text}));
    }
}
