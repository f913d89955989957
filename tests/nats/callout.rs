//! Who is let in by a server that asks the operator.

use std::sync::Arc;
use std::time::Duration;

use compozy::engine::rights::inbox_prefix;
use compozy::operator::callout::Callout;
use compozy::ports::{Bus, Calls, Credentials, NatsBus, NatsCalls, NatsOptions, SystemClock};
use futures::StreamExt;
use http::{Request, Response};
use kube::{Client, client::Body};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::server::NatsServer;

/// Longer than a few attempts to connect take.
const A_WHILE: Duration = Duration::from_millis(700);
/// Longer than anything that comes.
pub const PATIENCE: Duration = Duration::from_secs(20);

fn settings(issuer: &KeyPair) -> String {
    let issuer = issuer.public_key();
    format!(
        r#"authorization {{ timeout: 5, auth_callout {{ issuer: {issuer}, account: COMPOZY, auth_users: [operator] }} }}
        accounts {{
          COMPOZY {{
            jetstream: enabled
            users: [{{ user: operator, password: secret, permissions {{
              publish {{ allow: ["compozy.>", "$JS.API.>", "$JS.ACK.>", "$SYS._INBOX.>"] }}
              subscribe {{ allow: ["compozy.>", "_INBOX_operator.>", "$SYS.REQ.USER.AUTH"] }}
            }} }}]
            exports: [
              {{ stream: "compozy.commands.tool.*.execute.*", accounts: [TOOLS] }}
              {{ service: "compozy.results.tool.>", accounts: [TOOLS] }}
              {{ stream: "compozy.control.>", accounts: [WORKERS] }}
              {{ service: "$JS.API.CONSUMER.MSG.NEXT.COMPOZY_POOLS.*", accounts: [WORKERS], response_type: stream }}
              {{ service: "$JS.ACK.COMPOZY_POOLS.>", accounts: [WORKERS] }}
              {{ service: "compozy.reports.>", accounts: [WORKERS] }}
            ]
          }}
          TOOLS {{
            imports: [
              {{ stream: {{ account: COMPOZY, subject: "compozy.commands.tool.*.execute.*" }} }}
              {{ service: {{ account: COMPOZY, subject: "compozy.results.tool.>" }} }}
            ]
          }}
          WORKERS {{
            imports: [
              {{ stream: {{ account: COMPOZY, subject: "compozy.control.>" }} }}
              {{ service: {{ account: COMPOZY, subject: "$JS.API.CONSUMER.MSG.NEXT.COMPOZY_POOLS.*" }} }}
              {{ service: {{ account: COMPOZY, subject: "$JS.ACK.COMPOZY_POOLS.>" }} }}
              {{ service: {{ account: COMPOZY, subject: "compozy.reports.>" }} }}
            ]
          }}
        }}"#
    )
}

/// The API server of a cluster in which the token `<namespace>/<tool>` was given to the pod of that tool's server, and
/// `<namespace>/pool-<pool>` to that pool's worker.
fn cluster() -> Client {
    let answer = |request: Request<Body>| async move {
        let path = request.uri().path().to_owned();
        let sent = request.into_body().collect_bytes().await.unwrap();
        let (code, object) = object(&path, &sent);
        let body = Body::from(object.to_string().into_bytes());
        let answer = Response::builder().status(code).body(body);
        Ok::<_, std::convert::Infallible>(answer.unwrap())
    };
    Client::new(tower::service_fn(answer), "default")
}

