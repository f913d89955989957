//! What JetStream is asked for to feed pools: streams, consumers, and how its messages are read. No I/O.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    jetstream::{config, nanos, stream_name},
    pools::{Delivered, Place},
};
use crate::protocol::pool::{LEASE, PoolSubjects, TaskReport};

/// What may wait in all queues together; then tasks wait to be sent.
const QUEUE_BYTES: u64 = 512 << 20;
const REPORTS_BYTES: u64 = 256 << 20;
const ADVISORIES_BYTES: u64 = 32 << 20;
/// An id is remembered so long: what an operator sent that was frozen past its lease comes no later.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// The operator acknowledges when it has recorded, or begins anew with a new consumer.
const RECORDED_WITHIN: Duration = Duration::from_secs(3600);
/// So many reports may wait to be recorded; fewer than a subscription holds (`WAITING_MESSAGES`).
const UNRECORDED: u32 = 512;

/// So many slots of a pool's workers may ask for a command at once; others ask again a second later.
const MOST_SLOTS: u32 = 16_384;

/// The name of the consumers of the operator.
pub(super) const OPERATOR: &str = "operator";

/// The name of the stream of reports under a subject prefix.
pub(super) fn reports_name(prefix: &str) -> String {
    stream_name(prefix, "REPORTS")
}

/// The name of the stream of the server's words about lost deliveries, under a subject prefix.
pub(super) fn advisories_name(prefix: &str) -> String {
    stream_name(prefix, "ADVISORIES")
}

/// The stream of commands. Nothing in it makes place for what comes: an attempt would be lost unseen.
pub(super) fn queue_config(prefix: &str, replicas: usize) -> Map<String, Value> {
    let subjects = PoolSubjects::new(prefix);
    work_queue(
        subjects.stream(),
        subjects.commands(),
        QUEUE_BYTES,
        replicas,
    )
}

/// The stream of reports.
pub(super) fn reports_config(prefix: &str, replicas: usize) -> Map<String, Value> {
    let subject = PoolSubjects::new(prefix).reports();
    work_queue(reports_name(prefix), subject, REPORTS_BYTES, replicas)
}

/// The stream of what the server says when a delivery was lost: it says so once.
pub(super) fn advisories_config(prefix: &str, replicas: usize) -> Map<String, Value> {
    let queue = PoolSubjects::new(prefix).stream();
    let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{queue}.*");
    work_queue(advisories_name(prefix), subject, ADVISORIES_BYTES, replicas)
}

fn work_queue(
    name: String,
    subject: String,
    max_bytes: u64,
    replicas: usize,
) -> Map<String, Value> {
    config([
        ("name", json!(name)),
        ("subjects", json!([subject])),
        ("retention", json!("workqueue")),
        ("discard", json!("new")),
        ("storage", json!("file")),
        ("num_replicas", json!(replicas)),
        ("max_bytes", json!(max_bytes)),
        ("duplicate_window", json!(nanos(DUPLICATE_WINDOW))),
    ])
}

/// The consumer that a pool's workers pull from: each command goes out once.
pub(super) fn pool_consumer(prefix: &str, namespace: &str, pool: &str) -> Map<String, Value> {
    let queue = PoolSubjects::new(prefix).queue(namespace, pool);
    config([
        (
            "durable_name",
            json!(PoolSubjects::consumer(namespace, pool)),
        ),
        ("filter_subject", json!(queue)),
        ("deliver_policy", json!("all")),
        ("ack_policy", json!("explicit")),
        ("ack_wait", json!(nanos(LEASE))),
        ("max_deliver", json!(1)),
        ("max_ack_pending", json!(-1)),
        ("max_waiting", json!(MOST_SLOTS)),
    ])
}

/// The consumer by which the server sends the operator all of a stream, to `inbox`.
pub(super) fn operator_consumer(inbox: &str) -> Map<String, Value> {
    config([
        ("durable_name", json!(OPERATOR)),
        ("deliver_subject", json!(inbox)),
        ("deliver_policy", json!("all")),
        ("ack_policy", json!("explicit")),
        ("ack_wait", json!(nanos(RECORDED_WITHIN))),
        ("max_ack_pending", json!(UNRECORDED)),
    ])
}

/// What the server says when a message was delivered as often as it may be, in vain.
#[derive(Debug, Deserialize)]
pub(super) struct Advisory {
    /// The message's place in the queue.
    pub stream_seq: u64,
}

/// How far a consumer is.
#[derive(Debug, Deserialize)]
pub(super) struct ConsumerInfo {
    pub delivered: Delivered,
}

/// The attempt whose command has this subject.
pub(super) fn place(prefix: &str, subject: &str) -> Option<Place> {
    let all = PoolSubjects::new(prefix).commands();
    let rest = subject.strip_prefix(all.strip_suffix('>')?)?;
    let mut tokens = rest.split('.');
    let place = Place {
        namespace: tokens.next()?.to_owned(),
        pool: tokens.next()?.to_owned(),
        task_exec_id: tokens.next()?.to_owned(),
        attempt: tokens.next()?.parse().ok()?,
    };
    tokens.next().is_none().then_some(place)
}

/// The attempt that a report with this subject is about. Nobody may report for another pool: so the subject says of which
/// the worker is, and what it writes does not.
pub(super) fn reported_place(prefix: &str, subject: &str, report: &TaskReport) -> Option<Place> {
    let all = PoolSubjects::new(prefix).reports();
    let rest = subject.strip_prefix(all.strip_suffix('>')?)?;
    let tokens: Vec<_> = rest.split('.').collect();
    let [namespace, "pool", pool, task_exec_id] = tokens[..] else {
        return None;
    };
    let place = Place {
        namespace: namespace.to_owned(),
        pool: pool.to_owned(),
        task_exec_id: task_exec_id.to_owned(),
        attempt: report.attempt,
    };
    (report.task_exec_id == task_exec_id).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_says_whose_attempt_it_is() {
        let at = Place {
            namespace: "shop".to_owned(),
            pool: "text".to_owned(),
            task_exec_id: "te-uid".to_owned(),
            attempt: 3,
        };
        let subject = PoolSubjects::new("a.b").command("shop", "text", "te-uid", 3);
        assert_eq!(place("a.b", &subject), Some(at));
        for other in [
            "a.b.commands.pool.shop.text.te-uid",
            "a.b.commands.pool.shop.text.te-uid.x",
            "a.b.commands.pool.shop.text.te-uid.3.4",
            "a.commands.pool.shop.text.te-uid.3",
        ] {
            assert_eq!(place("a.b", other), None, "{other}");
        }
    }

    #[test]
    fn a_command_is_delivered_once() {
        let consumer = pool_consumer("compozy", "shop", "text");
        assert_eq!(consumer["max_deliver"], 1);
        assert_eq!(
            consumer["filter_subject"],
            "compozy.commands.pool.shop.text.>"
        );
        let queue = queue_config("compozy", 1);
        assert_eq!(queue["name"], "COMPOZY_POOLS");
        assert_eq!(
            queue["discard"], "new",
            "no command makes place for another"
        );
    }
}
