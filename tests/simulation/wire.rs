//! Between the operator and the world: its requests on their way to the API server and back, and
//! its clock.

use std::sync::Arc;

use compozy::{api::Time, ports::Clock};
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    api_server::{self, Answer, Key, Kind, Lost, Refusal, Reply, Request, Verb},
    faults::Class,
    systematic::disturbance::{Disturbance, conflict_of},
    trace::fingerprint,
    world::{Order, Process, Shared, Since, World, time_at},
};

/// Milliseconds that a slow request or answer may take.
const SLOW: std::ops::Range<u64> = 500..25_000;

/// After so many milliseconds without a word a client gives a connection up.
const READ_TIMEOUT: u64 = 300_000;

/// After so long nobody waits for a list any more, be it that it stood still meanwhile.
const LIST_GIVEN_UP: u64 = 200_000;

/// So many milliseconds is a write under way that is late.
const LATE: u64 = 5_000;

/// Where a request's answer goes.
type Asker = oneshot::Sender<Result<Reply, Lost>>;

/// A request on its way to the API server.
pub struct InFlight {
    pub process: Process,
    pub request: Request,
    /// Whether it creates a pod, and that was the attempt's first when it was sent.
    first: bool,
    asker: Asker,
}

/// kube's client for a process of the operator.
pub fn client(world: &Shared, process: Process) -> kube::Client {
    let world = world.clone();
    api_server::client(move |request| {
        let (asker, answer) = oneshot::channel();
        world.lock().send(process, request, asker);
        async move { answer.await.unwrap_or(Err(Lost)) }
    })
}

impl World {
    /// A process sends a request.
    fn send(&mut self, process: Process, request: Request, asker: Asker) {
        self.catch_up();
        if !self.lives(process) {
            return self.never_answer(process, &request, asker);
        }
        if request.verb.writes() && request.kind != Kind::Lease {
            let leader = self.leader();
            self.laws
                .writes(&process.identity(), &leader, &request.line(), self.now());
            if process.identity() == leader {
                self.look_before(&request);
            }
        }
        // It may never be stored.
        if request.kind == Kind::Event && request.body["reason"] == "EventsLost" {
            self.laws.let_go();
        }
        let (identity, at) = (process.identity(), Instant::now());
        match request.kind {
            _ if !request.verb.writes() => {}
            Kind::Lease => self.laws.asks_for_lease(&identity, at),
            _ => self.laws.trusts(&identity, &request.line(), at),
        }
        let slow = self.faults.strikes(Class::SlowRequest, 0.01);
        let wait = match slow {
            true => self.faults.dice.u64(SLOW),
            false => self.faults.dice.u64(0..3),
        };
        let creates_pod = request.kind == Kind::Pod && request.verb == Verb::Create;
        let first = creates_pod && self.laws.is_its_first(&request.body);
        let way = InFlight {
            process,
            request,
            first,
            asker,
        };
        self.later(wait, move |world| world.arrive(way));
    }

    /// What the laws say to a write that the leader decided upon. It may come late.
    fn look_before(&mut self, request: &Request) {
        let (body, namespace) = (&request.body, &request.namespace);
        let named = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match (request.verb, request.kind) {
            (Verb::Create, Kind::TaskExecution) => {
                let run = named(&body["spec"]["workflow"]["name"]);
                if let Some(run) = self.api.get(Kind::Workflow, namespace, &run) {
                    self.laws.schedules(body, run);
                }
            }
            (Verb::Create, Kind::Pod) => {
                let owner = named(&body["metadata"]["ownerReferences"][0]["name"]);
                if let Some(owner) = self.api.get(Kind::TaskExecution, namespace, &owner) {
                    self.laws.dispatches(body, owner);
                }
            }
            (Verb::Delete, Kind::Workflow) => {
                let is_right = !self.faults.fired.contains_key(&Class::ClockJump);
                let now = is_right.then(|| Time(self.time()));
                let meant = &body["preconditions"]["uid"];
                let found = self.api.get(Kind::Workflow, namespace, &request.name);
                // Another one of that name is refused.
                let is_meant =
                    |run: &&Arc<Value>| meant.is_null() || run["metadata"]["uid"] == *meant;
                if let Some(run) = found.filter(is_meant) {
                    self.laws.expires(run, now);
                }
            }
            _ => {}
        }
    }

    fn never_answer(&mut self, process: Process, request: &Request, asker: Asker) {
        if request.verb != Verb::List {
            // As the client's own timeout has it, which `process.rs` sets.
            return self.later(READ_TIMEOUT, move |_| drop(asker.send(Err(Lost))));
        }
        // Who waits for it for as long as the client likes does not see what there is.
        let what = format!("{} waits for {}", process.identity(), request.line());
        self.later(LIST_GIVEN_UP, move |world| {
            if world.lives(process) && !asker.is_closed() {
                let what = format!("a list that is not answered is asked for anew: {what}");
                world.laws.broken.push(what);
            }
        });
    }

