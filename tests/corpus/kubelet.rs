//! What scheduler, kubelet and others do with a pod, as a script says: statuses as they really
//! write them. Nothing is remembered beside the pod itself, so any number of crashes of whoever
//! plays this changes nothing.

pub mod status;

use compozy::api::{Duration, Time};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use super::script::{Attempt, Evictor, Fate, Lack, Loss};

/// The node that takes pods.
pub const NODE: &str = "node-a";

/// How long after the end of the last container the kubelet says the pod's phase.
const PHASE_LAG: Duration = Duration::from_secs(1);

/// How long after the first failure to pull an image the kubelet says that it backs off.
const PULL_LAG: Duration = Duration::from_secs(1);

/// What happens to a pod next.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// The scheduler finds a node: `spec.nodeName`, and this status.
    Bind(Box<PodStatus>),
    /// The status becomes this one.
    Report(Box<PodStatus>),
    /// Somebody deletes it: it gets a deletionTimestamp and 30 seconds.
    Delete,
    /// The eviction API: the condition DisruptionTarget, and a deletion as above.
    Evict(Box<PodStatus>),
    /// Its node or the garbage collector deletes it at once: it is gone as soon as no finalizer
    /// holds it.
    Remove,
    /// Somebody takes its finalizers off and deletes it at once.
    Strip,
}

/// What happens to `pod` next, and when, if nobody else does anything. Whoever plays it applies
/// the act when its time has come, however late, and asks again.
pub fn next(attempt: &Attempt, pod: &Pod) -> Option<(Time, Act)> {
    Life { attempt, pod }.next()
}

struct Life<'a> {
    attempt: &'a Attempt,
    pod: &'a Pod,
}