fn object(path: &str, sent: &[u8]) -> (u16, Value) {
    if path == "/apis/authentication.k8s.io/v1/tokenreviews" {
        let review: Value = serde_json::from_slice(sent).unwrap();
        let token = review["spec"]["token"].as_str().unwrap();
        assert_eq!(review["spec"]["audiences"], json!(["compozy-nats"]));
        let status = match token.split_once('/') {
            Some(("stranger", account)) => json!({
                "authenticated": true, "audiences": ["compozy-nats"],
                "user": {"username": format!("system:serviceaccount:shop:{account}")},
            }),
            Some((namespace, tool)) => json!({
                "authenticated": true, "audiences": ["compozy-nats"],
                "user": {
                    "username": format!("system:serviceaccount:{namespace}:default"),
                    "extra": {
                        "authentication.kubernetes.io/pod-name": [tool],
                        "authentication.kubernetes.io/pod-uid": [uid_of(tool)],
                    },
                },
            }),
            None => json!({"authenticated": false, "error": "expired"}),
        };
        return (
            201,
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "metadata": {}, "spec": {}, "status": status}),
        );
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (namespace, kind, name) = match parts[..] {
        ["api", "v1", "namespaces", namespace, kind, name]
        | [
            "apis",
            "apps" | "compozy.dev",
            _,
            "namespaces",
            namespace,
            kind,
            name,
        ] => (namespace, kind, name),
        _ => panic!("nobody asks for {path}"),
    };
    let served = served(name);
    let mut owner = match (kind, name) {
        ("pods", "forged") => {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "charge", "uid": "guessed"})
        }
        ("pods", "bare") => {
            json!({"apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution", "name": "t", "uid": "u"})
        }
        ("pods", _) => {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": uid_of(name)})
        }
        ("replicasets", _) => {
            let deployment = match name {
                "pool-copied" => "pool-copied".to_owned(),
                _ if name.starts_with("pool-") => format!("compozy-{name}"),
                _ => format!("compozy-tool-{name}"),
            };
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment, "uid": uid_of(name)})
        }
        ("deployments", _) => {
            let kind = match name.contains("pool-") {
                true => "ExecutorPool",
                false => "Tool",
            };
            json!({"apiVersion": "compozy.dev/v1alpha1", "kind": kind, "name": served, "uid": uid_of(name)})
        }
        _ => json!({}),
    };
    owner["controller"] = json!(true);
    let spec = match (kind, name) {
        ("tools", "external") => json!({"external": true}),
        ("tools", _) => {
            json!({"handler": {"container": {"image": "x"}, "exec": {"command": ["x"]}}})
        }
        ("executorpools", _) => json!({"container": {"image": "x"}, "exec": {"command": ["x"]}}),
        _ => Value::Null,
    };
    let uid = match name {
        "replaced" => "another".to_owned(),
        _ => uid_of(name),
    };
    let owners = match kind {
        "tools" | "executorpools" => json!([]),
        _ => json!([owner]),
    };
    (
        200,
        json!({"metadata": {"name": name, "namespace": namespace, "uid": uid, "ownerReferences": owners}, "spec": spec}),
    )
}

/// The tool or pool to which a pod, or what owns it, belongs.
fn served(name: &str) -> &str {
    let name = name.strip_prefix("compozy-tool-").unwrap_or(name);
    let name = name.strip_prefix("compozy-").unwrap_or(name);
    name.strip_prefix("pool-").unwrap_or(name)
}

/// All that belongs to one has the same.
fn uid_of(name: &str) -> String {
    format!("uid-of-{}", served(name))
}

/// A server, and an operator that it asks.
pub async fn asked() -> (NatsServer, JoinHandle<()>) {
    let issuer = KeyPair::new_account();
    let server = NatsServer::start(&settings(&issuer));
    let answers = answer(&operator(&server).await, issuer);
    (server, answers)
}

/// The operator's own connection.
async fn operator(server: &NatsServer) -> NatsBus {
    let mut options = server.options();
    options.connection.credentials = Some(password(server));
    server.bus(options).await
}

fn answer(bus: &NatsBus, issuer: KeyPair) -> JoinHandle<()> {
    let clock = Arc::new(SystemClock);
    let callout = Callout::new(cluster(), bus.callout(), issuer, "compozy", clock);
    tokio::spawn(async move { callout.run().await })
}

