//! The model of the event stream on which the simulation and the library's tests stand, beside real servers: the same
//! random acts, the same answers. `BUS_SEED=7` plays one sequence alone.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use compozy::ports::memory::JetStream;
use compozy::ports::{Bus, BusError, Message, NatsBus, PublishError, StreamIdentity};
use jiff::Timestamp;

use crate::server::NatsServer;

const STREAM: &str = "COMPOZY_EVENTS";
/// Acts of one sequence on a single server. It takes about as long as three restarts of a server.
const ACTS: usize = 1000;
/// The same in a cluster, where each costs a round among three servers.
const ACTS_IN_A_CLUSTER: usize = 500;

#[derive(Debug, Clone)]
enum Act {
    Publish(Message, u64),
    Last(String),
    Ensure,
    /// Somebody deletes the stream.
    DeleteStream,
    /// Somebody deletes a message.
    Delete(u64),
    /// A limit takes the oldest messages.
    Retire(usize),
    /// From now until the next `Ensure` there is no room.
    Fill,
    /// The server ends and starts again.
    Restart,
    /// The same, and its disk does not have what it took since `Mark`.
    LoseEnd,
    /// The disk is as it will be after `LoseEnd`.
    Mark,
    /// It ends and starts again with an empty disk.
    LoseAll,
}

/// Draws acts that make sense in a state of the model.
struct Chance {
    dice: fastrand::Rng,
    /// How often the server may end yet.
    restarts: u32,
    /// So many messages are stored since the disk was marked.
    since_mark: Option<u32>,
    clustered: bool,
}

impl Chance {
    fn act(&mut self, model: &JetStream) -> Act {
        if let Some(left) = &mut self.since_mark {
            *left -= 1;
            if *left == 0 {
                self.since_mark = None;
                return Act::LoseEnd;
            }
            return self.publish(model);
        }
        let there = model.messages.len();
        match self.dice.u32(..1000) {
            0..5 if !self.clustered && self.restarts > 0 => {
                self.restarts -= 1;
                match self.dice.u32(..3) {
                    0 => Act::Restart,
                    1 => Act::LoseAll,
                    _ if model.full => Act::Restart,
                    _ => {
                        self.since_mark = Some(self.dice.u32(2..9));
                        Act::Mark
                    }
                }
            }
            5..10 if !self.clustered => Act::DeleteStream,
            10..30 if there > 0 && !model.full => {
                let any = self.dice.usize(..there);
                Act::Delete(model.messages[any].sequence)
            }
            30..45 if there > 1 && !model.full => Act::Retire(self.dice.usize(1..there.min(9))),
            45..55 if there > 0 => Act::Fill,
            55..150 => Act::Ensure,
            150..300 => Act::Last(chain(self.dice.u32(..6))),
            _ => self.publish(model),
        }
    }

    /// The next message of a chain, an earlier one, or a later one, behind the chain's end or anything else.
    fn publish(&mut self, model: &JetStream) -> Act {
        let object = self.dice.u32(..6);
        let filter = chain(object);
        let last = model.last(&filter).ok().flatten();
        let told = last.as_ref().and_then(|last| last.event_sequence);
        let seq = match self.dice.u32(..10) {
            0 | 1 => self.dice.u64(1..8),
            2 => told.unwrap_or(1),
            _ => told.unwrap_or(0) + 1,
        };
        let place = last.map_or(0, |last| last.stream_sequence);
        let expected = match self.dice.u32(..10) {
            0 => 0,
            1 => self.dice.u64(..place + 3),
            _ => place,
        };
        Act::Publish(message(object, seq), expected)
    }
}

fn chain(object: u32) -> String {
    format!("compozy.events.task.instance.u{object}.*")
}

fn message(object: u32, seq: u64) -> Message {
    Message {
        subject: format!("compozy.events.task.instance.u{object}.e{}", seq % 5),
        filter: chain(object),
        id: format!("u{object}:{seq}"),
        headers: vec![("ce-sequence", seq.to_string())],
        payload: Bytes::from_static(b"{}"),
    }
}

/// Where a message stands, its identity, and its place in its object's history.
type Place = (u64, Option<String>, Option<u64>);