impl Life<'_> {
    fn next(&self) -> Option<(Time, Act)> {
        if status::is_over(self.pod) {
            return self.leaves();
        }
        if !status::is_bound(self.pod) {
            return self.unbound();
        }
        match status::main_state(self.pod) {
            status::Main::Unknown => self.accepted(),
            status::Main::Waiting(reason) => self.waiting(&reason),
            status::Main::Running(since) => self.running(since),
            status::Main::Terminated(at) => self.terminated(at),
        }
    }

    /// A pod that has ended goes if somebody deletes it or its node is gone.
    fn leaves(&self) -> Option<(Time, Act)> {
        let gone = status::condition(self.pod, "DisruptionTarget")
            .filter(|found| found.reason.as_deref() == Some("DeletionByPodGC"))
            .and_then(|found| found.last_transition_time.as_ref());
        match self.pod.metadata.deletion_grace_period_seconds {
            // Only finalizers hold it.
            Some(0) => None,
            _ => gone
                .map(|at| Time(at.0))
                .or(self.deletion_asked())
                .map(|at| (at, Act::Remove)),
        }
    }

    fn created(&self) -> Time {
        let created = self.pod.metadata.creation_timestamp.as_ref();
        Time(created.map(|time| time.0).unwrap_or_default())
    }

    /// When somebody asked for the pod's deletion.
    fn deletion_asked(&self) -> Option<Time> {
        let due = self.deletion_due()?;
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        Some(Time(due.0 - jiff::SignedDuration::from_secs(grace)))
    }

    fn deletion_due(&self) -> Option<Time> {
        let due = self.pod.metadata.deletion_timestamp.as_ref()?;
        Some(Time(due.0))
    }

    fn unbound(&self) -> Option<(Time, Act)> {
        if self.pod.metadata.deletion_timestamp.is_some() {
            return self.leaves();
        }
        let wait = self.attempt.before.unscheduled;
        let never = self.lack() == Some(Lack::Node);
        let crowded = never || wait.is_some();
        if crowded && status::condition(self.pod, "PodScheduled").is_none() {
            let text = self.never_message("0/1 nodes are available: 1 Insufficient cpu.");
            let status = status::unschedulable(self.pod, self.created(), &text);
            return Some((self.created(), Act::Report(Box::new(status))));
        }
        let at = later(self.created(), wait);
        (!never).then(|| (at, Act::Bind(Box::new(status::bound(self.pod, at)))))
    }

    /// The kubelet sees the pod for the first time.
    fn accepted(&self) -> Option<(Time, Act)> {
        let at = self.bound_at();
        let status = match &self.attempt.fate {
            Fate::RefusedByNode(refusal) => {
                status::failed(self.pod, &refusal.reason, &refusal.message)
            }
            _ => status::creating(self.pod, at),
        };
        Some((at, Act::Report(Box::new(status))))
    }

    fn bound_at(&self) -> Time {
        let scheduled = status::condition(self.pod, "PodScheduled");
        let at = scheduled.and_then(|condition| condition.last_transition_time.as_ref());
        at.map_or(self.created(), |time| Time(time.0))
    }

    fn lack(&self) -> Option<Lack> {
        match &self.attempt.fate {
            Fate::NeverStarts(never) => Some(never.lacks),
            _ => None,
        }
    }

    fn never_message<'a>(&'a self, usual: &'a str) -> String {
        match &self.attempt.fate {
            Fate::NeverStarts(never) if !never.message.is_empty() => never.message.clone(),
            _ => usual.to_owned(),
        }
    }

    fn waiting(&self, shown: &str) -> Option<(Time, Act)> {
        if let Some(asked) = self.deletion_asked() {
            let status = status::never_ran(self.pod, asked);
            return Some((asked, Act::Report(Box::new(status))));
        }
        let at = self.bound_at();
        let report = |status| Some((at, Act::Report(Box::new(status))));
        let waits = |reason: &str, text: &str| {
            (shown != reason)
                .then(|| status::waiting(self.pod, reason, &self.never_message(text)))
                .and_then(report)
        };
        match self.lack() {
            Some(Lack::ImageName) => {
                return waits("InvalidImageName", "couldn't parse image name");
            }
            Some(Lack::User) => {
                let text = "container has runAsNonRoot and image will run as root";
                return waits("CreateContainerConfigError", text);
            }
            Some(Lack::Secret) => {
                return waits("CreateContainerConfigError", "secret \"s\" not found");
            }
            Some(Lack::Volume | Lack::Node) => return None,
            Some(Lack::Image) | None => {}
        }
        let pulled = later(at, self.attempt.before.pull_fails);
        let pulls = self.lack() == Some(Lack::Image) || pulled > at;
        if pulls && let Some(pull) = self.pulling(shown) {
            return Some(pull);
        }
        if self.lack() == Some(Lack::Image) {
            return None;
        }
        let start = later(pulled, self.attempt.before.starting.or(Some(PHASE_LAG)));
        if matches!(self.attempt.fate, Fate::InitFails(_)) {
            return Some((
                start,
                Act::Report(Box::new(status::init_failed(self.pod, start))),
            ));
        }
        if let Fate::CannotStart(cannot) = &self.attempt.fate {
            let end = status::End::new(128, &cannot.reason, start).saying(&cannot.message);
            return Some((start, self.ends(&end)));
        }
        let injected = self.attempt.before.injected;
        let status = status::running(self.pod, start, injected);
        Some((start, Act::Report(Box::new(status))))
    }

    /// The image does not come, which the kubelet says in two ways.
    fn pulling(&self, shown: &str) -> Option<(Time, Act)> {
        let text = self.never_message("failed to pull image: connection refused");
        let (at, reason) = match shown {
            "ContainerCreating" => (self.bound_at(), "ErrImagePull"),
            "ErrImagePull" => (later(self.bound_at(), Some(PULL_LAG)), "ImagePullBackOff"),
            _ => return None,
        };
        let status = status::waiting(self.pod, reason, &text);
        Some((at, Act::Report(Box::new(status))))
    }

    fn running(&self, since: Time) -> Option<(Time, Act)> {
        if matches!(&self.attempt.fate, Fate::NodeLost(lost) if lost.how == Loss::Silent) {
            return None;
        }
        let course = self.course(since);
        let Some(asked) = self.deletion_asked() else {
            return course;
        };
        match course {
            Some((at, act @ Act::Report(_))) if at < asked => Some((at, act)),
            _ => Some(self.terminated_by_signal(since, asked)),
        }
    }

    /// SIGTERM at once and, when the grace period has passed, SIGKILL.
    fn terminated_by_signal(&self, since: Time, asked: Time) -> (Time, Act) {
        let ignores = matches!(&self.attempt.fate, Fate::Hangs(hangs) if hangs.ignores_term);
        let (at, code) = match self.deletion_due() {
            Some(due) if ignores => (due, 137),
            _ => (asked.max(since), 143),
        };
        (at, self.ends(&status::End::new(code, "Error", at)))
    }

    fn ends(&self, end: &status::End) -> Act {
        Act::Report(Box::new(status::terminated(self.pod, end)))
    }

    /// What becomes of a running pod that nobody else touches.
    fn course(&self, since: Time) -> Option<(Time, Act)> {
        let ends = |after: Duration, code: i32, reason: &str, said: &str| {
            let at = later(since, Some(after));
            Some((
                at,
                self.ends(&status::End::new(code, reason, at).saying(said)),
            ))
        };
        match &self.attempt.fate {
            Fate::Succeeds(done) => {
                let said = said(done.outputs.as_ref(), done.writes.as_deref(), done.fills);
                ends(done.after, 0, "Completed", &said)
            }
            Fate::Exits(exit) => {
                let said = exit.writes.as_deref().unwrap_or(&exit.log);
                ends(exit.after, exit.code, "Error", said)
            }
            Fate::OutOfMemory(soon) => ends(soon.after, 137, "OOMKilled", ""),
            Fate::Evicted(evicted) => {
                let at = later(since, Some(evicted.after));
                Some((at, self.evicted(evicted.by, at)))
            }
            Fate::NodeLost(lost) => {
                let at = later(since, Some(lost.after));
                self.node_lost(lost.how, at).map(|act| (at, act))
            }
            Fate::Deleted(soon) => Some((later(since, Some(soon.after)), Act::Delete)),
            Fate::Vanishes(fate) => Some((later(since, Some(fate.after)), Act::Strip)),
            Fate::Overstays(soon) => {
                let at = later(since, Some(soon.after));
                let text = "Pod was active on the node longer than the specified deadline";
                Some((at, self.killed(at, "DeadlineExceeded", text)))
            }
            Fate::Hangs(_) => None,
            Fate::RefusedByNode(_)
            | Fate::CannotStart(_)
            | Fate::NeverStarts(_)
            | Fate::InitFails(_) => None,
        }
    }

    fn evicted(&self, by: Evictor, at: Time) -> Act {
        let disrupted = |reason: &str, text: &str| {
            Act::Evict(Box::new(status::disrupted(self.pod, reason, text, at)))
        };
        let low = "The node was low on resource: memory.";
        match by {
            Evictor::Api => disrupted("EvictionByEvictionAPI", "Eviction API: evicting"),
            Evictor::Preemption => disrupted("PreemptionByScheduler", "preempting"),
            Evictor::Taint => disrupted("DeletionByTaintManager", "Taint manager: deleting"),
            Evictor::Pressure => self.killed_by_kubelet(at, "Evicted", low),
            Evictor::OwnLimit => {
                let text =
                    "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi.";
                self.killed(at, "Evicted", text)
            }
        }
    }

    fn node_lost(&self, how: Loss, at: Time) -> Option<Act> {
        match how {
            Loss::Removed => {
                let text = "PodGC: node no longer exists";
                let mut status = status::disrupted(self.pod, "DeletionByPodGC", text, at);
                status.phase = Some("Failed".to_owned());
                Some(Act::Report(Box::new(status)))
            }
            Loss::Shutdown => {
                let text = "Pod was terminated in response to imminent node shutdown.";
                Some(self.killed_by_kubelet(at, "Terminated", text))
            }
            Loss::Forgotten => {
                let text = "The container could not be located when the pod was terminated";
                let end = status::End::new(137, "ContainerStatusUnknown", at).saying(text);
                let mut status = status::terminated(self.pod, &end);
                status.phase = Some("Failed".to_owned());
                Some(Act::Report(Box::new(status)))
            }
            Loss::Silent => None,
        }
    }

    /// The kubelet kills the pod for a reason of its own.
    fn killed(&self, at: Time, reason: &str, text: &str) -> Act {
        let mut status = status::terminated(self.pod, &status::End::new(137, "Error", at));
        status.phase = Some("Failed".to_owned());
        status.reason = Some(reason.to_owned());
        status.message = Some(text.to_owned());
        Act::Report(Box::new(status))
    }

    /// The same for the node's sake.
    fn killed_by_kubelet(&self, at: Time, reason: &str, text: &str) -> Act {
        let Act::Report(mut status) = self.killed(at, reason, text) else {
            return Act::Remove;
        };
        let condition: PodCondition = status::disruption("TerminationByKubelet", text, at);
        status.conditions.get_or_insert_default().push(condition);
        Act::Report(status)
    }

    /// The program has ended; what else the pod has may not have.
    fn terminated(&self, ended: Time) -> Option<(Time, Act)> {
        let mut at = later(ended, Some(PHASE_LAG));
        if status::others_run(self.pod) {
            let asked = self.deletion_asked()?;
            at = later(ended.max(asked), Some(PHASE_LAG));
        }
        Some((at, Act::Report(Box::new(status::over(self.pod, at)))))
    }
}

fn later(time: Time, span: Option<Duration>) -> Time {
    span.map_or(time, |span| time.after(span.get()))
}

/// What a program leaves in its outputs file, as far as the kubelet carries it.
fn said(
    outputs: Option<&serde_json::Map<String, serde_json::Value>>,
    writes: Option<&str>,
    fills: Option<usize>,
) -> String {
    let outputs = outputs.map(|outputs| serde_json::Value::Object(outputs.clone()).to_string());
    let frame = r#"{"x":""}"#.len();
    let filled =
        fills.map(|size| format!(r#"{{"x":"{}"}}"#, "x".repeat(size.saturating_sub(frame))));
    let said = outputs.or(writes.map(str::to_owned)).or(filled);
    said.unwrap_or_default()
}
