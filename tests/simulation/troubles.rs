//! What happens to the world as time goes by: users, and troubles that begin and end.

use compozy::api::Time;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{
    api_server::{Key, Kind, Request},
    bus::Kept,
    corpus::kubelet::status::{self, End},
    faults::Class,
    laws::place,
    scenario::{Act, Planned},
    world::{LEASE, NAMESPACE, OPERATOR_NAMESPACE, Order, Process, World, time_at},
};

/// Troubles that come from time to time; the others strike with requests.
const TROUBLES: &[Class] = &[
    Class::ApiAway,
    Class::QuotaExceeded,
    Class::WebhookRefuses,
    Class::CrdMissing,
    Class::NamespaceEnds,
    Class::InvalidStored,
    Class::WatchCut,
    Class::WatchGone,
    Class::WatchRepeats,
    Class::PodDeleted,
    Class::PodStripped,
    Class::ExecutionDeleted,
    Class::ExecutionStripped,
    Class::WorkflowDeleted,
    Class::WorkflowRecreated,
    Class::WorkflowStripped,
    Class::NameTaken,
    Class::LeaseDeleted,
    Class::LeaseTaken,
    Class::Crash,
    Class::Restart,
    Class::Frozen,
    Class::CutOff,
    Class::ClockJump,
    Class::BusAway,
    Class::BusLeaderless,
    Class::BusEmptied,
    Class::BusEndLost,
    Class::BusRetired,
    Class::BusFull,
    Class::Overloaded,
    Class::PodTakenUnseen,
];

/// After so many milliseconds of quiet users end what has not ended by itself.
const USERS_PATIENCE: u64 = 20 * 60_000;

/// The tool may be defined so many milliseconds late.
const CARE_BEGINS: u64 = 30_000;

/// So long a user still tries to create something when all is quiet.
const PERSISTENCE: u64 = 60_000;

/// A stored object of no version that there ever was.
const UNREADABLE: &str = "unreadable";

impl World {
    /// Puts all that is planned on the agenda.
    pub fn begin(&mut self) {
        for replica in 0..self.scenario.replicas {
            let wait = self.faults.dice.u64(0..500);
            self.later(wait, move |world| world.orders.push(Order::Start(replica)));
        }
        for planned in self.scenario.workflows.clone() {
            self.later(planned.at, move |world| world.create(&planned));
        }
        for (at, name, act) in self.scenario.acts.clone() {
            self.later(at, move |world| world.act(&name, act));
        }
        self.begin_case();
        if self.scenario.tools {
            let wait = self.faults.dice.u64(0..CARE_BEGINS);
            self.later(wait, World::keep_tool);
        }
        if self.scenario.pools {
            self.begin_pools();
        }
        if self.faults.are_on() {
            let wait = self.faults.dice.u64(0..5000);
            self.later(wait, World::trouble);
        }
        self.later(self.scenario.quiet_at, World::quiet);
    }

    pub fn create(&mut self, planned: &Planned) {
        let body = json!({"metadata": {"name": planned.name}, "spec": planned.spec});
        let request = Request::create(Kind::Workflow, NAMESPACE, body);
        if let Err(refusal) = self.ask("user", &request) {
            self.say("user", &refusal.body()["message"].to_string());
            // Its predecessor goes first, or the CRD or the namespace comes back.
            let gives_up = self.now() > self.scenario.quiet_at + PERSISTENCE;
            if matches!(refusal.code(), 403 | 404 | 409) && !gives_up {
                let planned = planned.clone();
                // As long as a user still tries the world is not at rest.
                self.last_start = self.now();
                self.later(700, move |world| world.create(&planned));
            }
        }
    }

    fn act(&mut self, name: &str, act: Act) {
        let request = match act {
            Act::Patch(patch) => Request::merge_patch(Kind::Workflow, NAMESPACE, name, patch),
            Act::Delete => Request::delete(Kind::Workflow, NAMESPACE, name, Value::Null),
        };
        let _ = self.ask("user", &request);
    }

    fn trouble(&mut self) {
        if !self.faults.are_on() {
            return;
        }
        if let Some(class) = self.faults.one_of(TROUBLES) {
            self.happen(class);
        }
        let wait = self.faults.dice.u64(200..9000);
        self.later(wait, World::trouble);
    }

