//! The pods of a case, as the API server would hold them and the cluster treats them.

use std::collections::BTreeMap;

use compozy::{
    api::{FINALIZER_OUTCOME, TaskExecution, Time},
    engine::{
        names,
        pod::{PodSettings, attempt_pod},
    },
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::corpus::{
    Case, key,
    kubelet::{self, status},
    script::{Attempt, Fate, Vanishes},
};

/// How long a pod that is deleted may take, in seconds.
const GRACE: i64 = 30;

/// The pods of a case.
pub struct Pods<'a> {
    case: &'a Case,
    pods: BTreeMap<String, (Pod, &'a Attempt)>,
    /// Pods of somebody else, and until when they are there.
    foreign: BTreeMap<String, (Pod, Time)>,
    /// When each pod was first refused.
    refused: BTreeMap<String, Time>,
    /// Every pod as it was created, with its task.
    pub created: Vec<(String, Pod)>,
}

impl<'a> Pods<'a> {
    pub fn new(case: &'a Case) -> Pods<'a> {
        Pods {
            case,
            pods: BTreeMap::new(),
            foreign: BTreeMap::new(),
            refused: BTreeMap::new(),
            created: Vec::new(),
        }
    }

    /// A task execution was created: the names that somebody else took are taken from now on.
    pub fn expect(&mut self, te: &TaskExecution, now: Time) {
        let attempts = self.case.attempts(&key(te));
        for (number, attempt) in (1..).zip(attempts) {
            if let Some(span) = attempt.before.name_taken {
                let name = name(te, number);
                let taken = (foreign(&name), now.after(span.get()));
                self.foreign.insert(name, taken);
            }
        }
    }

    pub fn get(&self, te: &TaskExecution, number: u32) -> Option<&Pod> {
        let name = name(te, number);
        let ours = self.pods.get(&name).map(|(pod, _)| pod);
        ours.or_else(|| self.foreign.get(&name).map(|(pod, _)| pod))
    }

    /// All that exist and are ours.
    pub fn all(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(|(pod, _)| pod)
    }

    /// Whether the container of this attempt runs.
    pub fn runs(&self, te: &TaskExecution, number: u32) -> bool {
        let pod = self.pods.get(&name(te, number));
        pod.is_some_and(|(pod, _)| matches!(status::main_state(pod), status::Main::Running(_)))
    }

    /// Creates the pod of an attempt, or says in which words the API server refuses it.
    pub fn create(&mut self, te: &TaskExecution, number: u32, now: Time) -> Result<(), String> {
        let (case, task, name) = (&self.case.name, &key(te), name(te, number));
        let Some(attempt) = self.case.attempt(task, number) else {
            panic!("{case}: the script has no attempt {number} of {task}");
        };
        if let Some(refused) = &attempt.before.refused {
            let first = *self.refused.entry(name.clone()).or_insert(now);
            if refused
                .lasts
                .is_none_or(|lasts| now < first.after(lasts.get()))
            {
                return Err(refused.message.clone());
            }
        }
        let mut pod = attempt_pod(te, number, &PodSettings::default()).pod;
        pod.metadata.uid = Some(format!("uid-{name}"));
        pod.metadata.creation_timestamp = Some(status::seconds(now));
        self.created.push((task.clone(), pod.clone()));
        let before = self.pods.insert(name, (pod, attempt));
        assert!(
            before.is_none(),
            "{case}: the pod of {task} is created twice"
        );
        Ok(())
    }

    /// The operator deletes a pod.
    pub fn delete(&mut self, te: &TaskExecution, number: u32, now: Time) {
        if let Some((pod, _)) = self.pods.get_mut(&name(te, number)) {
            delete(pod, now);
        }
        self.drop_unheld();
    }

    /// The operator takes its finalizer off.
    pub fn release(&mut self, te: &TaskExecution, number: u32) {
        if let Some((pod, _)) = self.pods.get_mut(&name(te, number)) {
            pod.finalizers_mut()
                .retain(|name| name != FINALIZER_OUTCOME);
        }
        self.drop_unheld();
    }

    /// Everything that the cluster does by now. Whether that is something.
    pub fn advance(&mut self, now: Time) -> bool {
        let before = self.foreign.len();
        self.foreign.retain(|_, (_, until)| *until > now);
        let mut happened = self.foreign.len() < before;
        for (pod, attempt) in self.pods.values_mut() {
            while let Some((_, act)) = kubelet::next(attempt, pod).filter(|(at, _)| *at <= now) {
                happened = true;
                if apply(pod, act, now) {
                    if let Fate::Vanishes(Vanishes {
                        name_taken: Some(span),
                        ..
                    }) = attempt.fate
                    {
                        let taken = foreign(&pod.name_any());
                        self.foreign
                            .insert(pod.name_any(), (taken, now.after(span.get())));
                    }
                    break;
                }
            }
        }
        self.drop_unheld();
        happened
    }

    /// When the cluster does something next.
    pub fn next_moment(&self) -> Option<Time> {
        let pods = self.pods.values();
        let pods = pods.filter_map(|(pod, attempt)| Some(kubelet::next(attempt, pod)?.0));
        pods.chain(self.foreign.values().map(|(_, until)| *until))
            .min()
    }

    fn drop_unheld(&mut self) {
        self.pods.retain(|_, (pod, _)| !is_gone(pod));
    }
}

/// A pod of somebody else.
fn foreign(name: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod
}

fn name(te: &TaskExecution, number: u32) -> String {
    names::pod_name(&te.name_any(), number)
}

/// Whether a pod has no time and no finalizer left.
pub fn is_gone(pod: &Pod) -> bool {
    pod.metadata.deletion_grace_period_seconds == Some(0) && pod.finalizers().is_empty()
}

/// Whether that was the pod's end.
pub fn apply(pod: &mut Pod, act: kubelet::Act, now: Time) -> bool {
    match act {
        kubelet::Act::Bind(status) => {
            pod.spec.get_or_insert_default().node_name = Some(kubelet::NODE.to_owned());
            pod.status = Some(*status);
        }
        kubelet::Act::Report(status) => pod.status = Some(*status),
        kubelet::Act::Delete => delete(pod, now),
        kubelet::Act::Evict(status) => {
            pod.status = Some(*status);
            delete(pod, now);
        }
        kubelet::Act::Remove => remove(pod, now),
        kubelet::Act::Strip => {
            pod.metadata.finalizers = None;
            remove(pod, now);
            return true;
        }
    }
    false
}

/// A deletion as the API server takes it: without a node nobody has to be waited for.
pub fn delete(pod: &mut Pod, now: Time) {
    if pod.metadata.deletion_timestamp.is_some() {
        return;
    }
    let bound = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    let grace = if bound && !status::is_over(pod) {
        GRACE
    } else {
        0
    };
    let due = now.after(std::time::Duration::from_secs(grace.unsigned_abs()));
    pod.metadata.deletion_timestamp = Some(status::seconds(due));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
}

fn remove(pod: &mut Pod, now: Time) {
    pod.metadata
        .deletion_timestamp
        .get_or_insert(status::seconds(now));
    pod.metadata.deletion_grace_period_seconds = Some(0);
}
