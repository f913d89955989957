use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::operator::testing::{Answer, Asked as Request, client};

fn pod(uid: &str) -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "n", "uid": uid, "resourceVersion": "1"},
    }))
    .unwrap()
}

fn open() -> Fence {
    let fence = Fence::default();
    fence.open_until(Instant::now() + Duration::from_secs(3600));
    fence
}

fn cluster<F>(fence: Fence, answer: impl Fn(Request) -> F + Send + Sync + 'static) -> Cluster
where
    F: Future<Output = Answer> + Send + 'static,
{
    let metrics = Arc::new(Metrics::new(|_| ()));
    Cluster::new(client(answer), Arc::default(), metrics, fence)
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_frozen_past_its_lease_sends_not_one_request() {
    let sent = Arc::new(AtomicUsize::new(0));
    let seen = sent.clone();
    let fence = open();
    let cluster = cluster(fence.clone(), move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        async { (201, json!(pod("u"))) }
    });
    cluster.create_pod(&pod("u")).await.unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(3600)).await;
    let error = cluster.create_pod(&pod("u")).await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
    assert_eq!(sent.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_that_waited_for_their_turn_past_the_lease_are_not_sent() {
    let sent = Arc::new(AtomicUsize::new(0));
    let seen = sent.clone();
    let fence = Fence::default();
    fence.open_until(Instant::now() + Duration::from_secs(10));
    let cluster = cluster(fence, move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        std::future::pending()
    });
    let start = Instant::now();
    let pod = pod("u");
    let calls = (0..100).map(|_| cluster.create_pod(&pod));
    let ended = futures::future::join_all(calls).await;
    assert!(ended.iter().all(Result::is_err));
    assert_eq!(
        start.elapsed().as_secs(),
        10,
        "no request outlives the lease"
    );
    assert!(sent.load(Ordering::Relaxed) < 100);
    let fenced = ended.into_iter().filter_map(Result::err);
    assert_eq!(
        fenced.filter(CallError::is_fenced).count(),
        100 - sent.load(Ordering::Relaxed)
    );
}