    /// A trouble happens, if there is something that it can happen to.
    fn happen(&mut self, class: Class) {
        let short = self.faults.dice.u64(500..30_000);
        let happened = match class {
            Class::ApiAway => self.for_a_while(short, |world, away| {
                world.api_away = away;
                if away {
                    world.cut_watches(false);
                }
            }),
            Class::QuotaExceeded => self.for_a_while(short, |world, on| world.no_pods = on),
            Class::Overloaded => self.for_a_while(short * 2, |world, on| world.overloaded = on),
            Class::WebhookRefuses => self.for_a_while(short, |world, on| world.no_executions = on),
            Class::CrdMissing => {
                let kind = match self.faults.dice.bool() {
                    true => Kind::Workflow,
                    false => Kind::TaskExecution,
                };
                self.for_a_while(short, move |world, missing| {
                    world.api.serve(kind, !missing);
                    if missing {
                        world.cut_watches(false);
                    }
                })
            }
            Class::NamespaceEnds => self.end_namespace(),
            Class::InvalidStored => self.store_unreadable(),
            Class::WatchCut => {
                self.cut_one_watch();
                true
            }
            Class::WatchGone => {
                self.cut_watches(true);
                true
            }
            Class::PodTakenUnseen => {
                self.cut_watches(true);
                self.take(Kind::Pod, true)
            }
            Class::WatchRepeats => {
                self.repeat_events();
                true
            }
            Class::PodDeleted | Class::PodStripped => {
                self.take(Kind::Pod, class == Class::PodStripped)
            }
            Class::ExecutionDeleted | Class::ExecutionStripped => {
                self.take(Kind::TaskExecution, class == Class::ExecutionStripped)
            }
            Class::WorkflowDeleted | Class::WorkflowStripped => {
                self.take(Kind::Workflow, class == Class::WorkflowStripped)
            }
            Class::WorkflowRecreated => self.create_anew(),
            Class::NameTaken => self.take_a_name(),
            Class::LeaseDeleted => {
                let request = Request::delete(Kind::Lease, OPERATOR_NAMESPACE, LEASE, Value::Null);
                self.ask("user", &request).is_ok()
            }
            Class::LeaseTaken => self.take_lease(),
            Class::Crash | Class::Restart | Class::CutOff | Class::ClockJump => {
                self.operator_trouble(class)
            }
            Class::Frozen => {
                let span = self.faults.dice.u64(1000..45_000);
                self.orders.push(Order::Freeze(span));
                true
            }
            _ => self.bus_trouble(class, short),
        };
        if happened {
            self.strike(class);
        }
        if happened && matches!(class, Class::LeaseDeleted | Class::LeaseTaken) {
            let now = self.now();
            self.laws.lease_tampered(now);
        }
    }

    /// Turns something on, and off again after a while.
    fn for_a_while(&mut self, span: u64, turn: impl Fn(&mut World, bool) + Send + 'static) -> bool {
        turn(self, true);
        self.later(span, move |world| turn(world, false));
        true
    }

    fn store_unreadable(&mut self) -> bool {
        let kind = match self.faults.dice.bool() {
            true => Kind::Workflow,
            false => Kind::TaskExecution,
        };
        let resource = kind.resource();
        let object = json!({
            "apiVersion": resource.api_version(), "kind": resource.kind,
            "metadata": {"name": UNREADABLE, "namespace": NAMESPACE, "uid": "unreadable",
                         "creationTimestamp": "2025-01-01T00:00:00Z"},
            "spec": {"tasks": "many", "task": 7},
        });
        self.store("user", Key::new(kind, NAMESPACE, UNREADABLE), object);
        true
    }

    fn any(&mut self, kind: Kind) -> Option<Key> {
        let all = self.all(kind).into_iter().map(|(key, _)| key);
        let all: Vec<_> = all.filter(|key| key.name != UNREADABLE).collect();
        self.faults.dice.choice(all)
    }

    /// Somebody deletes an object, or takes it away at once.
    fn take(&mut self, kind: Kind, by_force: bool) -> bool {
        let Some(key) = self.any(kind) else {
            return false;
        };
        if !by_force {
            let request = Request::delete(kind, &key.namespace, &key.name, Value::Null);
            return self.ask("user", &request).is_ok();
        }
        let object = self.api.get(kind, &key.namespace, &key.name).cloned();
        let uid = object.and_then(|object| object["metadata"]["uid"].as_str().map(str::to_owned));
        self.laws.stripped(&uid.unwrap_or_default());
        self.unhold(kind, &key);
        // Nothing but its end tells of the second act, if it comes after whatever the first one led to.
        let wait = match kind {
            Kind::Pod => self.faults.dice.u64(0..2000),
            _ => 0,
        };
        self.later(wait, move |world| world.take_away(kind, &key));
        true
    }

