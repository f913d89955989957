//! What the workers of a pool may do on a server that asks the operator: all that their work takes, and nothing of
//! another pool's.

use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use compozy::engine::rights::inbox_prefix;
use compozy::protocol::pool::{Control, PoolSubjects, TaskExecute, TaskReport};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::callout::{PATIENCE, asked, caller};
use crate::server::NatsServer;

/// Long enough for whatever the server lets through.
const A_WHILE: Duration = Duration::from_millis(300);

/// Shorter than in earnest, so that a lost delivery is soon known.
const LEASE: Duration = Duration::from_secs(2);

/// The operator's side: the streams of commands and of reports, and consumers of two pools.
struct Operator {
    client: Client,
    subjects: PoolSubjects,
}

impl Operator {
    async fn ready(server: &NatsServer) -> Operator {
        let operator = Operator {
            client: caller(server).await,
            subjects: PoolSubjects::new("compozy"),
        };
        let stream = operator.subjects.stream();
        for (name, subject) in [
            (&*stream, operator.subjects.commands()),
            ("REPORTS", operator.subjects.reports()),
        ] {
            let config = json!({"name": name, "subjects": [subject], "retention": "workqueue", "storage": "memory"});
            operator.ask(&format!("STREAM.CREATE.{name}"), config).await;
        }
        for (namespace, pool) in [("shop", "text"), ("bank", "mail")] {
            let name = PoolSubjects::consumer(namespace, pool);
            let config = json!({
                "durable_name": name, "ack_policy": "explicit", "max_deliver": 1, "ack_wait": nanos(LEASE),
                "filter_subject": operator.subjects.queue(namespace, pool),
            });
            let wanted = json!({"stream_name": stream, "config": config});
            operator
                .ask(&format!("CONSUMER.DURABLE.CREATE.{stream}.{name}"), wanted)
                .await;
        }
        operator
    }

    async fn ask(&self, what: &str, question: Value) -> Value {
        let subject = format!("$JS.API.{what}");
        let answer = self.client.request(subject, question.to_string().into());
        let answer: Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
        assert_eq!(answer["error"], Value::Null, "{what}: {answer}");
        answer
    }

    /// Commands that nobody has, and deliveries that nobody has acknowledged.
    async fn left(&self, namespace: &str, pool: &str) -> (u64, u64) {
        let consumer = PoolSubjects::consumer(namespace, pool);
        let stream = self.subjects.stream();
        let info = self
            .ask(&format!("CONSUMER.INFO.{stream}.{consumer}"), json!({}))
            .await;
        let count = |name: &str| info[name].as_u64().unwrap();
        (count("num_pending"), count("num_ack_pending"))
    }

    /// Lets a worker of the pool run a task, as the operator does it.
    async fn execute(&self, namespace: &str, pool: &str, task: &str) {
        let command = serde_json::to_string(&execute(namespace, pool, task)).unwrap();
        self.send(namespace, pool, task, command).await;
    }

    /// The same, with the task's name for a command.
    async fn command(&self, namespace: &str, pool: &str, task: &str) {
        self.send(namespace, pool, task, task.to_owned()).await;
    }

    async fn send(&self, namespace: &str, pool: &str, task: &str, command: String) {
        let subject = self.subjects.command(namespace, pool, task, 1);
        let stored = self.client.request(subject, command.into());
        let stored = stored.await.unwrap();
        assert!(stored.payload.starts_with(b"{\"stream\""), "{stored:?}");
    }

    /// How many reports are stored.
    async fn reports(&self) -> u64 {
        let info = self.ask("STREAM.INFO.REPORTS", json!({})).await;
        info["state"]["messages"].as_u64().unwrap()
    }
}

