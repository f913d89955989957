use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use http::Method;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::operator::{
    settings::CommandLine,
    testing::{Answer, Asked, client, refusal},
};

/// An API server that knows one lease.
#[derive(Default)]
struct Server {
    lease: Mutex<Option<Value>>,
    versions: AtomicU64,
    away: AtomicBool,
    /// What was written is stored, but its answer is lost.
    mute: AtomicBool,
    /// How many milliseconds a write takes.
    slow: AtomicU64,
    writes: AtomicU64,
}

impl Server {
    async fn answer(self: Arc<Server>, asked: Asked) -> Answer {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if self.away.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let reads = asked.method == Method::GET;
        let slow = self.slow.load(Ordering::Relaxed);
        if !reads && slow > 0 {
            let (server, done) = (self.clone(), oneshot::channel());
            // What was sent is done, whether or not somebody still waits.
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(slow)).await;
                let _ = done.0.send(server.store(asked));
            });
            return done.1.await.unwrap();
        }
        let answer = self.store(asked);
        if self.mute.load(Ordering::Relaxed) && !reads {
            return std::future::pending().await;
        }
        answer
    }

    fn store(&self, asked: Asked) -> Answer {
        let mut lease = self.lease.lock().unwrap();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        match (asked.method, lease.as_ref()) {
            (Method::GET, Some(lease)) => return (200, lease.clone()),
            (Method::POST, None) => {}
            (Method::POST, Some(_)) => return refusal(409, "AlreadyExists"),
            (Method::PUT, Some(lease)) if version(lease) == version(&asked.body) => {}
            (Method::PUT, Some(_)) => return refusal(409, "Conflict"),
            _ => return refusal(404, "NotFound"),
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        (200, self.put(&mut lease, asked.body))
    }

    fn put(&self, lease: &mut Option<Value>, mut wanted: Value) -> Value {
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        wanted["metadata"]["resourceVersion"] = json!(version.to_string());
        *lease = Some(wanted.clone());
        wanted
    }

    /// Somebody else writes.
    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut lease = self.lease.lock().unwrap();
        let mut wanted = lease.clone().unwrap();
        change(&mut wanted);
        self.put(&mut lease, wanted);
    }

    fn holder(&self) -> String {
        let lease = self.lease.lock().unwrap();
        let lease = lease.as_ref().unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
    }

    fn candidate(self: &Arc<Server>, identity: &str) -> Lease {
        let server = self.clone();
        let settings = <CommandLine as clap::Parser>::parse_from(["operator"]).settings;
        // A clock that is wrong: nothing may depend on it.
        struct Wrong(i64);
        impl Clock for Wrong {
            fn now(&self) -> jiff::Timestamp {
                jiff::Timestamp::from_second(self.0).unwrap()
            }
        }
        let wrong = identity.bytes().map(i64::from).sum::<i64>() * 1_000_000;
        Lease::new(
            client(move |asked| server.clone().answer(asked)),
            &settings,
            identity,
            Arc::new(Wrong(wrong)),
            Arc::new(Metrics::new(|_| ())),
        )
    }

    /// A process that leads once it can, and says for how long it waited and when it lost.
    fn start(self: &Arc<Server>, identity: &str) -> (Fence, JoinHandle<(Duration, Instant)>) {
        let mut lease = self.candidate(identity);
        let fence = lease.fence();
        let life = tokio::spawn(async move {
            let start = Instant::now();
            lease.won().await;
            let waited = start.elapsed();
            lease.lost().await;
            (waited, Instant::now())
        });
        (fence, life)
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_missing_is_made_and_kept() {
    let server = Arc::new(Server::default());
    let (fence, _life) = server.start("a");
    pass(1).await;
    assert!(fence.left().is_some());
    pass(600).await;
    assert!(fence.left().is_some());
    let writes = server.writes.load(Ordering::Relaxed);
    assert!((198..=202).contains(&writes), "{writes} writes in 601 s");
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_when_the_lease_has_not_changed_for_its_duration() {
    let server = Arc::new(Server::default());
    let (_, leader) = server.start("a");
    pass(1).await;
    let (fence, _life) = server.start("b");
    pass(120).await;
    assert_eq!(server.holder(), "a");
    assert_eq!(fence.left(), None);
    leader.abort();
    let killed = Instant::now();
    while server.holder() == "a" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = killed.elapsed();
    assert!(took <= Duration::from_secs(17), "{took:?}");
    assert_eq!(
        server.lease.lock().unwrap().as_ref().unwrap()["spec"]["leaseTransitions"],
        2
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_stops_before_a_standby_may_take_over() {
    let server = Arc::new(Server::default());
    let (fence, leader) = server.start("a");
    pass(1).await;
    let (other, _life) = server.start("b");
    pass(8).await;
    // The leader alone is cut off: what it sends never arrives.
    let frozen = server.lease.lock().unwrap().clone();
    server.away.store(true, Ordering::Relaxed);
    let (_, lost) = leader.await.unwrap();
    assert_eq!(fence.left(), None);
    server.away.store(false, Ordering::Relaxed);
    assert_eq!(*server.lease.lock().unwrap(), frozen);
    while other.left().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        lost.elapsed() >= Duration::from_secs(2),
        "{:?}",
        lost.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_given_back_is_taken_at_the_next_look() {
    let server = Arc::new(Server::default());
    let mut leader = server.candidate("a");
    leader.won().await;
    let (fence, _life) = server.start("b");
    pass(3).await;
    assert_eq!(fence.left(), None);
    leader.give_back().await;
    assert_eq!(server.holder(), "");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(server.holder(), "b");
    assert!(fence.left().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_finds_another_holder_has_lost_at_once() {
    let server = Arc::new(Server::default());
    let (fence, leader) = server.start("a");
    pass(1).await;
    server.change(|lease| lease["spec"]["holderIdentity"] = json!("b"));
    let (_, lost) = leader.await.unwrap();
    assert!(lost.elapsed().is_zero());
    assert_eq!(fence.left(), None);
    assert_eq!(server.holder(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_label_on_the_lease_costs_nobody_the_lead() {
    let server = Arc::new(Server::default());
    let (fence, _life) = server.start("a");
    pass(1).await;
    server.change(|lease| lease["metadata"]["labels"] = json!({"seen": "yes"}));
    pass(60).await;
    assert!(fence.left().is_some());
    let lease = server.lease.lock().unwrap().clone().unwrap();
    assert_eq!(lease["metadata"]["labels"]["seen"], "yes");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_deleted_is_made_again_by_its_holder() {
    let server = Arc::new(Server::default());
    let (fence, _life) = server.start("a");
    let (other, _standby) = server.start("b");
    pass(30).await;
    *server.lease.lock().unwrap() = None;
    for _ in 0..60 {
        pass(1).await;
        assert!(fence.left().is_some() && other.left().is_none());
    }
    assert_eq!(server.holder(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_missing_is_not_taken_for_renewed() {
    let server = Arc::new(Server::default());
    let mut lease = server.candidate("a");
    lease.won().await;
    pass(4).await;
    *server.lease.lock().unwrap() = None;
    let left = lease.fence.left().unwrap();
    assert!(lease.renew().await.is_err());
    assert!(lease.fence.left().unwrap() <= left);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_costs_nobody_the_lead() {
    let server = Arc::new(Server::default());
    let (fence, _life) = server.start("a");
    pass(4).await;
    server.mute.store(true, Ordering::Relaxed);
    pass(3).await;
    server.mute.store(false, Ordering::Relaxed);
    pass(60).await;
    assert!(fence.left().is_some());
    assert_eq!(server.holder(), "a");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_renews_later_than_anybody_waits_costs_nobody_the_lead() {
    let server = Arc::new(Server::default());
    let (fence, _life) = server.start("a");
    let (other, _standby) = server.start("b");
    pass(4).await;
    server.slow.store(5_200, Ordering::Relaxed);
    for _ in 0..120 {
        pass(1).await;
        assert!(fence.left().is_some() && other.left().is_none());
    }
    assert_eq!(server.holder(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_first_answer_that_was_lost_is_no_wait_for_the_lease_to_run_out() {
    let server = Arc::new(Server::default());
    server.mute.store(true, Ordering::Relaxed);
    let (fence, life) = server.start("a");
    pass(2).await;
    server.mute.store(false, Ordering::Relaxed);
    pass(8).await;
    assert!(fence.left().is_some(), "{}", life.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for() {
    let server = Arc::new(Server::default());
    server.away.store(true, Ordering::Relaxed);
    let (fence, _life) = server.start("a");
    pass(300).await;
    assert_eq!(fence.left(), None);
    server.away.store(false, Ordering::Relaxed);
    pass(5).await;
    assert!(fence.left().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_process_with_the_identity_of_another_is_another() {
    let server = Arc::new(Server::default());
    let (_, leader) = server.start("a");
    pass(1).await;
    leader.abort();
    // Its renew and acquire times are those of the frozen clock that both share.
    server.change(|lease| lease["spec"]["acquireTime"] = json!("2026-01-01T00:00:00.000000Z"));
    let (fence, _life) = server.start("a");
    pass(14).await;
    assert_eq!(fence.left(), None);
    pass(4).await;
    assert!(fence.left().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_frozen_past_its_lease_writes_nothing_when_it_wakes_up() {
    let server = Arc::new(Server::default());
    let mut lease = server.candidate("a");
    lease.won().await;
    let writes = server.writes.load(Ordering::Relaxed);
    tokio::time::advance(Duration::from_secs(60)).await;
    lease.lost().await;
    lease.give_back().await;
    assert_eq!(server.writes.load(Ordering::Relaxed), writes);
}
