use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::{
    engine::attempt::Answer,
    ports::{SystemClock, memory::calls::MemoryCalls},
};

const ME: &str = "operator-1";
const SUBJECT: &str = "compozy.commands.tool.n_w.execute.n_charge";
const REPLY: &str = "compozy.results.tool.n.tu.id";

struct Bench {
    nats: Arc<MemoryCalls>,
    hub: Arc<Hub>,
    fence: Fence,
    calls: CallsUnderWay,
}

impl Bench {
    fn new() -> Bench {
        let (nats, hub) = (Arc::new(MemoryCalls::default()), Arc::new(Hub::default()));
        let fence = Fence::default();
        fence.open_until(Instant::now() + Duration::from_secs(3600));
        let (clock, caller) = (Arc::new(SystemClock), ME.to_owned());
        let port: Arc<dyn Calls> = nats.clone();
        let calls = CallsUnderWay::new(port, "compozy", caller, fence.clone(), hub.clone(), clock);
        Bench {
            nats,
            hub,
            fence,
            calls,
        }
    }

    /// Lets the tool give this at once.
    fn serve(&self, n: u32) {
        self.nats.serve(SUBJECT, move |_| vec![gives(n)]);
    }

    /// Waits until something was heard.
    async fn heard(&self) {
        let key = self.hub.executions.next().await;
        self.hub.executions.done(&key);
    }
}

fn gives(n: u32) -> Bytes {
    let answer = json!({"tool_exec_id": "id", "status": "SUCCESS", "output": {"n": n}});
    answer.to_string().into()
}

/// A task execution whose call was recorded by `caller`.
fn called_by(caller: &str) -> TaskExecution {
    let backoff = json!({"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0});
    let call = json!({"attempt": 1, "toolExecId": "id", "caller": caller,
                      "deadline": "2026-01-01T00:01:00Z"});
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
        "metadata": {"name": "t", "namespace": "n", "uid": "tu"},
        "spec": {"workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": "t", "tool": {"name": "charge"},
                 "retry": {"maxAttempts": 1, "backoff": backoff},
                 "infrastructureRetries": 1, "imagePullTimeout": "10m"},
        "status": {"phase": "Running", "attempt": 1, "call": call},
    }))
    .unwrap()
}

fn answer(view: &CallView) -> Option<&Answer> {
    match view {
        CallView::Answered { answer, .. } => Some(answer),
        _ => None,
    }
}

fn n(n: u32) -> Answer {
    Answer::Success(json!({ "n": n }))
}

#[tokio::test(start_paused = true)]
async fn a_call_is_sent_and_its_first_answer_counts() {
    let (bench, execution) = (Bench::new(), called_by(ME));
    bench.nats.serve(SUBJECT, |_| vec![gives(1), gives(2)]);
    assert_eq!(bench.calls.view(&execution), CallView::Unsent);
    bench.calls.send(&execution).await.unwrap();
    bench.heard().await;
    bench.nats.answer(REPLY, gives(3));
    bench.heard().await;
    let view = bench.calls.view(&execution);
    assert_eq!(answer(&view), Some(&n(1)), "{view:?}");
    let sent = bench.nats.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (sent[0].subject.as_str(), sent[0].reply.as_str()),
        (SUBJECT, REPLY)
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_did_not_go_may_be_sent_again_and_one_that_went_may_not() {
    let (bench, execution) = (Bench::new(), called_by(ME));
    bench.nats.set_away(true);
    assert!(bench.calls.send(&execution).await.is_err());
    assert_eq!(bench.calls.view(&execution), CallView::Unsent);
    bench.nats.set_away(false);
    bench.nats.serve(SUBJECT, |_| Vec::new());
    bench.calls.send(&execution).await.unwrap();
    let open = CallView::Open {
        started: None,
        given_up: false,
    };
    assert_eq!(bench.calls.view(&execution), open);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_hold_the_lease_any_more_calls_nobody() {
    let (bench, execution) = (Bench::new(), called_by(ME));
    bench.serve(1);
    bench.fence.close();
    assert!(bench.calls.send(&execution).await.is_err());
    assert!(bench.nats.sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn that_nobody_serves_the_tool_is_heard_at_once() {
    let (bench, execution) = (Bench::new(), called_by(ME));
    bench.calls.send(&execution).await.unwrap();
    bench.heard().await;
    let view = bench.calls.view(&execution);
    assert!(matches!(view, CallView::NoResponders { .. }), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_took_may_be_sent_again_and_again() {
    let (bench, execution) = (Bench::new(), called_by(ME));
    for _ in 0..3 {
        bench.calls.send(&execution).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(1), bench.heard());
        assert!(heard.await.is_ok(), "that nobody took it is not heard");
        let view = bench.calls.view(&execution);
        assert!(matches!(view, CallView::NoResponders { .. }), "{view:?}");
    }
    bench.serve(1);
    bench.calls.send(&execution).await.unwrap();
    bench.heard().await;
    let view = bench.calls.view(&execution);
    assert_eq!(answer(&view), Some(&n(1)), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_to_a_process_that_is_gone_is_found() {
    let (bench, execution) = (Bench::new(), called_by("operator-0"));
    bench.nats.answer(REPLY, gives(1));
    bench.calls.listen(&execution).await.unwrap();
    let view = bench.calls.view(&execution);
    assert_eq!(answer(&view), Some(&n(1)), "{view:?}");
    assert!(bench.nats.sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_came_while_the_connection_was_lost_is_asked_for() {
    let (bench, execution) = (Bench::new(), called_by(ME));
    bench.nats.serve(SUBJECT, |_| Vec::new());
    bench.calls.send(&execution).await.unwrap();
    bench.nats.set_away(true);
    bench.nats.answer(REPLY, gives(1));
    bench.nats.set_away(false);
    bench.heard().await;
    let view = bench.calls.view(&execution);
    assert_eq!(answer(&view), Some(&n(1)), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn before_a_call_is_given_up_the_stored_answers_are_read() {
    for caller in [ME, "operator-0"] {
        let (bench, execution) = (Bench::new(), called_by(caller));
        let silent = bench.calls.confirm(&execution).await.unwrap();
        let given_up = CallView::Open {
            started: None,
            given_up: true,
        };
        assert_eq!(silent, given_up);
        bench.nats.answer(REPLY, gives(1));
        let view = bench.calls.confirm(&execution).await.unwrap();
        assert_eq!(answer(&view), Some(&n(1)), "{view:?}");
        bench.nats.set_away(true);
        assert!(bench.calls.confirm(&execution).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_forgotten_is_heard_no_more() {
    let (bench, execution) = (Bench::new(), called_by(ME));
    bench.nats.serve(SUBJECT, |_| Vec::new());
    bench.calls.send(&execution).await.unwrap();
    bench.calls.forget(&key_of(&execution));
    bench.nats.answer(REPLY, gives(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.hub.executions.depth(), 0);
}