    /// A workflow is taken away, and another one made under its name at once or soon.
    fn create_anew(&mut self) -> bool {
        let Some(key) = self.any(Kind::Workflow) else {
            return false;
        };
        let planned = self
            .scenario
            .workflows
            .iter()
            .find(|planned| planned.name == key.name);
        let Some(planned) = planned.cloned() else {
            return false;
        };
        let by_force = self.faults.dice.bool();
        if by_force {
            let object = self
                .api
                .get(Kind::Workflow, &key.namespace, &key.name)
                .cloned();
            let uid =
                object.and_then(|object| object["metadata"]["uid"].as_str().map(str::to_owned));
            self.laws.stripped(&uid.unwrap_or_default());
            self.strip(Kind::Workflow, &key);
        } else {
            self.act(&key.name, Act::Delete);
        }
        self.create(&planned);
        true
    }

    /// Somebody's pod gets the name that the next pod of a task execution would have.
    fn take_a_name(&mut self) -> bool {
        let Some(key) = self.any(Kind::TaskExecution) else {
            return false;
        };
        let attempt = self.faults.dice.u32(1..4);
        let span = self.faults.dice.u64(5000..60_000);
        self.take_name(&format!("{}-{attempt}", key.name), span)
    }

    /// A stranger's pod has this name for a while, if nobody else's has. It has ended well, so whoever takes it for ours
    /// takes a task for done.
    pub fn take_name(&mut self, name: &str, span: u64) -> bool {
        let body = json!({
            "metadata": {"name": name, "labels": {"stranger": "yes"}},
            "spec": {"containers": [{"name": "main", "image": "busybox:1.36"}]},
        });
        let created = self.ask("user", &Request::create(Kind::Pod, NAMESPACE, body));
        let key = Key::new(Kind::Pod, NAMESPACE, name);
        let Some(pod) = created
            .ok()
            .and_then(|_| self.api.get(key.kind, NAMESPACE, name))
        else {
            return false;
        };
        let mut pod = (**pod).clone();
        let end = End::new(0, "Completed", Time(self.time()));
        let mut ended = status::terminated(&Pod::default(), &end);
        ended.phase = Some("Succeeded".to_owned());
        pod["status"] = json!(ended);
        self.store("node", key.clone(), pod);
        self.later(span, move |world| world.remove_stranger(&key));
        true
    }

    pub fn remove_stranger(&mut self, key: &Key) {
        let pod = self.api.get(Kind::Pod, &key.namespace, &key.name).cloned();
        if pod.is_some_and(|pod| is_a_strangers(&pod)) {
            self.strip(Kind::Pod, key);
        }
    }

    fn take_lease(&mut self) -> bool {
        let now = time_at(self.now()).to_string();
        let patch = json!({"spec": {"holderIdentity": "somebody", "renewTime": now,
                                     "acquireTime": now, "leaseDurationSeconds": 15}});
        let request = Request::merge_patch(Kind::Lease, OPERATOR_NAMESPACE, LEASE, patch);
        self.ask("user", &request).is_ok()
    }

    fn operator_trouble(&mut self, class: Class) -> bool {
        let living: Vec<usize> = (0..self.replicas.len())
            .filter(|replica| self.replicas[*replica].lives)
            .collect();
        let Some(replica) = self.faults.dice.choice(living) else {
            return false;
        };
        match class {
            Class::Crash => {
                let life = self.replicas[replica].life;
                self.kill(Process { replica, life });
            }
            Class::Restart => self.orders.push(Order::End(replica)),
            Class::CutOff => {
                let span = self.faults.dice.u64(3000..60_000);
                return self.for_a_while(span, move |world, cut| {
                    world.replicas[replica].cut_off = cut;
                    world.tell_all();
                });
            }
            _ => {
                let seconds = self.faults.dice.i64(-100_000..100_000);
                self.replicas[replica].clock += seconds;
                self.laws.clock_set();
            }
        }
        true
    }

