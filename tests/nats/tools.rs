//! Tools served and called by the executor, as a program, on a real server.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use async_nats::StatusCode;
use bytes::Bytes;
use compozy::ports::Bus;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::program::{PATIENCE, Program, free_port, path, until_open, written};
use crate::server::NatsServer;

fn executor(server: &NatsServer, verb: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_executor"));
    command
        .args(["tool", verb, "charge", "--namespace", "shop", "--nats"])
        .arg(server.address())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A server with the streams.
async fn ready() -> NatsServer {
    let server = NatsServer::start("");
    let bus = server.bus(server.options()).await;
    bus.ensure_streams().await.unwrap();
    server
}

/// Serves the tool with a shell script for each call, once the server knows of it.
async fn serve(server: &NatsServer, flags: &[&str], script: &str) -> Program {
    let handler = ["--exec", "--", "sh", "-c", script];
    serve_by(server, &[flags, &handler].concat()).await
}

/// Serves the tool by the handler that the flags name, once the server knows of it.
async fn serve_by(server: &NatsServer, flags: &[&str]) -> Program {
    let mut command = executor(server, "serve");
    let served = command.args(flags).stderr(Stdio::null()).spawn().unwrap();
    let served = Program(served);
    until_served(server, true).await;
    served
}

/// Waits until somebody serves the tool, or nobody does.
async fn until_served(server: &NatsServer, served: bool) {
    let client = server.client().await;
    let end = Instant::now() + PATIENCE;
    loop {
        // No call at all: who serves says so, and else NATS that nobody does.
        let reply = format!("compozy.results.tool.shop.probe.{}", fastrand::u64(..));
        let mut said = client.subscribe(reply.clone()).await.unwrap();
        let subject = "compozy.commands.tool.probe.execute.shop_charge";
        let probe = client.publish_with_reply(subject, reply, Bytes::new());
        probe.await.unwrap();
        let said = tokio::time::timeout(Duration::from_secs(1), said.next()).await;
        if let Ok(Some(said)) = said
            && (said.status != Some(StatusCode::NO_RESPONDERS)) == served
        {
            return;
        }
        assert!(Instant::now() < end, "served: {}", !served);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn call(server: &NatsServer, flags: &[&str]) -> Output {
    let called = executor(server, "call").args(flags).output().unwrap();
    assert!(!String::from_utf8_lossy(&called.stderr).contains("panicked"));
    called
}

fn printed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_gives_the_output_or_the_tools_own_error() {
    let server = ready().await;
    let script = r#"case $(cat) in
        *good*) echo '{"charged": true}' ;;
        *large*) head -c 300000 /dev/zero ;;
        *garbage*) echo garbage ;;
        *) echo '{"error": {"message": "no money", "code": "POOR"}}'; exit 1 ;;
        esac"#;
    let _served = serve(&server, &[], script).await;
    let good = call(&server, &["--input", "{\"kind\": \"good\"}"]);
    assert_eq!(
        (good.status.code(), printed(&good)),
        (Some(0), json!({"charged": true}))
    );
    for (kind, code) in [
        ("poor", "POOR"),
        ("large", "OUTPUTS_TOO_LARGE"),
        ("garbage", "INVALID_OUTPUTS"),
    ] {
        let failed = call(&server, &["--input", &format!("\"{kind}\"")]);
        assert_eq!(failed.status.code(), Some(3), "{kind}");
        assert_eq!(printed(&failed)["code"], code);
    }
    assert_eq!(
        call(&server, &["--input", "no JSON"]).status.code(),
        Some(2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_nobody_serves_is_told_at_once_and_no_connection_too() {
    let mut server = ready().await;
    let began = Instant::now();
    let nobody = call(&server, &[]);
    assert_eq!(
        (nobody.status.code(), &printed(&nobody)["code"]),
        (Some(4), &json!("NO_RESPONDERS"))
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    server.crash();
    let away = call(&server, &["--timeout", "500ms"]);
    assert_eq!(
        (away.status.code(), &printed(&away)["code"]),
        (Some(4), &json!("UNAVAILABLE"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_during_a_call_leaves_it_without_an_answer() {
    let server = ready().await;
    let began = path(&server, "began");
    // Nobody kills it any more: it goes with the files.
    let file = began.display();
    let script = format!("echo >> {file}; while [ -e {file} ]; do sleep 0.1; done");
    let mut served = serve(&server, &[], &script).await;
    let called = executor(&server, "call")
        .args(["--timeout", "3s"])
        .spawn()
        .unwrap();
    written(&began, 1).await;
    served.signal("-KILL");
    served.wait();
    let output = called.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), &printed(&output)["code"]),
        (Some(4), &json!("TIMEOUT"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_runs_once_however_often_it_comes() {
    let server = ready().await;
    let runs = path(&server, "runs");
    let script = format!(
        "echo >> {}; echo '{{\"n\": '$(wc -l < {})'}}'",
        runs.display(),
        runs.display()
    );
    let _served = serve(&server, &[], &script).await;
    for _ in 0..3 {
        let output = call(&server, &["--tool-exec-id", "same"]);
        assert_eq!(
            (output.status.code(), printed(&output)),
            (Some(0), json!({"n": 1}))
        );
    }
    assert_eq!(printed(&call(&server, &[])), json!({"n": 2}));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_end_a_server_finishes_what_it_has_and_takes_no_more() {
    let server = ready().await;
    let (began, go) = (path(&server, "began"), path(&server, "go"));
    let script = format!(
        "echo >> {}; while [ ! -e {} ]; do sleep 0.02; done; echo '{{\"done\": true}}'",
        began.display(),
        go.display()
    );
    let mut served = serve(&server, &[], &script).await;
    let called = executor(&server, "call").spawn().unwrap();
    written(&began, 1).await;
    served.terminate();
    until_served(&server, false).await;
    assert_eq!(printed(&call(&server, &[]))["code"], "NO_RESPONDERS");
    std::fs::write(&go, "").unwrap();
    let output = called.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), printed(&output)),
        (Some(0), json!({"done": true}))
    );
    assert_eq!(served.wait(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_within_the_grace_is_cut_off_and_its_caller_told() {
    let server = ready().await;
    let began = path(&server, "began");
    let script = format!("echo $$ >> {}; exec sleep 1000", began.display());
    let flags = ["--grace", "200ms", "--concurrency", "1"];
    let mut served = serve(&server, &flags, &script).await;
    let client = server.client().await;
    let mut sent = client
        .subscribe("compozy.commands.tool.shop_by-hand.>")
        .await
        .unwrap();
    // The server has the subscription before it answers this.
    let _ = client.request("nobody.is.there", Bytes::new()).await;
    let calls = [0, 1].map(|_| executor(&server, "call").spawn().unwrap());
    written(&began, 1).await;
    // The other one has come too, and waits.
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, sent.next())
            .await
            .unwrap()
            .unwrap();
    }
    served.terminate();
    for called in calls {
        let output = called.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), &printed(&output)["code"]),
            (Some(3), &json!("SERVER_STOPPED"))
        );
    }
    assert_eq!(served.wait(), Some(1));
    let pids = std::fs::read_to_string(&began).unwrap();
    assert_eq!(pids.lines().count(), 1, "the second one did not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_one_tool_share_its_calls() {
    let server = ready().await;
    let served = ["one", "two"];
    let mut running = Vec::new();
    for name in served {
        let runs = path(&server, name);
        let script = format!("echo >> {}; echo '{{}}'", runs.display());
        running.push(serve(&server, &[], &script).await);
    }
    let count = |name: &str| {
        let text = std::fs::read_to_string(path(&server, name)).unwrap_or_default();
        text.lines().count()
    };
    let mut calls = 0;
    while served.iter().any(|name| count(name) == 0) {
        assert!(calls < 200, "one of them gets nothing");
        assert_eq!(call(&server, &[]).status.code(), Some(0));
        calls += 1;
    }
    assert_eq!(count("one") + count("two"), calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_past_its_deadline_ends_its_handler_and_the_tool_goes_on() {
    let server = ready().await;
    let pids = path(&server, "pids");
    let script = format!(
        "case $(cat) in *stuck*) echo $$ >> {}; exec sleep 1000 ;; esac",
        pids.display()
    );
    let _served = serve(&server, &["--concurrency", "1"], &script).await;
    let stuck = call(&server, &["--input", "\"stuck\"", "--timeout", "1s"]);
    assert_eq!(
        (stuck.status.code(), &printed(&stuck)["code"]),
        (Some(4), &json!("TIMEOUT"))
    );
    assert_eq!(call(&server, &[]).status.code(), Some(0));
    let pid = std::fs::read_to_string(&pids).unwrap();
    assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_wants_its_answer_elsewhere_is_not_run() {
    let server = ready().await;
    let runs = path(&server, "runs");
    let script = format!("echo >> {}", runs.display());
    let _served = serve(&server, &[], &script).await;
    let client = server.client().await;
    let mut all = client.subscribe(">").await.unwrap();
    let subject = "compozy.commands.tool.shop_order.execute.shop_charge";
    let message = |reply: &str| {
        let call = json!({"tool_id": "charge", "tool_exec_id": "id", "input_args": {}, "reply_to_subject": reply,
            "deadline": "2999-01-01T00:00:00Z", "namespace": "shop", "workflow_id": "order", "workflow_exec_id": "w",
            "task_id": "pay", "task_exec_id": "te", "attempt": 1});
        Bytes::from(call.to_string())
    };
    let (evil, good) = (
        "compozy.events.workflow.instance.x.completed",
        "compozy.results.tool.shop.te.id",
    );
    // Told nobody: it wants neither this nor that.
    client
        .publish_with_reply(subject, evil, message(evil))
        .await
        .unwrap();
    client
        .publish_with_reply(subject, good, message(evil))
        .await
        .unwrap();
    let refusal = async {
        loop {
            let message = all.next().await.unwrap();
            assert_ne!(message.subject.as_str(), evil);
            if message.subject.as_str() == good {
                return message;
            }
        }
    };
    let refusal = tokio::time::timeout(PATIENCE, refusal).await.unwrap();
    let said: Value = serde_json::from_slice(&refusal.payload).unwrap();
    assert_eq!(
        (&said["status"], &said["error"]["code"]),
        (&json!("TOOL_ERROR"), &json!("INVALID_CALL"))
    );
    client
        .publish_with_reply(subject, good, Bytes::from_static(b"garbage"))
        .await
        .unwrap();
    assert_eq!(call(&server, &[]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&runs).unwrap().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_served_again_after_nats_was_away_and_late_answers_arrive() {
    let mut server = ready().await;
    let (began, go) = (path(&server, "began"), path(&server, "go"));
    let script = format!(
        "echo >> {}; while [ ! -e {} ]; do sleep 0.02; done; echo '{{\"late\": true}}'",
        began.display(),
        go.display()
    );
    let _served = serve(&server, &[], &script).await;
    let called = executor(&server, "call")
        .args(["--timeout", "60s"])
        .spawn()
        .unwrap();
    written(&began, 1).await;
    server.stop();
    std::fs::write(&go, "").unwrap();
    server.run();
    let output = called.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), printed(&output)),
        (Some(0), json!({"late": true}))
    );
    assert_eq!(call(&server, &[]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stream_of_answers_tools_work_too() {
    let server = NatsServer::start("");
    let _served = serve(&server, &["--concurrency", "1"], "echo '{}'").await;
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(call(&server, &[]).status.code(), Some(0));
    }
    // No acknowledgement is waited for in a call's place.
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_count_words() {
    let server = ready().await;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/tools");
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let port = free_port().port().to_string();
    let mut web = Command::new("python3");
    web.arg(file("word_count_http.py"))
        .env("PORT", &port)
        .stderr(Stdio::null());
    let _web = Program(web.spawn().unwrap());
    let end = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
        assert!(Instant::now() < end, "the web server does not listen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let url = format!("http://localhost:{port}/");
    for (flags, code) in [
        (vec!["--exec", "--", &file("word-count.sh")], "NO_TEXT"),
        (
            vec!["--stdio", "--", "python3", &file("word_count.py")],
            "NO_TEXT",
        ),
        (vec!["--http", &url], "HTTP_400"),
    ] {
        let served = serve_by(&server, &flags).await;
        for _ in 0..2 {
            let counted = call(&server, &["--input", "{\"text\":\"to be or not to be\"}"]);
            assert_eq!(counted.status.code(), Some(0), "{flags:?}: {counted:?}");
            assert_eq!(printed(&counted)["words"], 6, "{flags:?}");
        }
        let failed = call(&server, &["--input", "{}"]);
        assert_eq!(failed.status.code(), Some(3), "{flags:?}");
        assert_eq!(printed(&failed)["code"], code, "{flags:?}");
        drop(served);
        until_served(&server, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_executor_serves_and_its_port_says_whether_calls_are_taken() {
    let mut server = ready().await;
    let copy = path(&server, "executor");
    let installed = Command::new(env!("CARGO_BIN_EXE_executor"))
        .arg("install")
        .arg(&copy)
        .status();
    assert!(installed.unwrap().success());
    let address = free_port();
    let mut served = Command::new(&copy);
    served
        .args(["tool", "serve", "charge", "--namespace", "shop", "--nats"])
        .arg(server.address())
        .args(["--exec", "--", "cat"])
        .env("COMPOZY_READY_PORT", address.port().to_string())
        .stderr(Stdio::null());
    let _served = Program(served.spawn().unwrap());
    until_open(address, true).await;
    let called = call(&server, &["--input", "{\"a\": 1}"]);
    assert_eq!(printed(&called), json!({"a": 1}));
    server.crash();
    until_open(address, false).await;
    server.run();
    until_open(address, true).await;
}
