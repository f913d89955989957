//! Queues of pools and what their workers report, as the operator sees them, on a real server.

use std::time::Duration;

use async_nats::{Client, Message};
use bytes::Bytes;
use compozy::ports::{
    Bus, Found, NatsBus, NatsPools, Place, PoolNews, Pools, PublishError, Receipt, Withdrawn,
};
use compozy::protocol::pool::{LEASE, Order, PoolSubjects, TaskNews, TaskReport};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::json;

use crate::calls::arrived;
use crate::server::NatsServer;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

type News = BoxStream<'static, PoolNews>;

async fn ready() -> (NatsServer, NatsBus, NatsPools, News) {
    let server = NatsServer::start("");
    let bus = server.bus(server.options()).await;
    bus.ensure_streams().await.unwrap();
    let pools = bus.pools();
    let news = pools.open().await.unwrap();
    (server, bus, pools, news)
}

fn at(task_exec_id: &str, attempt: u32) -> Place {
    Place {
        namespace: "shop".to_owned(),
        pool: "text".to_owned(),
        task_exec_id: task_exec_id.to_owned(),
        attempt,
    }
}

async fn enqueue(pools: &NatsPools, at: &Place) -> Result<u64, PublishError> {
    let id = format!("{}:{}", at.task_exec_id, at.attempt);
    pools.enqueue(at, &id, Bytes::from_static(b"{}")).await
}

async fn heard(news: &mut News) -> PoolNews {
    let next = tokio::time::timeout(PATIENCE, news.next()).await;
    next.unwrap().unwrap()
}

async fn heard_report(news: &mut News) -> (TaskReport, Receipt) {
    match heard(news).await {
        PoolNews::Report(from, report, receipt) => {
            assert_eq!(from, at(&report.task_exec_id, report.attempt));
            (report, receipt)
        }
        lost => panic!("{lost:?}"),
    }
}

/// Takes the next command of the pool, as a worker does: what comes has the command's subject, not the inbox's.
async fn pull(client: &Client) -> Message {
    let consumer = PoolSubjects::consumer("shop", "text");
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.COMPOZY_POOLS.{consumer}");
    let inbox = client.new_inbox();
    let mut pulled = client.subscribe(inbox.clone()).await.unwrap();
    let asked = client.publish_with_reply(subject, inbox, "1".into());
    asked.await.unwrap();
    let message = tokio::time::timeout(PATIENCE, pulled.next()).await;
    let message = message.unwrap().unwrap();
    assert_eq!(message.status, None, "{message:?}");
    message
}

fn report(at: &Place, news: TaskNews) -> TaskReport {
    TaskReport {
        task_exec_id: at.task_exec_id.clone(),
        attempt: at.attempt,
        worker: "w1".to_owned(),
        at: serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap(),
        started_at: None,
        news,
    }
}

async fn say(client: &Client, at: &Place, news: TaskNews) {
    let subject = PoolSubjects::new("compozy").report(&at.namespace, &at.pool, &at.task_exec_id);
    let payload = serde_json::to_vec(&report(at, news)).unwrap();
    let kept = client.request(subject, payload.into()).await.unwrap();
    assert!(
        kept.payload.starts_with(b"{\"stream\":\"COMPOZY_REPORTS\""),
        "{kept:?}"
    );
}

async fn acknowledge(client: &Client, command: &Message) {
    let reply = command.reply.clone().unwrap();
    client.publish(reply, "+ACK".into()).await.unwrap();
}

#[tokio::test]
async fn a_command_goes_to_one_worker_and_its_reports_come_back_in_order() {
    let (server, _bus, pools, mut news) = ready().await;
    let worker = server.client().await;
    let one = at("one", 1);
    let sequence = enqueue(&pools, &one).await.unwrap();
    assert_eq!(pools.find(&one).await, Ok(Found::Queued(sequence)));
    let command = pull(&worker).await;
    say(&worker, &one, TaskNews::Started).await;
    let outputs = json!({"n": 55});
    say(
        &worker,
        &one,
        TaskNews::Succeeded {
            outputs: outputs.clone(),
        },
    )
    .await;
    let (first, _) = heard_report(&mut news).await;
    assert_eq!(first, report(&one, TaskNews::Started));
    let (second, receipt) = heard_report(&mut news).await;
    assert_eq!(second, report(&one, TaskNews::Succeeded { outputs }));
    // Still there, for its worker has not let it go.
    assert_eq!(pools.find(&one).await, Ok(Found::Queued(sequence)));
    acknowledge(&worker, &command).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    while pools.find(&one).await != Ok(Found::Reported(second.clone())) {
        assert!(tokio::time::Instant::now() < end);
    }
    pools.acknowledge(&receipt).await.unwrap();
    assert_eq!(pools.find(&at("one", 2)).await, Ok(Found::Nothing));
}