    fn bus_trouble(&mut self, class: Class, span: u64) -> bool {
        let count = self.faults.dice.usize(1..12);
        let there = !self.bus.messages.is_empty();
        match class {
            Class::BusAway => return self.for_a_while(span * 3, World::set_away),
            Class::BusLeaderless => {
                return self.for_a_while(span, |world, on| world.bus.leaderless = on);
            }
            Class::BusFull => return self.for_a_while(span, |world, on| world.bus.full = on),
            Class::BusEmptied => {
                self.bus.empty();
                self.forget_answers();
            }
            Class::BusEndLost if there => {
                self.bus.lose_end(count);
                self.forget_answers();
                self.power_fails();
            }
            Class::BusRetired if there => {
                self.bus.retire(count);
                let left = self.left_in_stream();
                self.laws.stream_retired(&left);
                return true;
            }
            _ => return false,
        }
        let left = self.left_in_stream();
        let now = self.now();
        self.laws.stream_lost(&left, now);
        // It was a restart of the server.
        self.forget_pools();
        self.for_a_while(300, World::set_away)
    }

    /// A message is stored. A server that does not have it yet may lead soon: what is not there any more nobody is told
    /// of, for no connection breaks.
    pub fn may_fall_behind(&mut self) {
        if !self.bus.clustered || !self.faults.strikes(Class::BusBehind, 0.05) {
            return;
        }
        let (wait, count) = (
            self.faults.dice.u64(300..3000),
            self.faults.dice.usize(1..4),
        );
        self.later(wait, move |world| {
            if !world.faults.are_on() {
                return;
            }
            world.say("fault", "BusBehind");
            world.bus.lose_end(count);
            let (left, now) = (world.left_in_stream(), world.now());
            world.laws.stream_lost(&left, now);
        });
    }

    /// NATS cannot be reached, or can again.
    pub fn set_away(&mut self, away: bool) {
        self.bus.away = away;
        match away {
            true => self.pools_disconnect(),
            false => self.reconnect(),
        }
    }

    /// What takes the end of a stream may take an operator with it, before it noticed.
    fn power_fails(&mut self) {
        let replica = self.faults.dice.usize(..self.replicas.len());
        let state = &self.replicas[replica];
        let process = Process {
            replica,
            life: state.life,
        };
        if state.lives && self.faults.dice.u8(..4) == 0 {
            let wait = self.faults.dice.u64(0..2000);
            self.later(wait, move |world| {
                if world.faults.are_on() && world.lives(process) {
                    world.strike(Class::Crash);
                    world.kill(process);
                }
            });
        }
    }

    pub fn left_in_stream(&self) -> Vec<(String, u64)> {
        let kept = self.bus.messages.iter();
        kept.filter_map(|Kept { message, .. }| place(message))
            .collect()
    }

    /// Nothing goes wrong any more: whatever is broken is mended.
    fn quiet(&mut self) {
        self.say("world", "quiet");
        self.faults.stop();
        self.api_away = false;
        self.no_pods = false;
        self.no_executions = false;
        self.overloaded = false;
        self.api.serve(Kind::Workflow, true);
        self.api.serve(Kind::TaskExecution, true);
        self.set_away(false);
        self.bus.leaderless = false;
        self.bus.full = false;
        for replica in &mut self.replicas {
            replica.cut_off = false;
            replica.clock = 0;
        }
        for (key, _) in self.all(Kind::Pod) {
            self.remove_stranger(&key);
        }
        for kind in [Kind::Workflow, Kind::TaskExecution] {
            self.strip(kind, &Key::new(kind, NAMESPACE, UNREADABLE));
        }
        self.tell_all();
        if self.case.is_none() {
            self.later(USERS_PATIENCE, World::lose_patience);
        }
    }

    fn lose_patience(&mut self) {
        for (key, workflow) in self.all(Kind::Workflow) {
            if workflow["status"]["finishedAt"].is_null() {
                self.stands_still(&workflow);
                let cancel = json!({"spec": {"cancel": {"reason": "it takes too long"}}});
                self.act(&key.name, Act::Patch(cancel));
            }
        }
    }
}

/// Whether a pod is of no task of ours, whatever its name.
pub fn is_a_strangers(pod: &Value) -> bool {
    pod["metadata"]["labels"]["stranger"] == "yes"
}