fn execute(namespace: &str, pool: &str, task: &str) -> TaskExecute {
    // Whatever its author may choose is within the inputs.
    let inputs = json!({"order": "CANCEL", "status": "STARTED", "worker": "w", "at": "2026-01-01T00:00:00Z"});
    TaskExecute {
        task_exec_id: task.to_owned(),
        attempt: 1,
        inputs,
        handler: Some("upper".to_owned()),
        timeout_ms: None,
        task_id: task.to_owned(),
        workflow_id: "w".to_owned(),
        workflow_exec_id: "u".to_owned(),
        namespace: namespace.to_owned(),
        pool: pool.to_owned(),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

/// A worker's connection, and its inbox.
struct Worker {
    client: Client,
    inbox: String,
}

impl Worker {
    async fn of(server: &NatsServer, namespace: &str, pool: &str) -> Worker {
        let inbox = inbox_prefix(&format!("uid-of-{pool}"));
        let options = async_nats::ConnectOptions::with_token(format!("{namespace}/pool-{pool}"))
            .custom_inbox_prefix(inbox.clone());
        let client = options.connect(server.address()).await.unwrap();
        Worker { client, inbox }
    }

    async fn hear(&self, subject: &str) -> Subscriber {
        let heard = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.client.flush().await.unwrap();
        heard
    }

    /// Asks for one command at `subject`, to be delivered to `reply`.
    async fn pull(&self, subject: &str, reply: &str) {
        let question = json!({"batch": 1, "expires": nanos(Duration::from_secs(30))}).to_string();
        self.say(subject, Some(reply), &question).await;
    }

    /// Takes a command of its pool, and has it until it acknowledges. Where commands come, and that one.
    async fn takes(
        &self,
        operator: &Operator,
        (namespace, pool): (&str, &str),
        task: &str,
    ) -> (Subscriber, Message) {
        let inbox = format!("{}.1", self.inbox);
        let mut delivered = self.hear(&inbox).await;
        let pull = operator.subjects.pull(namespace, pool);
        self.pull(&pull, &inbox).await;
        operator.command(namespace, pool, task).await;
        let delivery = next(&mut delivered).await;
        (delivered, delivery)
    }

    async fn say(&self, subject: &str, reply: Option<&str>, payload: &str) {
        let (subject, payload) = (subject.to_owned(), payload.to_owned().into());
        let said = match reply {
            Some(reply) => {
                let reply = reply.to_owned();
                self.client
                    .publish_with_reply(subject, reply, payload)
                    .await
            }
            None => self.client.publish(subject, payload).await,
        };
        said.unwrap();
        self.client.flush().await.unwrap();
    }
}

async fn next(from: &mut Subscriber) -> Message {
    let next = tokio::time::timeout(PATIENCE, from.next()).await;
    next.unwrap().unwrap()
}

async fn nothing(from: &mut Subscriber) {
    let heard = tokio::time::timeout(A_WHILE, from.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test]
async fn a_worker_pulls_touches_reports_hears_and_acknowledges() {
    let (server, _answers) = asked().await;
    let operator = Operator::ready(&server).await;
    let worker = Worker::of(&server, "shop", "text").await;
    let subjects = &operator.subjects;
    let mut orders = worker.hear(&subjects.controls("shop", "text")).await;
    let (_, delivery) = worker.takes(&operator, ("shop", "text"), "te").await;
    assert_eq!(delivery.payload, "te");
    let ack = delivery.reply.unwrap().to_string();
    let of_ours = subjects.acks("shop", "text").replace('>', "");
    assert!(ack.starts_with(&of_ours), "{ack}");
    let command = subjects.command("shop", "text", "te", 1);
    assert_eq!(delivery.subject.as_str(), command);

    // For longer than the lease: what is touched stays its.
    for _ in 0..3 {
        tokio::time::sleep(LEASE / 2).await;
        let touched = worker.client.request(ack.clone(), "+WPI".into()).await;
        assert!(touched.unwrap().payload.is_empty());
    }
    let pending = async || operator.left("shop", "text").await;
    assert_eq!(pending().await, (0, 1));
    let report = subjects.report("shop", "text", "te");
    let kept = worker
        .client
        .request(report, "report".into())
        .await
        .unwrap();
    assert!(
        kept.payload.starts_with(b"{\"stream\":\"REPORTS\""),
        "{kept:?}"
    );
    let order = subjects.control("shop", "text", "te");
    operator
        .client
        .publish(order, "order".into())
        .await
        .unwrap();
    assert_eq!(next(&mut orders).await.payload, "order");
    // The server says that it has it, and keeps the command no longer.
    let acknowledged = worker.client.request(ack, "+ACK".into()).await.unwrap();
    assert!(acknowledged.payload.is_empty());
    assert_eq!(pending().await, (0, 0));
}

#[tokio::test]
async fn a_worker_reaches_nothing_of_another_pool() {
    let (server, _answers) = asked().await;
    let operator = Operator::ready(&server).await;
    let (ours, theirs) = (
        Worker::of(&server, "shop", "text").await,
        Worker::of(&server, "bank", "mail").await,
    );
    let subjects = &operator.subjects;
    let mut ordered = theirs.hear(&subjects.controls("bank", "mail")).await;
    let (mut delivered, delivery) = theirs.takes(&operator, ("bank", "mail"), "theirs").await;
    let ack = delivery.reply.unwrap().to_string();

    // Each is refused by the server: their orders, their inbox, all orders, all.
    let mut heard = Vec::new();
    for subject in [
        &*subjects.controls("bank", "mail"),
        &format!("{}.>", theirs.inbox),
        "compozy.>",
        ">",
    ] {
        heard.push(ours.hear(subject).await);
    }
    let mut own = ours.hear(&format!("{}.>", ours.inbox)).await;
    operator.command("bank", "mail", "next").await;
    let reply = format!("{}.1", ours.inbox);
    ours.pull(&subjects.pull("bank", "mail"), &reply).await;
    for verdict in ["+ACK", "+TERM", "-NAK", "+NXT", ""] {
        ours.say(&ack, None, verdict).await;
    }
    let report = subjects.report("bank", "mail", "theirs");
    ours.say(&report, None, "forged").await;
    let order = subjects.control("bank", "mail", "theirs");
    ours.say(&order, None, "forged").await;
    let command = subjects.command("bank", "mail", "forged", 1);
    ours.say(&command, None, "forged").await;
    ours.say("compozy.events.task.instance.u.completed", None, "forged")
        .await;
    ours.say("$JS.API.STREAM.PURGE.COMPOZY_POOLS", None, "{}")
        .await;
    operator
        .client
        .publish(order, "order".into())
        .await
        .unwrap();
    assert_eq!(next(&mut ordered).await.payload, "order");
    nothing(&mut own).await;
    nothing(&mut delivered).await;
    for heard in &mut heard {
        nothing(heard).await;
    }
    assert_eq!(operator.left("bank", "mail").await, (1, 1));
    assert_eq!(operator.reports().await, 0);
}

/// A reply subject is checked against no permission, so JetStream says to others what it should say to who asked. But
/// none of it acknowledges, and none can be read as an order or as a report.
#[tokio::test]
async fn what_is_said_to_a_worker_is_of_no_use_elsewhere() {
    let (server, _answers) = asked().await;
    let operator = Operator::ready(&server).await;
    let (ours, theirs) = (
        Worker::of(&server, "shop", "text").await,
        Worker::of(&server, "bank", "mail").await,
    );
    let subjects = &operator.subjects;
    let (_delivered, delivery) = theirs.takes(&operator, ("bank", "mail"), "theirs").await;
    let ack = delivery.reply.unwrap().to_string();

    // That there is no command would be said without content, which acknowledges.
    let question = json!({"batch": 1, "no_wait": true}).to_string();
    let pull = subjects.pull("shop", "text");
    ours.say(&pull, Some(&ack), &question).await;

    let mut orders = theirs.hear(&subjects.controls("bank", "mail")).await;
    let order = subjects.control("bank", "mail", "theirs");
    let report = subjects.report("shop", "text", "te");
    ours.say(&report, Some(&order), "report").await;
    let kept = next(&mut orders).await.payload;
    operator.execute("shop", "text", "te").await;
    ours.pull(&pull, &order).await;
    let command = next(&mut orders).await.payload;
    for said in [kept, command] {
        let order = serde_json::from_slice::<Control>(&said);
        assert!(order.is_err(), "{order:?}");
        let report = serde_json::from_slice::<TaskReport>(&said);
        assert!(report.is_err(), "{report:?}");
    }
    let report = subjects.report("bank", "mail", "theirs");
    operator.command("shop", "text", "another").await;
    ours.pull(&pull, &report).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(operator.reports().await, 1, "its own");
    assert_eq!(operator.left("bank", "mail").await, (0, 1));
}
