//! Calls of tools as their caller sees them, on a real server.

use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use compozy::ports::{Bus, BusError, CallNews, Calls, NatsBus, NatsCalls};
use compozy::protocol::tool::ToolSubjects;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::server::NatsServer;

const REPLY: &str = "compozy.results.tool.shop.te-uid.call";
const CALL: &str = "compozy.commands.tool.shop_order.execute.shop_charge";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn ready() -> (NatsServer, NatsBus, NatsCalls) {
    let server = NatsServer::start("");
    let bus = server.bus(server.options()).await;
    bus.ensure_streams().await.unwrap();
    let calls = bus.calls();
    (server, bus, calls)
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn heard(news: &mut BoxStream<'static, CallNews>) -> CallNews {
    let next = tokio::time::timeout(PATIENCE, news.next()).await;
    next.unwrap().unwrap()
}

/// Waits until the server has all that the client sent before.
pub async fn arrived(client: &async_nats::Client) {
    let _ = client.request("nobody.is.there", Bytes::new()).await;
}

/// A tool that says `answers` to each call.
async fn tool(server: &NatsServer, answers: &'static [&'static str]) {
    let client = server.client().await;
    let subject = ToolSubjects::new("compozy").serve("shop", "charge");
    let mut calls = client
        .queue_subscribe(subject, "charge".to_owned())
        .await
        .unwrap();
    arrived(&client).await;
    tokio::spawn(async move {
        while let Some(call) = calls.next().await {
            for answer in answers {
                let reply = call.reply.clone().unwrap();
                client.publish(reply, text(answer)).await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn a_call_hears_its_answers_in_order_and_they_are_kept() {
    let (server, _bus, calls) = ready().await;
    tool(&server, &["STARTED", "SUCCESS"]).await;
    let mut news = calls.listen(REPLY).await.unwrap();
    calls.send(CALL, REPLY, text("{}")).await.unwrap();
    assert_eq!(heard(&mut news).await, CallNews::Message(text("STARTED")));
    assert_eq!(heard(&mut news).await, CallNews::Message(text("SUCCESS")));
    let kept = vec![text("STARTED"), text("SUCCESS")];
    let end = tokio::time::Instant::now() + PATIENCE;
    while calls.stored(REPLY).await.unwrap() != kept {
        assert!(tokio::time::Instant::now() < end);
    }
    // Another call's are not among them.
    let other = "compozy.results.tool.shop.te-uid.other";
    assert_eq!(calls.stored(other).await, Ok(vec![]));
}

#[tokio::test]
async fn a_tool_that_nobody_serves_is_said_at_once() {
    let (_server, _bus, calls) = ready().await;
    let mut news = calls.listen(REPLY).await.unwrap();
    calls.send(CALL, REPLY, text("{}")).await.unwrap();
    assert_eq!(heard(&mut news).await, CallNews::NoResponders);
    // That is not an answer, and not kept as one.
    assert_eq!(calls.stored(REPLY).await, Ok(vec![]));
}

#[tokio::test]
async fn an_answer_that_nobody_heard_is_found() {
    let (server, _bus, calls) = ready().await;
    let tool = server.client().await;
    tool.publish(REPLY, text("SUCCESS")).await.unwrap();
    arrived(&tool).await;
    // Whoever listens first and asks then misses nothing.
    let mut news = calls.listen(REPLY).await.unwrap();
    let end = tokio::time::Instant::now() + PATIENCE;
    while calls.stored(REPLY).await.unwrap() != [text("SUCCESS")] {
        assert!(tokio::time::Instant::now() < end);
    }
    tool.publish(REPLY, text("again")).await.unwrap();
    assert_eq!(heard(&mut news).await, CallNews::Message(text("again")));
}

#[tokio::test]
async fn a_restart_of_the_server_is_told_and_survived_with_what_is_kept() {
    let (mut server, bus, calls) = ready().await;
    let mut news = calls.listen(REPLY).await.unwrap();
    assert_eq!(calls.stored(REPLY).await, Ok(vec![]));
    let context = jetstream::new(server.client().await);
    let kept = context.publish(REPLY, text("SUCCESS")).await.unwrap();
    kept.await.unwrap();
    assert_eq!(heard(&mut news).await, CallNews::Message(text("SUCCESS")));
    server.stop();
    while bus.connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(matches!(
        calls.send(CALL, REPLY, text("{}")).await,
        Err(BusError::Unavailable(_))
    ));
    assert!(calls.listen(REPLY).await.is_err());
    server.run();
    assert_eq!(heard(&mut news).await, CallNews::Reconnected);
    server.wait_connected(&bus).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    // JetStream is up a little later than the server.
    while calls.stored(REPLY).await != Ok(vec![text("SUCCESS")]) {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It still listens, and nothing that was refused went out meanwhile.
    calls.send(CALL, REPLY, text("{}")).await.unwrap();
    assert_eq!(heard(&mut news).await, CallNews::NoResponders);
}

#[tokio::test]
async fn a_call_that_is_too_large_is_refused_at_once() {
    let (_server, _bus, calls) = ready().await;
    let large = Bytes::from(vec![b' '; (1 << 20) + 1]);
    assert!(matches!(
        calls.send(CALL, REPLY, large).await,
        Err(BusError::TooLarge(_))
    ));
}

#[tokio::test]
async fn what_is_not_listened_to_any_more_costs_the_server_nothing() {
    let (server, _bus, calls) = ready().await;
    let client = server.client().await;
    let context = jetstream::new(client.clone());
    let mut config = context
        .get_stream("COMPOZY_RESULTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    // Without the stream's interest, who publishes is told that nobody listens.
    config.subjects = vec!["elsewhere".into()];
    context.update_stream(config).await.unwrap();
    let news = calls.listen(REPLY).await.unwrap();
    calls.send(CALL, REPLY, text("{}")).await.unwrap();
    drop(news);
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = tokio::time::timeout(
            Duration::from_millis(100),
            client.request(REPLY, Bytes::new()),
        );
        if let Ok(Err(error)) = answer.await {
            assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders);
            break;
        }
        assert!(tokio::time::Instant::now() < end);
    }
}

#[tokio::test]
async fn the_stream_of_answers_is_kept_as_wanted_unless_somebody_else_keeps_it() {
    let (server, bus, calls) = ready().await;
    let context = jetstream::new(server.client().await);
    let config = async || {
        let mut stream = context.get_stream("COMPOZY_RESULTS").await.unwrap();
        stream.info().await.unwrap().config.clone()
    };
    let created = config().await;
    assert_eq!(created.subjects, ["compozy.results.tool.>"]);
    assert_eq!(created.max_age, Duration::from_secs(3600));
    assert_eq!(created.max_messages_per_subject, 4);

    let mut other = created.clone();
    other.max_age = Duration::from_secs(600);
    other.description = Some("ours".into());
    context.update_stream(other).await.unwrap();
    let mut options = server.options();
    options.manage_streams = false;
    let guest = server.bus(options).await;
    guest.ensure_streams().await.unwrap();
    assert_eq!(config().await.max_age, Duration::from_secs(600));
    bus.ensure_streams().await.unwrap();
    let updated = config().await;
    assert_eq!(updated.max_age, created.max_age);
    assert_eq!(updated.description.as_deref(), Some("ours"));

    // Without it events go on, and nothing is stored.
    context.delete_stream("COMPOZY_RESULTS").await.unwrap();
    guest.ensure_streams().await.unwrap();
    assert_eq!(calls.stored(REPLY).await, Ok(vec![]));
}
