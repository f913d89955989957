//! Tasks of a pool run by the executor, as a program, on a real server. The operator is played by the test.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Stream};
use async_nats::jetstream::{self, Context};
use compozy::protocol::pool::{Control, LEASE, Order, PoolSubjects, TaskExecute};
use serde_json::{Value, json};

use crate::program::{PATIENCE, Program, free_port, path, until_open, written};
use crate::server::NatsServer;

/// All that a worker of the pool may do, from an account of its own.
const RIGHTS: &str = r#"
no_auth_user: operator
accounts {
  COMPOZY {
    jetstream: enabled
    users: [{ user: operator, password: operator }]
    exports: [
      { service: "$JS.API.CONSUMER.MSG.NEXT.COMPOZY_POOLS.*", response_type: stream, accounts: [WORKERS] }
      { service: "$JS.ACK.COMPOZY_POOLS.>", accounts: [WORKERS] }
      { service: "compozy.reports.>", accounts: [WORKERS] }
      { stream: "compozy.control.>", accounts: [WORKERS] }
    ]
  }
  WORKERS {
    users: [{
      user: worker
      password: worker
      permissions {
        publish { allow: [
          "$JS.API.CONSUMER.MSG.NEXT.COMPOZY_POOLS.shop_text"
          "$JS.ACK.COMPOZY_POOLS.shop_text.>"
          "compozy.reports.shop.pool.text.>"
        ] }
        subscribe { allow: ["compozy.control.shop.text.>", "_INBOX_w1.>"] }
      }
    }]
    imports: [
      { service: { account: COMPOZY, subject: "$JS.API.CONSUMER.MSG.NEXT.COMPOZY_POOLS.*" } }
      { service: { account: COMPOZY, subject: "$JS.ACK.COMPOZY_POOLS.>" } }
      { service: { account: COMPOZY, subject: "compozy.reports.>" } }
      { stream: { account: COMPOZY, subject: "compozy.control.>" } }
    ]
  }
}
"#;

/// What the operator has of a pool.
struct Pool {
    server: NatsServer,
    js: Context,
    subjects: PoolSubjects,
}

impl Pool {
    /// A pool with its queue.
    async fn new() -> Pool {
        let pool = Pool::without_queue("").await;
        pool.create_queue().await;
        pool
    }

    async fn without_queue(settings: &str) -> Pool {
        let server = NatsServer::start(settings);
        server.bus(server.options()).await;
        let js = jetstream::new(server.client().await);
        let subjects = PoolSubjects::new("compozy");
        let pool = Pool {
            server,
            js,
            subjects,
        };
        pool.create_stream("COMPOZY_REPORTS", pool.subjects.reports())
            .await;
        pool
    }

