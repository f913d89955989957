//! The bus against a real NATS server: the conditions of appending, the stream, and what happens when the server is away.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use compozy::ports::{Bus, BusError, Credentials, Message, NatsBus, PublishError, StreamOptions};

use crate::server::NatsServer;

fn message(uid: &str, seq: u64) -> Message {
    Message {
        subject: format!("compozy.events.task.instance.{uid}.e{seq}"),
        filter: format!("compozy.events.task.instance.{uid}.*"),
        id: format!("{uid}:{seq}"),
        headers: vec![
            ("ce-id", format!("{uid}:{seq}")),
            ("ce-sequence", seq.to_string()),
        ],
        payload: Bytes::from_static(b"{}"),
    }
}

async fn ready() -> (NatsServer, NatsBus) {
    let server = NatsServer::start("");
    let bus = server.bus(server.options()).await;
    bus.ensure_streams().await.unwrap();
    (server, bus)
}

#[tokio::test]
async fn a_chain_takes_each_message_once_and_in_order() {
    let (_server, bus) = ready().await;
    assert_eq!(
        bus.last("compozy.events.task.instance.a.*").await.unwrap(),
        None
    );

    let first = bus.publish(&message("a", 1), 0).await.unwrap();
    assert!(!first.duplicate);
    // Another object's chain does not disturb this one.
    bus.publish(&message("b", 1), 0).await.unwrap();
    let second = bus.publish(&message("a", 2), first.sequence).await.unwrap();
    assert_eq!(second.sequence, first.sequence + 2);

    // A single server looks at the sequence first, then at the identity.
    let stale = bus.publish(&message("a", 2), first.sequence).await;
    assert_eq!(stale, Err(PublishError::WrongLastSequence));
    let again = bus
        .publish(&message("a", 2), second.sequence)
        .await
        .unwrap();
    assert_eq!((again.sequence, again.duplicate), (second.sequence, true));
    let skipping = bus.publish(&message("a", 4), 0).await;
    assert_eq!(skipping, Err(PublishError::WrongLastSequence));

    let last = bus
        .last("compozy.events.task.instance.a.*")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(last.stream_sequence, second.sequence);
    assert_eq!(last.id.as_deref(), Some("a:2"));
    assert_eq!(last.event_sequence, Some(2));
}

#[tokio::test]
async fn headers_and_body_arrive_as_they_are() {
    let (server, bus) = ready().await;
    let mut subscriber = server
        .client()
        .await
        .subscribe("compozy.events.>")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut sent = message("a", 1);
    sent.payload = Bytes::from_static("{\"text\":\"ünï\\u0000\"}".as_bytes());
    bus.publish(&sent, 0).await.unwrap();

    let received = futures::StreamExt::next(&mut subscriber).await.unwrap();
    let headers = received.headers.unwrap();
    assert_eq!(received.subject.as_str(), sent.subject);
    assert_eq!(received.payload, sent.payload);
    assert_eq!(headers.get("ce-id").unwrap().as_str(), "a:1");
    assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), "a:1");
    assert_eq!(headers.get("ce-sequence").unwrap().as_str(), "1");
}

