use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::{ExecutorPool, Tool};

const NOW: i64 = 1_700_000_000;

fn at(seconds: i64) -> Time {
    Time(jiff::Timestamp::from_second(NOW + seconds).unwrap())
}

fn settings() -> ServerSettings {
    ServerSettings {
        executor_image: "compozy/operator:1".to_owned(),
        nats_url: "nats://nats:4222".to_owned(),
        nats_prefix: "compozy".to_owned(),
        vouched_for: true,
        ..ServerSettings::default()
    }
}

fn tool(handler: Value) -> Tool {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Tool",
        "metadata": {"name": "charge", "namespace": "shop", "uid": "tool-uid", "generation": 3},
        "spec": {"handler": handler},
    }))
    .unwrap()
}

fn stdio() -> Value {
    json!({"container": {"image": "shop/charge:1", "env": [{"name": "CARD", "value": "blue"}]},
        "stdio": {"command": ["python3", "charge.py"]}})
}

fn pool(spec: Value) -> ExecutorPool {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "ExecutorPool",
        "metadata": {"name": "text", "namespace": "shop", "uid": "pool-uid", "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

fn applied<K: Served>(served: &K, settings: &ServerSettings) -> Deployment {
    *plan(served, None, None, settings, at(0)).apply.unwrap()
}

fn containers(deployment: &Deployment, path: &str) -> Vec<Value> {
    let value = serde_json::to_value(deployment).unwrap();
    let list = value["spec"]["template"]["spec"][path].as_array().cloned();
    list.unwrap_or_default()
}

/// As the Deployment's controller has it after a while.
fn settled(tool: &Tool, ready: i32) -> Deployment {
    let mut found = applied(tool, &settings());
    found.metadata.uid = Some("deployment-uid".to_owned());
    found.status = Some(DeploymentStatus {
        replicas: Some(1),
        ready_replicas: Some(ready),
        ..DeploymentStatus::default()
    });
    found
}

#[test]
fn the_executor_starts_the_program_in_the_users_container() {
    let deployment = applied(&tool(stdio()), &settings());
    assert_eq!(deployment.name_any(), "compozy-tool-charge");
    let init = containers(&deployment, "initContainers");
    assert_eq!(init[0]["image"], "compozy/operator:1");
    assert_eq!(
        init[0]["command"],
        json!(["/executor", "install", "/compozy/bin/executor"])
    );
    let [main] = &containers(&deployment, "containers")[..] else {
        panic!("one container")
    };
    assert_eq!(main["image"], "shop/charge:1");
    assert_eq!(
        main["command"],
        json!([
            "/compozy/bin/executor",
            "tool",
            "serve",
            "charge",
            "--stdio",
            "--",
            "python3",
            "charge.py"
        ])
    );
    let env = main["env"].as_array().unwrap();
    let value = |name: &str| {
        env.iter()
            .find(|variable| variable["name"] == name)
            .unwrap()["value"]
            .clone()
    };
    assert_eq!(
        value("COMPOZY_NATS_INBOX_PREFIX"),
        "_INBOX_$(COMPOZY_POD_UID)"
    );
    assert_eq!(value("COMPOZY_TOOL_GRACE"), "25s");
    assert_eq!(value("CARD"), "blue");
    let mounts = main["volumeMounts"].as_array().unwrap();
    let paths: Vec<_> = mounts.iter().map(|mount| &mount["mountPath"]).collect();
    assert_eq!(paths, ["/compozy/nats", "/compozy/bin"]);
    assert_eq!(main["readinessProbe"]["tcpSocket"]["port"], 6960);
}

#[test]
fn a_web_server_runs_unchanged_and_the_executor_beside_it() {
    let handler = json!({"container": {"image": "shop/charge:1", "args": ["--port", "8000"]},
        "http": {"port": 8000, "path": "/charge"}, "concurrency": 4});
    let deployment = applied(&tool(handler), &settings());
    let server = &containers(&deployment, "initContainers")[0];
    assert_eq!(
        server["restartPolicy"], "Always",
        "it ends after the executor"
    );
    assert_eq!(server["args"], json!(["--port", "8000"]));
    assert_eq!(server["startupProbe"]["tcpSocket"]["port"], 8000);
    assert!(
        server["env"].is_null() && server["volumeMounts"].is_null(),
        "it gets no token"
    );
    let executor = &containers(&deployment, "containers")[0];
    assert_eq!(
        executor["command"],
        json!([
            "/executor",
            "tool",
            "serve",
            "charge",
            "--http",
            "http://localhost:8000/charge"
        ])
    );
    let concurrency = json!({"name": "COMPOZY_TOOL_CONCURRENCY", "value": "4"});
    assert!(executor["env"].as_array().unwrap().contains(&concurrency));
}

#[test]
fn a_pod_gets_a_token_for_nats_alone_and_only_where_nats_wants_one() {
    let value = serde_json::to_value(applied(&tool(stdio()), &settings())).unwrap();
    let pod = &value["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert!(value.to_string().contains(r#""serviceAccountToken":{"audience":"compozy-nats","expirationSeconds":3600,"path":"token"}"#));
    let open = ServerSettings {
        vouched_for: false,
        ..settings()
    };
    let value = serde_json::to_value(applied(&tool(stdio()), &open)).unwrap();
    assert!(!value.to_string().contains("serviceAccountToken\""));
    assert!(!value.to_string().contains("TOKEN_FILE"));
}

#[test]
fn a_pod_learns_by_which_certificates_nats_is_known() {
    let tls = ServerSettings {
        nats_ca: Some("-----BEGIN CERTIFICATE-----".to_owned()),
        ..settings()
    };
    let deployment = applied(&tool(stdio()), &tls);
    let value = serde_json::to_value(&deployment).unwrap();
    let template = &value["spec"]["template"];
    assert_eq!(
        template["metadata"]["annotations"]["compozy.dev/nats-ca"],
        "-----BEGIN CERTIFICATE-----"
    );
    let file = json!({"path": "ca.crt", "fieldRef": {"fieldPath": "metadata.annotations['compozy.dev/nats-ca']"}});
    assert!(template.to_string().contains(&file.to_string()));
    let set = json!({"name": "COMPOZY_NATS_CA_FILE", "value": "/compozy/nats/ca.crt"});
    assert!(template.to_string().contains(&set.to_string()));
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let mut tool = tool(stdio());
    let found = settled(&tool, 1);
    let planned = plan(&tool, Some(&found), None, &settings(), at(5));
    let status = planned.record.unwrap();
    assert_eq!(planned.apply, None);
    assert_eq!((status.replicas, status.ready_replicas), (1, 1));
    assert_eq!(status.conditions[0].reason, "Serving");
    tool.status = Some(status);
    assert_eq!(
        plan(&tool, Some(&found), None, &settings(), at(9)),
        Plan::default()
    );
}

#[test]
fn a_changed_spec_and_a_new_executor_are_rolled_out_to_the_same_deployment() {
    let before = tool(stdio());
    let found = settled(&before, 1);
    let mut changed = stdio();
    changed["replicas"] = json!(2);
    let newer = ServerSettings {
        executor_image: "compozy/operator:2".to_owned(),
        ..settings()
    };
    for (tool, settings) in [(tool(changed), settings()), (before, newer)] {
        let planned = plan(&tool, Some(&found), None, &settings, at(0));
        let wanted = planned.apply.unwrap();
        assert_eq!(wanted.metadata.uid.as_deref(), Some("deployment-uid"));
    }
}

#[rstest]
#[case::nothing(json!({}), "NotServed", "compozy.dev/tool")]
#[case::quota(json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]}), "NotServed", "exceeded quota")]
#[case::late(json!({"conditions": [{"type": "Progressing", "status": "False", "message": "timed out progressing"}]}), "NotServed", "timed out")]
#[case::slow(json!({"conditions": [{"type": "Progressing", "status": "True", "message": "created"}]}), "NotServed", "compozy.dev/tool")]
fn a_tool_that_nobody_serves_says_why(
    #[case] status: Value,
    #[case] reason: &str,
    #[case] message: &str,
) {
    let tool = tool(stdio());
    let mut found = settled(&tool, 0);
    found.status = serde_json::from_value(status).unwrap();
    let planned = plan(&tool, Some(&found), None, &settings(), at(0));
    let status = planned.record.unwrap();
    let ready = &status.conditions[0];
    assert_eq!(
        (ready.reason.as_str(), ready.status),
        (reason, ConditionStatus::False)
    );
    assert!(ready.message.contains(message), "{}", ready.message);
}

#[test]
fn a_roll_out_that_does_not_go_on_is_told_while_older_pods_serve() {
    let tool = tool(stdio());
    let mut found = settled(&tool, 1);
    let late = json!({"readyReplicas": 1, "conditions":
        [{"type": "Progressing", "status": "False", "message": "timed out progressing"}]});
    found.status = serde_json::from_value(late).unwrap();
    let planned = plan(&tool, Some(&found), None, &settings(), at(0));
    let status = planned.record.unwrap();
    let ready = &status.conditions[0];
    assert_eq!(ready.status, ConditionStatus::True);
    assert_eq!(ready.message, "timed out progressing");
}

#[test]
fn a_deployment_that_lost_its_label_gets_it_back() {
    let tool = tool(stdio());
    let mut found = settled(&tool, 1);
    assert!(serves(&found, &tool));
    found.metadata.labels = None;
    let planned = plan(&tool, Some(&found), None, &settings(), at(0));
    assert!(planned.apply.is_some());
    found.metadata.owner_references = None;
    assert!(!serves(&found, &tool), "it is somebody else's");
}

#[test]
fn a_deployment_of_somebody_else_is_not_touched() {
    let tool = tool(stdio());
    let mut found = settled(&tool, 1);
    found.metadata.owner_references = None;
    let planned = plan(&tool, Some(&found), None, &settings(), at(0));
    let status = planned.record.unwrap();
    assert_eq!(planned.apply, None);
    assert_eq!(
        (status.replicas, status.conditions[0].reason.as_str()),
        (0, "NameTaken")
    );
}

#[test]
fn a_tool_may_ask_for_no_more_than_a_workflow() {
    let handler = json!({"container": {"image": "x", "securityContext": {"privileged": true}},
        "stdio": {"command": ["x"]}, "podTemplate": {"spec": {"serviceAccountName": "admin"}}});
    let planned = plan(&tool(handler), None, None, &settings(), at(0));
    let status = planned.record.unwrap();
    let ready = &status.conditions[0];
    assert_eq!(
        (planned.apply, ready.reason.as_str()),
        (None, "InvalidSpec")
    );
    assert!(
        ready
            .message
            .contains("spec.handler.container.securityContext.privileged"),
        "{}",
        ready.message
    );
    assert!(
        ready
            .message
            .contains("spec.handler.podTemplate.spec.serviceAccountName"),
        "{}",
        ready.message
    );
}

/// The schema refuses it; a definition that somebody replaced may not.
#[test]
fn a_handler_is_one_thing() {
    let mut both = stdio();
    both["exec"] = json!({"command": ["x"]});
    for handler in [both, json!({"container": {"image": "x"}})] {
        let planned = plan(&tool(handler), None, None, &settings(), at(0));
        let status = planned.record.unwrap();
        assert_eq!(planned.apply, None);
        assert_eq!(
            status.conditions[0].message,
            "spec.handler: needs exactly one of: exec, stdio, http"
        );
    }
}

#[test]
fn what_the_api_server_refused_is_shown_and_tried_again() {
    let planned = plan(
        &tool(stdio()),
        None,
        Some("denied by the webhook"),
        &settings(),
        at(0),
    );
    let status = planned.record.unwrap();
    let ready = &status.conditions[0];
    assert!(planned.apply.is_some());
    assert_eq!(
        (ready.reason.as_str(), ready.message.as_str()),
        ("Refused", "denied by the webhook")
    );
}

#[test]
fn a_condition_keeps_the_time_since_which_it_holds() {
    let mut tool = tool(stdio());
    let recorded_at = |tool: &Tool, ready, seconds| {
        let planned = plan(
            tool,
            Some(&settled(tool, ready)),
            None,
            &settings(),
            at(seconds),
        );
        planned.record.unwrap()
    };
    tool.status = Some(recorded_at(&tool, 1, 0));
    tool.metadata.generation = Some(4);
    let again = recorded_at(&tool, 1, 10);
    assert_eq!(again.conditions[0].last_transition_time, at(0));
    tool.status = Some(again);
    assert_eq!(
        recorded_at(&tool, 0, 20).conditions[0].last_transition_time,
        at(20)
    );
}

#[test]
fn an_external_tool_and_one_that_goes_need_nothing() {
    let mut external = tool(stdio());
    external.spec.handler = None;
    external.spec.external = Some(true);
    assert_eq!(
        plan(&external, None, None, &settings(), at(0)),
        Plan::default()
    );
    let going: Tool = {
        let mut value = serde_json::to_value(tool(stdio())).unwrap();
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        serde_json::from_value(value).unwrap()
    };
    assert_eq!(
        plan(&going, None, None, &settings(), at(0)),
        Plan::default()
    );
}

/// Another one would roll out every tool with an upgrade of the operator's image left out.
#[test]
fn the_deployment_of_a_tool_stays_what_it_was() {
    let http = json!({"container": {"image": "shop/charge:1"}, "replicas": 2,
        "http": {"port": 8000, "path": "/charge"}, "concurrency": 4});
    let known = [
        "b92300cb4ec7b51dc2630fac43e3119e",
        "f948c2f2ab9ade99e4a877d7f764e701",
    ];
    for (handler, known) in [stdio(), http].into_iter().zip(known) {
        let deployment = applied(&tool(handler), &settings());
        assert_eq!(hash(&deployment).unwrap(), known);
    }
}

#[test]
fn the_workers_of_a_pool_know_whose_they_are_and_how_much_they_take() {
    let deployment = applied(&pool(stdio()), &settings());
    assert_eq!(deployment.name_any(), "compozy-pool-text");
    let value = serde_json::to_value(&deployment).unwrap();
    let label = json!({"compozy.dev/pool": "text"});
    assert_eq!(value["metadata"]["labels"], label);
    assert_eq!(value["spec"]["selector"]["matchLabels"], label);
    assert_eq!(value["spec"]["template"]["metadata"]["labels"], label);
    let owner = &value["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("ExecutorPool"), &json!("pool-uid"))
    );
    let main = &containers(&deployment, "containers")[0];
    assert_eq!(main["name"], "handler");
    let command = [
        "/compozy/bin/executor",
        "worker",
        "text",
        "--stdio",
        "--",
        "python3",
        "charge.py",
    ];
    assert_eq!(main["command"], json!(command));
    let env = main["env"].as_array().unwrap();
    for variable in [
        json!({"name": "COMPOZY_NAMESPACE", "value": "shop"}),
        json!({"name": "COMPOZY_GRACE", "value": "20s"}),
        json!({"name": "COMPOZY_SLOTS", "value": "1"}),
        json!({"name": "COMPOZY_WORKER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
        json!({"name": "CARD", "value": "blue"}),
    ] {
        assert!(env.contains(&variable), "{variable} is not in {env:?}");
    }
    assert!(!value.to_string().contains("COMPOZY_TOOL"));
}

#[rstest]
#[case::one_process(json!({"stdio": {"command": ["x"]}}), "1")]
#[case::a_process_each(json!({"exec": {"command": ["x"]}}), "8")]
#[case::a_web_server(json!({"http": {"port": 80}}), "8")]
#[case::as_given(json!({"stdio": {"command": ["x"]}, "slots": 3}), "3")]
fn a_worker_has_as_many_slots_as_its_program_bears(#[case] mut spec: Value, #[case] slots: &str) {
    spec["container"] = json!({"image": "x"});
    let deployment = applied(&pool(spec), &settings());
    let value = serde_json::to_value(deployment).unwrap();
    let variable = json!({"name": "COMPOZY_SLOTS", "value": slots});
    assert!(value.to_string().contains(&variable.to_string()), "{value}");
}

#[test]
fn a_pool_says_in_its_own_words_what_is_wrong_with_it() {
    let ready = |pool: &ExecutorPool, found: Option<&Deployment>| {
        let status = plan(pool, found, None, &settings(), at(0)).record.unwrap();
        status.conditions[0].clone()
    };
    let good = pool(stdio());
    let mut found = applied(&good, &settings());
    let message = ready(&good, Some(&found)).message;
    assert_eq!(
        message,
        "no pod takes tasks: see the pods with the label compozy.dev/pool"
    );
    found.metadata.owner_references = None;
    let message = ready(&good, Some(&found)).message;
    assert!(message.contains("that is not this pool's"), "{message}");
    let privileged = pool(json!({"stdio": {"command": ["x"]},
        "container": {"image": "x", "securityContext": {"privileged": true}}}));
    let message = ready(&privileged, None).message;
    assert!(
        message.contains("spec.container.securityContext.privileged"),
        "{message}"
    );
}

/// Both may have the same name.
#[test]
fn the_deployment_of_a_tool_serves_no_pool() {
    let mut found = settled(&tool(stdio()), 1);
    assert!(!serves(&found, &pool(stdio())));
    found = Deployment {
        status: found.status,
        ..applied(&pool(stdio()), &settings())
    };
    assert!(serves(&found, &pool(stdio())));
}