    async fn create_stream(&self, name: &str, subjects: String) {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![subjects],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            ..Default::default()
        };
        self.js.create_stream(config).await.unwrap();
    }

    async fn create_queue(&self) {
        self.create_stream("COMPOZY_POOLS", self.subjects.commands())
            .await;
        let config = pull::Config {
            durable_name: Some(PoolSubjects::consumer("shop", "text")),
            filter_subject: self.subjects.queue("shop", "text"),
            ack_policy: AckPolicy::Explicit,
            ack_wait: LEASE,
            max_deliver: 1,
            ..Default::default()
        };
        let stream = self.stream("COMPOZY_POOLS").await;
        stream.create_consumer(config).await.unwrap();
    }

    async fn stream(&self, name: &str) -> Stream {
        self.js.get_stream(name).await.unwrap()
    }

    /// A worker whose handler is a shell script for each task.
    fn worker(&self, flags: &[&str], script: &str) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_executor"));
        command
            .args(["worker", "text", "--namespace", "shop", "--nats"])
            .arg(self.server.address())
            .args(["--worker-name", "w1"])
            .args(flags)
            .args(["--exec", "--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        Program(command.spawn().unwrap())
    }

    /// Queues the first attempt of a task, with changes to its command.
    async fn order(&self, id: &str, changes: Value) {
        let command = TaskExecute {
            task_exec_id: id.to_owned(),
            attempt: 1,
            inputs: json!({"id": id}),
            handler: Some("count".to_owned()),
            timeout_ms: None,
            task_id: "count".to_owned(),
            workflow_id: "order".to_owned(),
            workflow_exec_id: "w-uid".to_owned(),
            namespace: "shop".to_owned(),
            pool: "text".to_owned(),
        };
        let mut command = serde_json::to_value(command).unwrap();
        let changes = changes.as_object().cloned().unwrap_or_default();
        command.as_object_mut().unwrap().extend(changes);
        let subject = self.subjects.command("shop", "text", id, 1);
        let stored = self.js.publish(subject, command.to_string().into()).await;
        stored.unwrap().await.unwrap();
    }

    /// Tells the workers something of an attempt.
    async fn control(&self, id: &str, attempt: u32, order: Order) {
        let control = serde_json::to_vec(&Control { attempt, order }).unwrap();
        let subject = self.subjects.control("shop", "text", id);
        let client = self.server.client().await;
        client.publish(subject, control.into()).await.unwrap();
        client.flush().await.unwrap();
    }

    /// The nth report, from 1, once it is there.
    async fn report(&self, nth: u64) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            // The server may be away.
            if let Ok(stream) = self.js.get_stream("COMPOZY_REPORTS").await
                && let Ok(message) = stream.get_raw_message(nth).await
            {
                return serde_json::from_slice(&message.payload).unwrap();
            }
            assert!(Instant::now() < end, "no report {nth}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the first reports say, in their order.
    async fn news(&self, count: u64) -> Vec<String> {
        let mut news = Vec::new();
        for nth in 1..=count {
            let status = &self.report(nth).await["status"];
            news.push(status.as_str().unwrap().to_owned());
        }
        news
    }

    /// How many reports there are.
    async fn reports(&self) -> u64 {
        let stream = self.stream("COMPOZY_REPORTS").await;
        stream.get_info().await.unwrap().state.last_sequence
    }

    /// How many commands are in the queue, delivered or not.
    async fn queued(&self) -> u64 {
        let stream = self.stream("COMPOZY_POOLS").await;
        stream.get_info().await.unwrap().state.messages
    }

    async fn until_queued(&self, count: u64) {
        let end = Instant::now() + PATIENCE;
        while self.queued().await != count {
            assert!(Instant::now() < end, "{} in the queue", self.queued().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_delivered(&self) {
        let end = Instant::now() + PATIENCE;
        while self.delivered().await == 0 {
            assert!(Instant::now() < end, "no worker has a command");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How many commands workers have.
    async fn delivered(&self) -> usize {
        let name = PoolSubjects::consumer("shop", "text");
        let stream = self.stream("COMPOZY_POOLS").await;
        let consumer: Consumer<pull::Config> = stream.get_consumer(&name).await.unwrap();
        consumer.get_info().await.unwrap().num_ack_pending
    }

    /// Two files, and a script that writes a line with its process's id to the first and waits for the second.
    /// It goes with them too, should nobody kill it.
    fn waiting(&self) -> (std::path::PathBuf, std::path::PathBuf, String) {
        let (began, go) = (path(&self.server, "began"), path(&self.server, "go"));
        let script = format!(
            "echo $$ >> {began}; while [ -e {began} -a ! -e {go} ]; do sleep 0.02; done; echo '{{\"done\": true}}'",
            began = began.display(),
            go = go.display()
        );
        (began, go, script)
    }
}

/// Waits until none of the processes whose ids stand in the file runs.
async fn ended(pids: &Path) {
    let end = Instant::now() + PATIENCE;
    let text = std::fs::read_to_string(pids).unwrap();
    let runs = |pid: &str| Path::new("/proc").join(pid).exists();
    while text.split_whitespace().any(runs) {
        assert!(Instant::now() < end, "{text} goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As long as a report would take that there shall not be.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_run_reported_and_leaves_the_queue() {
    let pool = Pool::new().await;
    let script = r#"printf '{"got": %s, "by": "%s/%s"}' "$(cat)" "$COMPOZY_HANDLER" "$COMPOZY_IDEMPOTENCY_KEY""#;
    let _worker = pool.worker(&[], script);
    pool.order("te", json!({})).await;
    let (started, succeeded) = (pool.report(1).await, pool.report(2).await);
    for (report, status) in [(&started, "STARTED"), (&succeeded, "SUCCEEDED")] {
        assert_eq!(report["status"], status);
        assert_eq!(
            (
                &report["task_exec_id"],
                &report["attempt"],
                &report["worker"]
            ),
            (&json!("te"), &json!(1), &json!("w1"))
        );
        assert_eq!(report["started_at"], started["at"]);
    }
    let outputs = json!({"got": {"id": "te"}, "by": "count/te"});
    assert_eq!(succeeded["outputs"], outputs);
    pool.until_queued(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_needs_few_rights_and_no_part_of_the_operators_account() {
    let pool = Pool::without_queue(RIGHTS).await;
    pool.create_queue().await;
    let password = path(&pool.server, "password");
    std::fs::write(&password, "worker").unwrap();
    let file = password.to_str().unwrap();
    let (began, go, script) = pool.waiting();
    let flags = ["--slots", "1", "--nats-inbox-prefix", "_INBOX_w1"];
    let user = ["--nats-user-file", file, "--nats-password-file", file];
    let _worker = pool.worker(&[flags, user].concat(), &script);
    pool.order("cancelled", json!({})).await;
    written(&began, 1).await;
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    pool.control("cancelled", 1, Order::Cancel).await;
    assert_eq!(pool.news(2).await, ["STARTED", "STOPPED"]);
    pool.until_queued(0).await;
    pool.order("refused", json!({"pool": "other"})).await;
    pool.until_queued(0).await;
    std::fs::write(&go, "").unwrap();
    pool.order("te", json!({})).await;
    assert_eq!(pool.report(4).await["status"], "SUCCEEDED");
    pool.until_queued(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_handler_runs_before_the_start_is_stored() {
    let pool = Pool::new().await;
    pool.js.delete_stream("COMPOZY_REPORTS").await.unwrap();
    let (began, go, script) = pool.waiting();
    let _worker = pool.worker(&[], &script);
    pool.order("te", json!({})).await;
    pool.until_delivered().await;
    a_moment().await;
    assert!(!began.exists());
    pool.create_stream("COMPOZY_REPORTS", pool.subjects.reports())
        .await;
    written(&began, 1).await;
    assert_eq!(pool.news(1).await, ["STARTED"]);
    std::fs::write(&go, "").unwrap();
    assert_eq!(pool.news(2).await, ["STARTED", "SUCCEEDED"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_start_is_known_already_is_not_run_again() {
    let pool = Pool::new().await;
    let (began, _go, script) = pool.waiting();
    pool.order("te", json!({})).await;
    let mut first = pool.worker(&[], &script);
    written(&began, 1).await;
    first.signal("-KILL");
    first.wait();
    // As if NATS had forgotten that it was delivered.
    let stream = pool.stream("COMPOZY_POOLS").await;
    stream.purge().await.unwrap();
    let _second = pool.worker(&[], &script);
    pool.order("te", json!({})).await;
    pool.until_delivered().await;
    a_moment().await;
    assert_eq!(std::fs::read_to_string(&began).unwrap().lines().count(), 1);
    assert_eq!(pool.reports().await, 1);
    // Whoever runs it says so, and if nobody does, it counts as lost after a while.
    pool.until_queued(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_attempt_is_ended_and_reported_as_stopped() {
    let pool = Pool::new().await;
    let (began, _go, script) = pool.waiting();
    let _worker = pool.worker(&[], &script);
    pool.order("te", json!({})).await;
    written(&began, 1).await;
    pool.control("other", 1, Order::Cancel).await;
    pool.control("te", 2, Order::Cancel).await;
    a_moment().await;
    assert_eq!(pool.reports().await, 1);
    pool.control("te", 1, Order::Cancel).await;
    assert_eq!(pool.news(2).await, ["STARTED", "STOPPED"]);
    ended(&began).await;
    pool.until_queued(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_its_any_more_a_worker_ends_in_silence() {
    let pool = Pool::new().await;
    let (began, _go, script) = pool.waiting();
    let _worker = pool.worker(&[], &script);
    pool.order("te", json!({})).await;
    written(&began, 1).await;
    pool.control("te", 1, Order::Stale).await;
    ended(&began).await;
    a_moment().await;
    assert_eq!((pool.reports().await, pool.queued().await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_handler_and_what_takes_too_long_are_failures() {
    let pool = Pool::new().await;
    let pids = path(&pool.server, "pids");
    let script = format!(
        r#"case $(cat) in
        *poor*) echo '{{"error": {{"message": "no money", "code": "POOR"}}}}'; exit 1 ;;
        *list*) echo '[]' ;;
        *large*) head -c 300000 /dev/zero ;;
        *) echo $$ > {}; exec sleep 1000 ;;
        esac"#,
        pids.display()
    );
    let _worker = pool.worker(&["--slots", "1"], &script);
    let timeout = json!({"timeout_ms": 1500});
    for (nth, (id, changes, code, part)) in [
        ("poor", json!({}), "POOR", "no money"),
        ("list", json!({}), "INVALID_OUTPUTS", "not a JSON object"),
        ("large", json!({}), "OUTPUTS_TOO_LARGE", "256 KiB"),
        ("stuck", timeout, "TIMEOUT", "its timeout of 1s500ms"),
    ]
    .into_iter()
    .enumerate()
    {
        pool.order(id, changes).await;
        let report = pool.report(2 * (nth as u64 + 1)).await;
        assert_eq!(report["status"], "FAILED", "{id}");
        assert_eq!(report["error"]["code"], code, "{id}");
        let message = report["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
        pool.until_queued(0).await;
    }
    ended(&pids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_no_more_tasks_than_it_has_slots() {
    let pool = Pool::new().await;
    let (began, go, script) = pool.waiting();
    for id in ["a", "b", "c", "d", "e"] {
        pool.order(id, json!({})).await;
    }
    let _worker = pool.worker(&["--slots", "2"], &script);
    written(&began, 2).await;
    a_moment().await;
    assert_eq!((pool.delivered().await, pool.queued().await), (2, 5));
    std::fs::write(&go, "").unwrap();
    pool.report(10).await;
    pool.until_queued(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_end_a_worker_finishes_what_it_has_and_what_it_has_asked_for() {
    let pool = Pool::new().await;
    let (began, go, script) = pool.waiting();
    let mut worker = pool.worker(&["--slots", "2"], &script);
    pool.order("a", json!({})).await;
    written(&began, 1).await;
    // The other slot has asked, and the server cannot be told otherwise.
    a_moment().await;
    worker.terminate();
    pool.order("b", json!({})).await;
    written(&began, 2).await;
    pool.order("c", json!({})).await;
    std::fs::write(&go, "").unwrap();
    assert_eq!(worker.wait(), Some(0));
    assert_eq!((pool.reports().await, pool.queued().await), (4, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_within_the_grace_is_killed_and_handed_back() {
    let pool = Pool::new().await;
    let (began, _go, script) = pool.waiting();
    let mut worker = pool.worker(&["--slots", "1", "--grace", "200ms"], &script);
    pool.order("te", json!({})).await;
    written(&began, 1).await;
    worker.terminate();
    assert_eq!(worker.wait(), Some(1));
    ended(&began).await;
    assert_eq!(pool.news(2).await, ["STARTED", "HANDED_BACK"]);
    pool.until_queued(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_for_too_long_stops_and_says_nothing() {
    let pool = Pool::new().await;
    let (began, _go, script) = pool.waiting();
    let mut worker = pool.worker(&["--slots", "1"], &script);
    pool.order("te", json!({})).await;
    written(&began, 1).await;
    worker.signal("-STOP");
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    worker.signal("-CONT");
    ended(&began).await;
    worker.terminate();
    assert_eq!(worker.wait(), Some(0));
    assert_eq!((pool.reports().await, pool.queued().await), (1, 1));
    assert_eq!(pool.delivered().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_held_for_longer_than_the_lease_and_while_nats_is_away() {
    let mut pool = Pool::new().await;
    let (began, go, script) = pool.waiting();
    let _worker = pool.worker(&["--slots", "1"], &script);
    pool.order("te", json!({})).await;
    written(&began, 1).await;
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    assert_eq!(pool.delivered().await, 1);
    pool.server.stop();
    tokio::time::sleep(Duration::from_secs(3)).await;
    pool.server.run();
    assert_eq!(pool.news(1).await, ["STARTED"]);
    // It ends while NATS is away.
    pool.server.stop();
    std::fs::write(&go, "").unwrap();
    ended(&began).await;
    pool.server.run();
    assert_eq!(pool.news(2).await, ["STARTED", "SUCCEEDED"]);
    pool.until_queued(0).await;
    // And others are taken.
    pool.order("next", json!({})).await;
    pool.report(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_of_the_pool_is_refused() {
    let pool = Pool::new().await;
    let runs = path(&pool.server, "runs");
    let script = format!("echo >> {}", runs.display());
    let _worker = pool.worker(&["--slots", "1"], &script);
    for changes in [
        json!({"pool": "other"}),
        json!({"namespace": "bank"}),
        json!({"attempt": "first"}),
    ] {
        pool.order("te", changes).await;
        pool.until_queued(0).await;
    }
    pool.order("te", json!({})).await;
    pool.report(2).await;
    assert_eq!(std::fs::read_to_string(&runs).unwrap().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_ready_while_its_pool_has_a_queue() {
    let pool = Pool::without_queue("").await;
    let address = free_port();
    let port = address.port().to_string();
    let worker = pool.worker(&["--ready-port", &port], "true");
    a_moment().await;
    until_open(address, false).await;
    pool.create_queue().await;
    until_open(address, true).await;
    pool.order("te", json!({})).await;
    pool.report(2).await;
    worker.terminate();
    until_open(address, false).await;
}