fn password(server: &NatsServer) -> Credentials {
    let write = |name: &str, text: &str| {
        let path = server.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    Credentials::Password {
        user: write("user", "operator"),
        password: write("password", "secret"),
    }
}

/// What connects with that token.
async fn connect(server: &NatsServer, token: &str) -> NatsCalls {
    let file = server.directory().join(token.replace('/', "-"));
    std::fs::write(&file, token).unwrap();
    let NatsOptions { mut connection, .. } = server.options();
    connection.credentials = Some(Credentials::Token(file));
    let pod = token.split('/').next_back().unwrap();
    connection.inbox_prefix = inbox_prefix(&uid_of(pod));
    NatsCalls::connect(connection, "compozy").await.unwrap()
}

async fn let_in(server: &NatsServer, token: &str) -> NatsCalls {
    let calls = connect(server, token).await;
    let in_time = tokio::time::timeout(PATIENCE, calls.flush()).await;
    assert!(in_time.is_ok(), "{token} is not let in");
    calls
}

/// The operator's own client, which may say anything.
pub async fn caller(server: &NatsServer) -> async_nats::Client {
    let options =
        async_nats::ConnectOptions::with_user_and_password("operator".into(), "secret".into())
            .custom_inbox_prefix("_INBOX_operator")
            .retry_on_initial_connect();
    options.connect(server.address()).await.unwrap()
}

#[tokio::test]
async fn a_pod_of_a_tools_server_serves_that_tool_and_no_other() {
    let (server, _answers) = asked().await;
    operator(&server).await.ensure_streams().await.unwrap();
    let charge = let_in(&server, "shop/charge").await;
    let mut calls = charge
        .serve("compozy.commands.tool.*.execute.shop_charge", "charge")
        .await
        .unwrap();
    // Each is refused by the server: another tool, another namespace, not as one of the group, all.
    let refused = [
        ("compozy.commands.tool.*.execute.shop_refund", "refund"),
        ("compozy.commands.tool.*.execute.bank_charge", "charge"),
        ("compozy.commands.tool.*.execute.shop_charge", "spies"),
        ("compozy.>", "charge"),
        ("$SYS.REQ.USER.AUTH", "compozy-operator"),
        ("_INBOX_uid-of-refund.>", "charge"),
        ("_INBOX_operator.>", "charge"),
        (">", "charge"),
    ];
    let mut taken = Vec::new();
    for (subject, group) in refused {
        taken.push(charge.serve(subject, group).await.unwrap());
    }
    charge.flush().await;

    let caller = caller(&server).await;
    let mut shop = caller.subscribe("compozy.results.tool.>").await.unwrap();
    for tool in ["shop_refund", "bank_charge", "shop_charge"] {
        let subject = format!("compozy.commands.tool.shop_w.execute.{tool}");
        caller.publish(subject, tool.into()).await.unwrap();
    }
    let call = tokio::time::timeout(PATIENCE, calls.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(call.payload, "shop_charge");

    // It answers its namespace's calls and nobody else's, and forges nothing.
    for subject in [
        "compozy.results.tool.bank.te.id",
        "compozy.events.task.instance.u.completed",
        "compozy.commands.tool.shop_w.execute.shop_refund",
        "compozy.results.tool.shop.te.id",
    ] {
        charge.say(subject, "said".into()).await.unwrap();
    }
    let answer = tokio::time::timeout(PATIENCE, shop.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.subject.as_str(), "compozy.results.tool.shop.te.id");
    // An acknowledgement of the stream of answers, delivered as if it were an answer in another namespace.
    let mut bank = caller
        .subscribe("compozy.results.tool.bank.>")
        .await
        .unwrap();
    let (ours, theirs) = (
        "compozy.results.tool.shop.te.id",
        "compozy.results.tool.bank.te.id",
    );
    charge.send(ours, theirs, "said".into()).await.unwrap();
    charge.flush().await;
    let heard = tokio::time::timeout(Duration::from_millis(300), bank.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    for mut heard in taken {
        let heard = tokio::time::timeout(Duration::from_millis(50), heard.next()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[tokio::test]
async fn an_answer_is_kept_and_its_acknowledgement_comes_to_the_pods_own_inbox() {
    let (server, _answers) = asked().await;
    let bus = operator(&server).await;
    bus.ensure_streams().await.unwrap();
    let charge = let_in(&server, "shop/charge").await;
    charge
        .answer("compozy.results.tool.shop.te.id", "{}".into())
        .await
        .unwrap();
}

#[tokio::test]
async fn who_is_no_server_of_a_tool_is_refused_and_the_server_is_told_why() {
    let (server, _answers) = asked().await;
    for (token, why) in [
        ("expired", "its token is not accepted: expired"),
        ("stranger/deployer", "and of no pod"),
        ("shop/forged", "its ReplicaSet charge is gone"),
        ("shop/bare", "no ReplicaSet controls its Pod"),
        (
            "shop/external",
            "the operator does not serve the tool external",
        ),
        (
            "shop/pool-copied",
            "the operator does not serve the pool copied",
        ),
        (
            "shop/replaced",
            "the pod shop/replaced of its token is gone",
        ),
    ] {
        let options = async_nats::ConnectOptions::with_token(token.to_owned());
        let refused = options.connect(server.address()).await.unwrap_err();
        let violation = async_nats::ConnectErrorKind::AuthorizationViolation;
        assert_eq!(refused.kind(), violation, "{token}");
        // The server answers before it writes.
        let logged = async || {
            let log = || std::fs::read_to_string(server.directory().join("log")).unwrap();
            while !log().contains(why) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let logged = tokio::time::timeout(Duration::from_secs(10), logged()).await;
        assert!(logged.is_ok(), "the log does not say of {token}: {why}");
    }
    let_in(&server, "shop/charge").await;
}

#[tokio::test]
async fn nobody_is_let_in_while_no_operator_answers_and_all_come_in_when_one_does() {
    let issuer = KeyPair::new_account();
    let server = NatsServer::start(&settings(&issuer));
    let bus = operator(&server).await;
    let charge = connect(&server, "shop/charge").await;
    let subject = "compozy.commands.tool.*.execute.shop_charge";
    let mut calls = charge.serve(subject, "charge").await.unwrap();
    let caller = caller(&server).await;
    // Whether a call is taken within a while.
    let mut takes = async || {
        let call = "compozy.commands.tool.shop_w.execute.shop_charge";
        caller.publish(call, "call".into()).await.unwrap();
        caller.flush().await.unwrap();
        tokio::time::timeout(A_WHILE, calls.next()).await.is_ok()
    };
    assert!(!takes().await);
    let answers = answer(&bus, issuer);
    let in_time = tokio::time::timeout(PATIENCE, async { while !takes().await {} });
    assert!(in_time.await.is_ok());
    answers.abort();
    assert!(takes().await, "who is in stays in");
}