/// An answer, less what cannot be the same.
#[derive(Debug, PartialEq)]
enum Answer {
    Published(Result<(u64, bool), PublishError>),
    Last(Result<Option<Place>, BusError>),
    /// Which of the streams that there were, and its ends.
    Identity(Result<(String, u64, u64), BusError>),
    Done,
}

async fn ask(bus: &dyn Bus, act: &Act) -> Answer {
    match act {
        Act::Publish(message, expected) => {
            let answer = bus.publish(message, *expected).await;
            Answer::Published(answer.map(|ack| (ack.sequence, ack.duplicate)))
        }
        Act::Last(filter) => {
            let last = bus.last(filter).await;
            Answer::Last(
                last.map(|last| last.map(|it| (it.stream_sequence, it.id, it.event_sequence))),
            )
        }
        Act::Ensure => Answer::Identity(bus.ensure_streams().await.map(identity)),
        _ => Answer::Done,
    }
}

fn identity(stream: StreamIdentity) -> (String, u64, u64) {
    let StreamIdentity {
        created,
        first_sequence,
        last_sequence,
    } = stream;
    (created, first_sequence, last_sequence)
}

/// The model, which is asked as a bus is.
#[derive(Default)]
struct Model {
    stream: JetStream,
    made: u32,
    marked: usize,
}

impl Model {
    fn answer(&mut self, act: &Act) -> Answer {
        let Model { stream, .. } = self;
        match act {
            Act::Publish(message, expected) => {
                let answer = stream.publish(Timestamp::now(), message, *expected);
                return Answer::Published(answer.map(|ack| (ack.sequence, ack.duplicate)));
            }
            Act::Last(filter) => {
                let last = stream.last(filter);
                return Answer::Last(
                    last.map(|last| last.map(|it| (it.stream_sequence, it.id, it.event_sequence))),
                );
            }
            Act::Ensure => {
                stream.full = false;
                self.made += 1;
                return Answer::Identity(stream.ensure(&self.made.to_string()).map(identity));
            }
            Act::DeleteStream | Act::LoseAll => stream.empty(),
            Act::Delete(sequence) => stream.delete(*sequence),
            Act::Retire(count) => stream.retire(*count),
            Act::Fill => stream.full = true,
            Act::Restart => stream.restart(),
            Act::Mark => {
                stream.restart();
                self.marked = stream.messages.len();
            }
            Act::LoseEnd => stream.lose_end(stream.messages.len() - self.marked),
        }
        Answer::Done
    }
}

/// Real servers, and what somebody else than the operator does to them.
struct Servers {
    servers: Vec<NatsServer>,
    bus: NatsBus,
    admin: jetstream::Context,
}

impl Servers {
    async fn single() -> Servers {
        let server = NatsServer::start("");
        Servers {
            bus: server.bus(server.options()).await,
            admin: jetstream::new(server.client().await),
            servers: vec![server],
        }
    }