    /// The request reaches the API server.
    pub fn arrive(&mut self, way: InFlight) {
        let process = way.process;
        let writes = way.request.verb.writes() && way.request.kind != Kind::Lease;
        if self.replicas[process.replica].cut_off {
            return self.never_answer(process, &way.request, way.asker);
        }
        if self.api_away {
            return drop(way.asker.send(Err(Lost)));
        }
        let effect = writes && self.lives(process);
        if effect && self.before_effect(process) {
            return self.never_answer(process, &way.request, way.asker);
        }
        if effect && self.course.strikes(Disturbance::Late) {
            return self.later(LATE, move |world| world.arrive(way));
        }
        if effect && self.course.strikes(Disturbance::Overtaken) {
            return self.hold_until_overtaken(way);
        }
        let InFlight { request, asker, .. } = way;
        let lost = effect && self.course.strikes(Disturbance::RequestLost);
        if lost || self.faults.strikes(Class::RequestLost, 0.01) {
            self.note(process, &request, "lost");
            return drop(asker.send(Err(Lost)));
        }
        let conflict = effect && self.course.strikes(Disturbance::Conflict);
        let refusal = match conflict {
            true => Some(conflict_of(&request)),
            false => self.refusal(&request),
        };
        if let Some(refusal) = refusal {
            self.note(process, &request, &format!("refused {}", refusal.code()));
            if effect && self.disturbed_after_refusal(process) {
                return drop(asker.send(Err(Lost)));
            }
            return self.answer(asker, api_server::refused(&refusal));
        }
        if effect && request.kind == Kind::Pod && request.verb == Verb::Delete {
            self.disturbed_before_pod_deletion(&request.name);
        }
        self.look_at(process, &request);
        self.laws.arrives(way.first);
        let leader = self.leader();
        let answer = match self.stale_list(&request) {
            Some(list) => Ok(list),
            None => self.api.handle(self.time(), &request),
        };
        let code = answer.as_ref().map_or_else(Refusal::code, |answer| {
            if let Answer::Done(done) = answer {
                done.code
            } else {
                200
            }
        });
        self.note(process, &request, &code.to_string());
        if writes && code < 300 {
            self.last_write = self.now();
            self.overtakes(&request.key());
        }
        // Who has only begun to lead has yet to find out what there is to do.
        if request.kind == Kind::Lease && self.leader() != leader {
            self.last_write = self.now();
        }
        if effect && self.after_effect(process) {
            return self.never_answer(process, &request, asker);
        }
        if effect && self.disturbed_after_effect(process) {
            return drop(asker.send(Err(Lost)));
        }
        if request.verb != Verb::Watch {
            if self.faults.strikes(Class::AnswerLost, 0.01) {
                return drop(asker.send(Err(Lost)));
            }
            if self.faults.strikes(Class::AnswerNever, 0.005) {
                return self.never_answer(process, &request, asker);
            }
        }
        let run_goes = effect && code < 300 && self.is_gone_run(&request.key());
        let late = run_goes && self.replaced();
        let reply = match answer {
            Ok(Answer::Done(done)) => api_server::whole(done.code, &done.body),
            Err(refusal) => api_server::refused(&refusal),
            Ok(Answer::Watch(watch)) => {
                let (sender, receiver) = mpsc::unbounded_channel();
                self.follow(watch, sender, process);
                api_server::stream(stream::unfold(receiver, |mut receiver| async move {
                    let event = receiver.recv().await?;
                    Some((event, receiver))
                }))
            }
        };
        if late {
            return self.later(LATE, move |_| drop(asker.send(Ok(reply))));
        }
        self.answer(asker, reply);
    }

    /// What the laws say to a request that is about to be done.
    fn look_at(&mut self, process: Process, request: &Request) {
        if self.is_overdue(process, request) {
            self.laws.let_go();
        }
        if request.kind == Kind::Pod && request.verb == Verb::Delete {
            let (namespace, name) = (&request.namespace, &request.name);
            let pod = self.api.get(Kind::Pod, namespace, name).cloned();
            let of = name.rsplit_once('-').map_or("", |(of, _)| of);
            let execution = self.api.get(Kind::TaskExecution, namespace, of).cloned();
            if let Some(pod) = pod {
                self.laws.deletes(&pod, execution.as_deref());
                self.laws.deletes_by(&pod, &request.body["preconditions"]);
            }
        }
        if request.kind == Kind::Pod && matches!(request.verb, Verb::Patch(_)) {
            let (namespace, name) = (&request.namespace, &request.name);
            let of = name.rsplit_once('-').map_or("", |(of, _)| of);
            let execution = self.api.get(Kind::TaskExecution, namespace, of);
            if let Some(pod) = self.api.get(Kind::Pod, namespace, name) {
                self.laws.releases(pod, execution.map(|it| &**it));
            }
        }
    }