#[tokio::test]
async fn the_stream_is_created_compared_and_updated_only_where_it_differs() {
    let (server, bus) = ready().await;
    let context = jetstream::new(server.client().await);
    let created = context
        .get_stream("COMPOZY_EVENTS")
        .await
        .unwrap()
        .cached_info()
        .clone();
    assert_eq!(created.config.subjects, ["compozy.events.>"]);
    assert_eq!(created.config.max_age, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(created.config.duplicate_window, Duration::from_secs(120));
    assert!(created.config.allow_direct);

    // Somebody adds what the operator has no opinion about: no reason to touch the stream.
    let mut config = created.config.clone();
    config.description = Some("ours".into());
    context.update_stream(config).await.unwrap();
    bus.publish(&message("a", 1), 0).await.unwrap();
    let identity = bus.ensure_streams().await.unwrap();
    assert_eq!(identity.last_sequence, 1);

    let mut options = server.options();
    options.stream = StreamOptions {
        max_bytes: 1 << 20,
        ..StreamOptions::default()
    };
    let smaller = server.bus(options).await;
    assert_eq!(smaller.ensure_streams().await.unwrap(), identity);
    let updated = context
        .get_stream("COMPOZY_EVENTS")
        .await
        .unwrap()
        .cached_info()
        .clone();
    assert_eq!(updated.config.max_bytes, 1 << 20);
    assert_eq!(updated.config.description.as_deref(), Some("ours"));

    context.delete_stream("COMPOZY_EVENTS").await.unwrap();
    let recreated = bus.ensure_streams().await.unwrap();
    assert_ne!(recreated.created, identity.created);
    assert_eq!(recreated.last_sequence, 0);
}

#[tokio::test]
async fn a_stream_that_cannot_be_changed_is_used_as_it_is() {
    let server = NatsServer::start("");
    let context = jetstream::new(server.client().await);
    let config = stream::Config {
        name: "COMPOZY_EVENTS".into(),
        subjects: vec!["compozy.events.>".into()],
        storage: stream::StorageType::Memory,
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let bus = server.bus(server.options()).await;
    assert_eq!(bus.ensure_streams().await.unwrap().last_sequence, 0);
    bus.publish(&message("a", 1), 0).await.unwrap();
}

#[tokio::test]
async fn a_missing_stream_is_told_apart() {
    let server = NatsServer::start("");
    let mut options = server.options();
    options.manage_streams = false;
    let bus = server.bus(options).await;
    let missing = BusError::StreamMissing("COMPOZY_EVENTS".into());
    assert_eq!(
        bus.publish(&message("a", 1), 0).await,
        Err(PublishError::StreamMissing)
    );
    assert_eq!(bus.ensure_streams().await, Err(missing.clone()));
    assert_eq!(bus.last("compozy.events.>").await, Err(missing));
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_at_once() {
    let server = NatsServer::start("max_payload: 10KB");
    let bus = server.bus(server.options()).await;
    bus.ensure_streams().await.unwrap();
    let mut large = message("a", 1);
    large.payload = Bytes::from(vec![b' '; 20_000]);
    assert!(matches!(
        bus.publish(&large, 0).await,
        Err(PublishError::TooLarge(_))
    ));
    // The headers count too.
    large.payload = Bytes::from(vec![b' '; 10 * 1024 - 20]);
    assert!(matches!(
        bus.publish(&large, 0).await,
        Err(PublishError::TooLarge(_))
    ));

    let context = jetstream::new(server.client().await);
    let mut config = context
        .get_stream("COMPOZY_EVENTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.max_message_size = 1000;
    context.update_stream(config).await.unwrap();
    large.payload = Bytes::from(vec![b' '; 2000]);
    assert!(matches!(
        bus.publish(&large, 0).await,
        Err(PublishError::TooLarge(_))
    ));
}

#[tokio::test]
async fn the_operator_starts_without_a_server_and_finds_it_later() {
    let mut server = NatsServer::stopped("");
    let bus = NatsBus::connect(server.options()).await.unwrap();
    assert!(!bus.connected());
    let started = Instant::now();
    let refused = bus.publish(&message("a", 1), 0).await;
    assert!(
        matches!(refused, Err(PublishError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(matches!(
        bus.ensure_streams().await,
        Err(BusError::Unavailable(_))
    ));
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );

    server.run();
    server.wait_connected(&bus).await;
    bus.ensure_streams().await.unwrap();
    // Nothing of what was refused went out behind our back.
    assert_eq!(bus.publish(&message("a", 1), 0).await.unwrap().sequence, 1);
}

#[tokio::test]
async fn a_restart_of_the_server_is_survived() {
    let (mut server, bus) = ready().await;
    let before = bus.ensure_streams().await.unwrap();
    let first = bus.publish(&message("a", 1), 0).await.unwrap();
    server.crash();
    while bus.connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(bus.publish(&message("a", 2), first.sequence).await.is_err());
    server.run();
    server.wait_connected(&bus).await;
    let after = bus.ensure_streams().await.unwrap();
    assert_eq!((after.created, after.last_sequence), (before.created, 1));
    bus.publish(&message("a", 2), first.sequence).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    let (server, bus) = ready().await;
    server.signal("-STOP");
    let unanswered = bus.publish(&message("a", 1), 0).await;
    server.signal("-CONT");
    assert_eq!(unanswered, Err(PublishError::Timeout));
}

#[tokio::test]
async fn a_call_ends_with_the_connection_that_it_was_made_on() {
    let (mut server, bus) = ready().await;
    server.signal("-STOP");
    let sent = message("a", 1);
    let crash = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.crash();
    };
    let (unanswered, ()) = tokio::join!(bus.publish(&sent, 0), crash);
    assert!(
        matches!(unanswered, Err(PublishError::Unavailable(_))),
        "{unanswered:?}"
    );
}

#[tokio::test]
async fn a_rotated_password_is_picked_up() {
    let server = NatsServer::start(
        r#"authorization { users: [ { user: operator, password: new, permissions: {
            publish: ["compozy.>", "$JS.API.>"], subscribe: "_INBOX_operator.>" } } ] }"#,
    );
    let (user, password) = (
        server.directory().join("user"),
        server.directory().join("password"),
    );
    std::fs::write(&user, "operator\n").unwrap();
    std::fs::write(&password, "old\n").unwrap();
    let mut options = server.options();
    options.connection.credentials = Some(Credentials::Password {
        user,
        password: password.clone(),
    });
    let bus = NatsBus::connect(options).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!bus.connected());

    std::fs::write(&password, "new\n").unwrap();
    server.wait_connected(&bus).await;
    bus.ensure_streams().await.unwrap();
    bus.publish(&message("a", 1), 0).await.unwrap();
}