    /// Three of them, once they have agreed on who leads.
    async fn cluster() -> Servers {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let routes: Vec<_> = ports
            .iter()
            .map(|port| format!("\"nats-route://127.0.0.1:{port}\""))
            .collect();
        let settings = |(index, port): (usize, &u16)| {
            format!(
                "server_name: s{index}\ncluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{}] }}",
                routes.join(", ")
            )
        };
        let servers: Vec<_> = ports
            .iter()
            .enumerate()
            .map(settings)
            .map(|it| NatsServer::start(&it))
            .collect();
        let addresses: Vec<_> = servers.iter().map(|server| server.address()).collect();
        let mut options = servers[0].options();
        options.connection.servers = addresses.join(",");
        options.stream.replicas = 3;
        let bus = servers[0].bus(options).await;
        let agreed = async {
            while bus.ensure_streams().await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), agreed)
            .await
            .unwrap();
        let admin = jetstream::new(servers[0].client().await);
        Servers {
            servers,
            bus,
            admin,
        }
    }

    /// Does what is no question, and answers what is one.
    async fn answer(&mut self, act: &Act) -> Answer {
        match act {
            Act::DeleteStream => self.delete_stream().await,
            Act::Delete(sequence) => {
                let stream = self.admin.get_stream(STREAM).await.unwrap();
                assert!(stream.delete_message(*sequence).await.unwrap());
            }
            Act::Retire(count) => {
                let all = self.count().await;
                self.limit(
                    all - i64::try_from(*count).unwrap(),
                    stream::DiscardPolicy::Old,
                )
                .await;
                self.limit(500_000, stream::DiscardPolicy::Old).await;
            }
            Act::Fill => {
                let all = self.count().await;
                self.limit(all, stream::DiscardPolicy::New).await;
            }
            Act::Restart => self.restart(|_| ()).await,
            Act::Mark => self.restart(NatsServer::save_store).await,
            Act::LoseEnd => self.restart(NatsServer::restore_store).await,
            Act::LoseAll => self.restart(NatsServer::lose_store).await,
            _ => {}
        }
        ask(&self.bus, act).await
    }

    /// The server moves the files away and removes them after it has answered. Deleted once more before that, they stay
    /// where they are, and the next stream has them.
    async fn delete_stream(&self) {
        let streams = self.servers[0]
            .directory()
            .join("store/jetstream/$G/streams");
        while streams.join(format!(".{STREAM}")).exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _ = self.admin.delete_stream(STREAM).await;
    }

    async fn count(&self) -> i64 {
        let mut stream = self.admin.get_stream(STREAM).await.unwrap();
        i64::try_from(stream.info().await.unwrap().state.messages).unwrap()
    }

    async fn limit(&self, messages: i64, discard: stream::DiscardPolicy) {
        let stream = self.admin.get_stream(STREAM).await.unwrap();
        let mut config = stream.cached_info().config.clone();
        config.max_messages = messages;
        config.discard = discard;
        self.admin.update_stream(config).await.unwrap();
    }

    async fn restart(&mut self, meanwhile: impl Fn(&NatsServer)) {
        let server = &mut self.servers[0];
        // Killed, it would have again what a limit took that was there for a moment.
        server.stop();
        while self.bus.connected() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        meanwhile(server);
        server.run();
        server.wait_connected(&self.bus).await;
        self.admin = jetstream::new(server.client().await);
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Plays one sequence; returns how often each kind of act came.
async fn compare(
    seed: u64,
    mut real: Servers,
    clustered: bool,
    acts: usize,
) -> BTreeMap<String, usize> {
    let mut chance = Chance {
        dice: fastrand::Rng::with_seed(seed),
        restarts: 3,
        since_mark: None,
        clustered,
    };
    let mut model = Model {
        stream: JetStream::new(clustered),
        ..Model::default()
    };
    let mut streams = BTreeMap::new();
    let mut counts = BTreeMap::new();
    let mut told = Vec::new();
    for number in 0..acts {
        let act = match number {
            0 => Act::Ensure,
            _ => chance.act(&model.stream),
        };
        let mut here = model.answer(&act);
        let there = real.answer(&act).await;
        // A stream is told by the name that the server gave it.
        if let (Answer::Identity(Ok(here)), Answer::Identity(Ok(there))) = (&mut here, &there) {
            let known = streams
                .entry(here.0.clone())
                .or_insert_with(|| there.0.clone());
            here.0.clone_from(known);
        }
        let kind = format!("{act:?}");
        let kind = kind.split([' ', '(']).next().unwrap_or_default();
        *counts.entry(kind.to_owned()).or_default() += 1;
        told.push(format!("{act:?}\n    {there:?}"));
        let before = told[told.len().saturating_sub(20)..].join("\n");
        assert_eq!(
            here, there,
            "\nleft the model, right the server; BUS_SEED={seed}, act {number}:\n{before}"
        );
    }
    let names: std::collections::BTreeSet<_> = streams.values().collect();
    assert_eq!(
        names.len(),
        streams.len(),
        "two streams of one name, BUS_SEED={seed}"
    );
    counts
}

fn given() -> Option<u64> {
    std::env::var("BUS_SEED").ok()?.parse().ok()
}

#[tokio::test]
async fn a_server_and_its_model_give_the_same_answers() {
    let seeds = given().map_or(1..=6, |seed| seed..=seed);
    let mut counts = BTreeMap::<_, usize>::new();
    for seed in seeds {
        for (kind, count) in compare(seed, Servers::single().await, false, ACTS).await {
            *counts.entry(kind).or_default() += count;
        }
    }
    println!("{counts:?}");
}

#[tokio::test]
async fn a_cluster_and_its_model_give_the_same_answers() {
    let seed = given().unwrap_or(1);
    let counts = compare(seed, Servers::cluster().await, true, ACTS_IN_A_CLUSTER).await;
    println!("{counts:?}");
}