#[tokio::test]
async fn an_attempt_is_in_the_queue_once() {
    let (_server, _bus, pools, _news) = ready().await;
    let one = at("one", 1);
    let sequence = enqueue(&pools, &one).await.unwrap();
    assert!(matches!(
        pools.enqueue(&one, "another id", Bytes::new()).await,
        Err(PublishError::WrongLastSequence)
    ));
    // The same message again is the same one, if the server looks at that first.
    let again = enqueue(&pools, &one).await;
    assert!(
        again == Ok(sequence) || again == Err(PublishError::WrongLastSequence),
        "{again:?}"
    );
}

#[tokio::test]
async fn what_was_not_acknowledged_is_heard_again_by_who_begins_anew_and_the_rest_is_not() {
    let (server, bus, pools, mut news) = ready().await;
    let worker = server.client().await;
    let (one, two) = (at("one", 1), at("two", 1));
    say(&worker, &one, TaskNews::Stopped).await;
    say(&worker, &two, TaskNews::Stopped).await;
    let (_, receipt) = heard_report(&mut news).await;
    pools.acknowledge(&receipt).await.unwrap();
    heard_report(&mut news).await;
    let mut next = bus.pools().open().await.unwrap();
    let (again, _) = heard_report(&mut next).await;
    assert_eq!(again.task_exec_id, "two");
}

#[tokio::test]
async fn a_command_that_no_worker_has_can_be_taken_back() {
    let (server, _bus, pools, _news) = ready().await;
    let worker = server.client().await;
    let (one, two) = (at("one", 1), at("two", 1));
    let first = enqueue(&pools, &one).await.unwrap();
    let second = enqueue(&pools, &two).await.unwrap();
    let command = pull(&worker).await;
    assert_eq!(
        pools.withdraw(&one, first).await,
        Ok(Withdrawn::No),
        "its worker has it"
    );
    assert_eq!(pools.withdraw(&two, second).await, Ok(Withdrawn::Yes));
    assert_eq!(pools.find(&two).await, Ok(Found::Nothing));
    assert_eq!(pools.find(&one).await, Ok(Found::Queued(first)));
    acknowledge(&worker, &command).await;
}

#[tokio::test]
async fn a_worker_that_is_asked_to_end_an_attempt_hears_which() {
    let (server, _bus, pools, _news) = ready().await;
    let worker = server.client().await;
    let controls = PoolSubjects::new("compozy").controls("shop", "text");
    let mut controls = worker.subscribe(controls).await.unwrap();
    arrived(&worker).await;
    pools.order(&at("one", 2), Order::Cancel).await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, controls.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard.subject.as_str(), "compozy.control.shop.text.one");
    assert_eq!(heard.payload, r#"{"attempt":2,"order":"CANCEL"}"#);
}

/// Nobody pulls any more when the lease runs out.
#[tokio::test]
async fn a_worker_that_lets_its_lease_run_out_is_told_of() {
    let (server, bus, pools, mut news) = ready().await;
    let worker = server.client().await;
    let one = at("one", 1);
    enqueue(&pools, &one).await.unwrap();
    pull(&worker).await;
    let began = tokio::time::Instant::now();
    let lost = heard(&mut news).await;
    assert!(began.elapsed() < LEASE * 2, "{:?}", began.elapsed());
    assert!(
        matches!(&lost, PoolNews::Lost(place, _) if *place == one),
        "{lost:?}"
    );
    // Who was not there when it was told hears it all the same.
    let mut next = bus.pools().open().await.unwrap();
    let PoolNews::Lost(_, receipt) = heard(&mut next).await else {
        panic!("it is told again");
    };
    pools.remove(&one).await.unwrap();
    assert_eq!(pools.find(&one).await, Ok(Found::Nothing));
    pools.acknowledge(&receipt).await.unwrap();
}

#[tokio::test]
async fn the_news_end_with_the_connection() {
    let (mut server, _bus, _pools, mut news) = ready().await;
    server.crash();
    let end = tokio::time::timeout(PATIENCE, news.next()).await;
    assert_eq!(end, Ok(None));
}

#[tokio::test]
async fn where_there_is_room_for_little_events_have_it_before_pools() {
    let mut server = NatsServer::stopped("");
    server.set_room(Some(1 << 30));
    server.run();
    let bus = server.bus(server.options()).await;
    let opened = bus.pools().open().await;
    assert!(opened.is_err_and(|error| error.to_string().contains("insufficient storage")));
    bus.ensure_streams().await.unwrap();
}
