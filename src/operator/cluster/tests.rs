use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rstest::rstest;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::operator::testing::{Answer, Asked as Request, client, refusal};

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

/// An API server that answers each kind of request as its test wants.
fn script(
    answers: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> impl Fn(Request) -> std::future::Ready<Answer> + Send + Sync + 'static {
    move |request| std::future::ready(answers(&request))
}

fn owned(uid: &str) -> Pod {
    let mut pod = pod(uid);
    pod.metadata.owner_references = Some(vec![
        serde_json::from_value(json!({
            "apiVersion": "v", "kind": "TaskExecution", "name": "t", "uid": "tu"}))
        .unwrap(),
    ]);
    pod
}

fn pod_key() -> Key {
    ("n".into(), "p".into())
}

#[tokio::test(start_paused = true)]
async fn a_conflict_at_a_deletion_is_no_proof_that_the_pod_is_gone() {
    let cluster = cluster(
        open(),
        script(|request| match request.method.as_str() {
            "DELETE" => refusal(409, "Conflict"),
            _ => (200, json!(owned("u"))),
        }),
    );
    cluster.hub.pod(owned("u"));
    let error = cluster.delete_pod(&owned("u")).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert!(cluster.hub.index.pod(&pod_key()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_conflict_at_a_deletion_because_of_another_pod_of_that_name_shows_that_one() {
    let cluster = cluster(
        open(),
        script(|request| match request.method.as_str() {
            "DELETE" => refusal(409, "Conflict"),
            _ => {
                let mut other = owned("other");
                other.metadata.resource_version = Some("2".to_owned());
                (200, json!(other))
            }
        }),
    );
    cluster.hub.pod(owned("u"));
    cluster.delete_pod(&owned("u")).await.unwrap();
    let known = cluster.hub.index.pod(&pod_key()).unwrap();
    assert_eq!(known.metadata.uid.as_deref(), Some("other"));
}

/// It may still have run then, and what is to follow it would wait for its end for ever.
#[rstest]
#[case::created("create")]
#[case::deleted("delete")]
#[case::let_go("release")]
#[case::asked_for("fetch")]
#[tokio::test(start_paused = true)]
async fn a_late_answer_does_not_bring_a_pod_back_that_is_gone(#[case] call: &str) {
    let cluster = cluster(open(), |_| async {
        tokio::time::sleep(Duration::from_secs(9)).await;
        let mut changed = owned("u");
        changed.metadata.resource_version = Some("2".to_owned());
        (200, json!(changed))
    });
    let (hub, pod) = (cluster.hub.clone(), owned("u"));
    let ask = async || match call {
        "create" => cluster.create_pod(&pod).await,
        "delete" => cluster.delete_pod(&pod).await,
        "release" => cluster.release_pod(&pod).await,
        _ => cluster.fetch_pod(&pod_key()).await.map(drop),
    };
    hub.pod(owned("u"));
    let goes_meanwhile = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        hub.pod_gone(&pod_key(), Some("u"));
    };
    let (answered, ()) = tokio::join!(ask(), goes_meanwhile);
    answered.unwrap();
    assert!(hub.index.pod(&pod_key()).is_none());

    // A list of the past may have said so: who asks after that is told what is so.
    ask().await.unwrap();
    assert!(hub.index.pod(&pod_key()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_not_found_does_not_take_away_the_one_made_meanwhile() {
    let cluster = cluster(open(), script(|_| refusal(404, "NotFound")));
    cluster.hub.pod(owned("other"));
    cluster.release_pod(&owned("u")).await.unwrap();
    cluster.delete_pod(&owned("u")).await.unwrap();
    assert!(cluster.hub.index.pod(&pod_key()).is_some());
    cluster.release_pod(&owned("other")).await.unwrap();
    assert!(cluster.hub.index.pod(&pod_key()).is_none());
}

fn workflow(uid: &str) -> Workflow {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
        "metadata": {"name": "w", "namespace": "n", "uid": uid, "resourceVersion": "1"},
        "spec": {"tasks": []},
    }))
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_not_found_does_not_take_away_the_one_made_meanwhile() {
    let cluster = cluster(open(), script(|_| refusal(404, "NotFound")));
    let key: Key = ("n".into(), "w".into());
    cluster.hub.workflow(workflow("new"));
    let status = WorkflowStatus::default();
    let error = cluster
        .record_workflow(&workflow("old"), status.clone())
        .await
        .unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(cluster.hub.index.workflow(&key).is_some());
    cluster
        .record_workflow(&workflow("new"), status)
        .await
        .unwrap_err();
    assert!(cluster.hub.index.workflow(&key).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_suspension_that_comes_too_late_does_nothing() {
    let cluster = cluster(
        open(),
        script(|request| {
            let version = request.body["metadata"]["resourceVersion"].as_str();
            assert_eq!(version, Some("7"), "the API server compares it");
            refusal(409, "Conflict")
        }),
    );
    let execution: TaskExecution = serde_json::from_value(json!({
        "metadata": {"name": "t", "namespace": "n", "uid": "tu", "resourceVersion": "7"},
        "spec": {
            "workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": "t",
            "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
            "infrastructureRetries": 1, "imagePullTimeout": "10m",
        },
    }))
    .unwrap();
    let told = cluster.suspend_execution(&execution, true).await;
    assert!(told.unwrap_err().is_conflict());
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_is_not_served_is_not_an_object_that_is_gone() {
    let cluster = cluster(open(), script(|_| refusal(404, "404 page not found")));
    cluster.hub.workflow(workflow("u"));
    cluster
        .record_workflow(&workflow("u"), WorkflowStatus::default())
        .await
        .unwrap_err();
    let key: Key = ("n".into(), "w".into());
    assert!(cluster.hub.index.workflow(&key).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_served_is_not_said_to_be_gone() {
    let unserved = |_: &_| {
        let (code, mut status) = refusal(404, "NotFound");
        status["message"] = "the server could not find the requested resource".into();
        (code, status)
    };
    let cluster = cluster(open(), script(unserved));
    let key: Key = ("n".into(), "w".into());
    cluster.fetch_execution(&key).await.unwrap_err();
    cluster.fetch_workflow(&key).await.unwrap_err();
    cluster.workflow_exists(&key, "u").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn calls_slow_down_together_when_the_api_server_has_too_much_to_do() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let cluster = cluster(
        open(),
        script(move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0..64 => refusal(429, "TooManyRequests"),
            _ => (201, json!(owned("u"))),
        }),
    );
    let start = Instant::now();
    let key = pod_key();
    let first = futures::future::join_all((0..64).map(|_| cluster.fetch_pod(&key))).await;
    assert!(first.iter().all(Result::is_err));
    assert!(start.elapsed().is_zero(), "a refusal is no wait by itself");
    cluster.fetch_pod(&key).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 1, "the pause is for all");
    assert_eq!(asked.load(Ordering::Relaxed), 65);
}

#[tokio::test(start_paused = true)]
async fn the_pause_is_as_long_as_the_api_server_asks_for_within_bounds() {
    for (asked, waited) in [(7, 7), (1, 1), (4000, 30)] {
        let calls = AtomicUsize::new(0);
        let cluster = cluster(
            open(),
            script(move |_| {
                if calls.fetch_add(1, Ordering::Relaxed) > 0 {
                    return (200, json!(owned("u")));
                }
                let (code, mut status) = refusal(503, "ServiceUnavailable");
                status["details"] = json!({"retryAfterSeconds": asked});
                (code, status)
            }),
        );
        let start = Instant::now();
        cluster.fetch_pod(&pod_key()).await.unwrap_err();
        cluster.fetch_pod(&pod_key()).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), waited);
    }
}

#[tokio::test(start_paused = true)]
async fn pods_are_created_so_many_at_once_and_leave_room_for_other_calls() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (under_way, seen) = (now.clone(), most.clone());
    let cluster = cluster(open(), move |request| {
        let under_way = under_way.clone();
        let creates = request.method == http::Method::POST;
        if creates {
            let count = under_way.fetch_add(1, Ordering::Relaxed) + 1;
            seen.fetch_max(count, Ordering::Relaxed);
        }
        async move {
            if creates {
                tokio::time::sleep(Duration::from_secs(1)).await;
                under_way.fetch_sub(1, Ordering::Relaxed);
            }
            (200, json!(owned("u")))
        }
    });
    let pod = owned("u");
    let creations = futures::future::join_all((0..200).map(|_| cluster.create_pod(&pod)));
    let other = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let start = Instant::now();
        cluster.fetch_pod(&pod_key()).await.unwrap();
        start.elapsed()
    };
    let (_, waited) = tokio::join!(creations, other);
    assert_eq!(most.load(Ordering::Relaxed), 32);
    assert!(waited.is_zero(), "{waited:?}");
}