    /// Whether a deleted object that has waited for NATS as long as it had to is let go without a receipt. An Event is to
    /// say so, if the operator lives to write it.
    fn is_overdue(&self, process: Process, request: &Request) -> bool {
        let metadata = &request.body["metadata"];
        let lets_go = matches!(request.verb, Verb::Patch(_))
            && metadata.get("finalizers").is_some()
            && metadata.get("annotations").is_none();
        let (namespace, name) = (&request.namespace, &request.name);
        let found = self
            .api
            .get(request.kind, namespace, name)
            .filter(|_| lets_go);
        let deleted = found.and_then(|found| {
            found["metadata"]["deletionTimestamp"]
                .as_str()?
                .parse::<Timestamp>()
                .ok()
        });
        let grace = i64::try_from(self.scenario.grace).unwrap_or(i64::MAX);
        let now = self.time() + SignedDuration::from_millis(self.replicas[process.replica].clock);
        deleted.is_some_and(|deleted| now >= deleted + SignedDuration::from_secs(grace))
    }

    fn is_gone_run(&self, key: &Key) -> bool {
        let found = self.api.get(key.kind, &key.namespace, &key.name);
        key.kind == Kind::Workflow && found.is_none()
    }

    fn answer(&mut self, asker: Asker, reply: Reply) {
        let wait = match self.faults.strikes(Class::SlowAnswer, 0.01) {
            true => self.faults.dice.u64(SLOW),
            false => self.faults.dice.u64(0..3),
        };
        self.later(wait, move |_| drop(asker.send(Ok(reply))));
    }

    /// Whether the process dies before this write is done.
    fn before_effect(&mut self, process: Process) -> bool {
        self.effects += 1;
        self.course.write(self.api.revision());
        let planned = self.course.strikes(Disturbance::CrashBefore);
        if planned || self.faults.strikes(Class::CrashBeforeEffect, 0.01) {
            self.say("fault", "CrashBeforeEffect");
            self.kill(process);
            return true;
        }
        self.disturbed_before_effect(process)
    }

    /// What goes wrong after a write may do so after its refusal.
    fn disturbed_after_refusal(&mut self, process: Process) -> bool {
        self.course.place.is_some()
            && (self.after_effect(process) || self.disturbed_after_effect(process))
    }

    /// Whether the process dies after this write, before it has the answer.
    fn after_effect(&mut self, process: Process) -> bool {
        let planned = self.course.strikes(Disturbance::CrashAfter);
        if planned || self.faults.strikes(Class::CrashAfterEffect, 0.01) {
            self.say("fault", "CrashAfterEffect");
            self.kill(process);
            return true;
        }
        false
    }

    /// A process dies now; its replica comes back.
    pub fn kill(&mut self, process: Process) {
        let Process { replica, .. } = process;
        self.replicas[replica].lives = false;
        self.orders.push(Order::Crash(replica));
        let wait = self.faults.dice.u64(500..20_000);
        self.later(wait, move |world| world.orders.push(Order::Start(replica)));
    }

    /// What the API server says instead of doing it.
    fn refusal(&mut self, request: &Request) -> Option<Refusal> {
        let resource = request.kind.resource();
        let name = request.key().name;
        let creates = request.verb == Verb::Create;
        if self.overloaded && request.kind != Kind::Lease {
            return Some(Refusal::too_many_requests(1));
        }
        if creates
            && request.kind == Kind::Pod
            && let Some(message) = self.refused_by_script(&request.body)
        {
            return Some(Refusal::new(403, "Forbidden", message));
        }
        if creates && request.kind == Kind::Pod && self.no_pods {
            return Some(Refusal::over_quota(resource, &name));
        }
        if creates && request.kind == Kind::TaskExecution && self.no_executions {
            return Some(Refusal::by_webhook("not now"));
        }
        let guarded = matches!(request.verb, Verb::Update | Verb::Patch(_) | Verb::Delete);
        if guarded && self.faults.strikes(Class::Conflict, 0.02) {
            return Some(Refusal::modified(resource, &name));
        }
        if self.faults.strikes(Class::TooMany, 0.02) {
            return Some(Refusal::too_many_requests(1));
        }
        if self.faults.strikes(Class::Internal, 0.02) {
            return Some(Refusal::internal("etcdserver: leader changed"));
        }
        if self.faults.strikes(Class::Unavailable, 0.02) {
            return Some(Refusal::unavailable());
        }
        None
    }

    fn note(&mut self, process: Process, request: &Request, result: &str) {
        // An Event carries the time of the machine.
        let body = match request.kind {
            Kind::Event => String::new(),
            _ if request.body.is_null() => String::new(),
            _ => format!(" #{:08x}", fingerprint(&request.body.to_string()) >> 32),
        };
        let line = request.line();
        let who = format!("op{}.{}", process.replica, process.life);
        self.say(&who, &format!("{line}{body} -> {result}"));
    }
}

/// A process's clock: the world's, and what it is off by.
pub struct SimClock {
    world: Shared,
    process: Process,
    since: Since,
}

impl SimClock {
    pub fn new(world: &Shared, process: Process, since: Since) -> Arc<SimClock> {
        Arc::new(SimClock {
            world: world.clone(),
            process,
            since,
        })
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let passed = self.since.now();
        let mut world = self.world.lock();
        world.looked_at_the_clock(passed);
        let off = world.replicas[self.process.replica].clock;
        drop(world);
        let now = time_at(passed);
        now.saturating_add(SignedDuration::from_millis(off))
            .unwrap_or(now)
    }
}
