//! Pods live and die as their scripts say. What comes next is worked out from the pod as it is
//! stored, so it does not matter how often somebody looks.

use compozy::api::Time;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api_server::{Key, Kind, Request},
    corpus::{
        kubelet::{self, Act, NODE, status},
        script::{Attempt, Fate, Loss},
    },
    faults::Class,
    world::{World, time_at},
};

/// A node that does not answer is taken away by somebody after so many milliseconds.
const GIVEN_UP: std::ops::Range<u64> = 60_000..400_000;

impl World {
    /// Puts on the agenda what happens to a pod next.
    pub fn attend(&mut self, key: Key) {
        let Some((pod, attempt)) = self.scripted(&key) else {
            return;
        };
        let wait = match kubelet::next(&attempt, &pod) {
            Some((at, act)) => {
                let slow = match act {
                    // So late that nothing but the pod's end tells of it.
                    Act::Strip if pod.finalizers().is_empty() => self.faults.dice.u64(100..1000),
                    _ if self.faults.strikes(Class::SlowKubelet, 0.05) => {
                        self.faults.dice.u64(1000..15_000)
                    }
                    _ => self.faults.dice.u64(0..80),
                };
                self.until(at.0) + slow
            }
            // In a case it is there as long as the case lasts.
            None if is_silent(&attempt, &pod) && self.case.is_some() => GIVEN_UP.end,
            None if is_silent(&attempt, &pod) => self.faults.dice.u64(GIVEN_UP),
            None => return,
        };
        self.later(wait, move |world| world.tend(&key));
    }

    /// Milliseconds until then.
    fn until(&self, at: Timestamp) -> u64 {
        let wait = at.as_millisecond() - time_at(self.now()).as_millisecond();
        u64::try_from(wait).unwrap_or(0)
    }

    fn scripted(&self, key: &Key) -> Option<(Pod, Attempt)> {
        let stored = self.api.get(Kind::Pod, &key.namespace, &key.name)?;
        let pod = Pod::deserialize(&**stored).ok()?;
        let attempt = self.scenario.attempt(&pod)?;
        Some((pod, attempt))
    }

    /// Does what is due, if anything is.
    fn tend(&mut self, key: &Key) {
        let Some((pod, attempt)) = self.scripted(key) else {
            return;
        };
        let now = Time(self.time());
        match kubelet::next(&attempt, &pod) {
            Some((at, act)) if at <= now => self.play(key, &pod, act),
            None if is_silent(&attempt, &pod) => {
                let text = "PodGC: node no longer exists";
                let mut status = status::disrupted(&pod, "DeletionByPodGC", text, now);
                status.phase = Some("Failed".to_owned());
                self.play(key, &pod, Act::Report(Box::new(status)));
            }
            _ => {}
        }
    }

    fn play(&mut self, key: &Key, pod: &Pod, act: Act) {
        let Some(stored) = self.api.get(Kind::Pod, &key.namespace, &key.name).cloned() else {
            return;
        };
        let mut object = (*stored).clone();
        let delete = || Request::delete(Kind::Pod, &key.namespace, &key.name, Value::Null);
        match act {
            Act::Bind(status) => {
                object["spec"]["nodeName"] = json!(NODE);
                object["status"] = json!(status);
                self.store("sched", key.clone(), object);
            }
            Act::Report(status) => {
                object["status"] = json!(status);
                self.store("node", key.clone(), object);
            }
            Act::Delete => drop(self.ask("user", &delete())),
            Act::Evict(status) => {
                object["status"] = json!(status);
                self.store("evict", key.clone(), object);
                drop(self.ask("evict", &delete()));
            }
            Act::Remove => drop(self.ask("node", &Request::kubelet_delete(&object))),
            Act::Strip => {
                self.laws
                    .stripped(pod.metadata.uid.as_deref().unwrap_or_default());
                // In two acts: who missed the end of the pod has seen the first one.
                if !pod.finalizers().is_empty() {
                    return self.unhold(Kind::Pod, key);
                }
                self.take_away(Kind::Pod, key);
                let attempt = self.scenario.attempt(pod);
                if let Some(Fate::Vanishes(vanishes)) = attempt.map(|attempt| attempt.fate)
                    && let Some(span) = vanishes.name_taken
                {
                    let span = u64::try_from(span.get().as_millis()).unwrap_or(u64::MAX);
                    self.take_name(&key.name, span);
                }
            }
        }
    }

    /// Takes an object away, finalizers and all.
    pub fn strip(&mut self, kind: Kind, key: &Key) {
        self.unhold(kind, key);
        self.take_away(kind, key);
    }

    pub fn unhold(&mut self, kind: Kind, key: &Key) {
        let patch = json!({"metadata": {"finalizers": null}});
        let request = Request::merge_patch(kind, &key.namespace, &key.name, patch);
        drop(self.ask("user", &request));
    }

    pub fn take_away(&mut self, kind: Kind, key: &Key) {
        let now = json!({"gracePeriodSeconds": 0});
        let request = Request::delete(kind, &key.namespace, &key.name, now);
        drop(self.ask("user", &request));
    }
}

fn is_silent(attempt: &Attempt, pod: &Pod) -> bool {
    let lost = matches!(&attempt.fate, Fate::NodeLost(lost) if lost.how == Loss::Silent);
    lost && matches!(status::main_state(pod), status::Main::Running(_)) && !status::is_over(pod)
}
