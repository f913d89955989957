//! Everything outside of the operator, as plain data and a list of what happens when.
//!
//! One thread, a paused clock, one source of chance: the same seed gives the same world, byte for
//! byte. Nothing here waits: what takes time is put on the agenda.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc::UnboundedSender},
    time::Instant,
};

use crate::{
    api_server::{Answer, ApiServer, Event, Key, Kind, Lost, Refusal, Request, Verb, Watch},
    bus::JetStream,
    cases::UnderWay,
    faults::{Class, Faults},
    laws::Laws,
    pools::Pools,
    scenario::Scenario,
    systematic::disturbance::{Course, EventFate},
    tools::Tools,
    trace::Trace,
};

/// The namespace in which everything happens.
pub const NAMESPACE: &str = "default";
/// The operator's own.
pub const OPERATOR_NAMESPACE: &str = "compozy-system";
/// The name of the lease.
pub const LEASE: &str = "compozy-operator";

/// The replica that runs only while the others sleep.
pub const STANDBY: usize = 1;

/// When every world begins.
const START: i64 = 1_767_225_600;

/// Who looks at the clock so often while it stands still turns in a circle.
const LOOKS: u64 = 100_000;

/// After so many milliseconds the garbage collector tries again what was refused.
const GARBAGE_PAUSE: u64 = 5_000;

/// Events that come apart come so many milliseconds apart.
const MOMENT: u64 = 50;

type Deed = Box<dyn FnOnce(&mut World) + Send>;

/// A process of the operator: which replica, and which of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub replica: usize,
    pub life: u32,
}

impl Process {
    /// Who holds the lease.
    pub fn identity(self) -> String {
        format!("operator-{}-{}", self.replica, self.life)
    }
}

/// What the world asks of whoever runs the operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start this replica.
    Start(usize),
    /// Kill it.
    Crash(usize),
    /// Ask it to end.
    End(usize),
    /// All of them stand still for so many milliseconds.
    Freeze(u64),
    /// The same, and meanwhile the standby runs on a machine of its own.
    Sleep(u64),
}

/// A replica as the world sees it.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    pub life: u32,
    pub lives: bool,
    /// The API server does not hear it.
    pub cut_off: bool,
    /// Its clock is off by so many milliseconds.
    pub clock: i64,
}

/// A runtime's clock, and what of the world's time had passed when it began.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    began: Instant,
    passed: u64,
}

impl Since {
    /// A clock that begins now, so many milliseconds after the world's beginning.
    pub fn after(passed: u64) -> Since {
        Since {
            began: Instant::now(),
            passed,
        }
    }

    /// Milliseconds since the world's beginning.
    pub fn now(self) -> u64 {
        let here = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.passed.saturating_add(here)
    }

    /// The moment so many milliseconds after the world's beginning.
    pub fn at(self, passed: u64) -> Instant {
        self.began + Duration::from_millis(passed.saturating_sub(self.passed))
    }
}

struct Follower {
    watch: Watch,
    sender: UnboundedSender<Result<Event, Lost>>,
    process: Process,
    /// Nothing is told before.
    not_before: u64,
    last: Option<Event>,
}

/// The world.
pub struct World {
    pub api: ApiServer,
    pub bus: JetStream,
    pub tools: Tools,
    pub pools: Pools,
    pub faults: Faults,
    pub scenario: Scenario,
    pub trace: Trace,
    pub laws: Laws,
    pub orders: Vec<Order>,
    pub replicas: Vec<Replica>,
    /// Nothing connects to the API server.
    pub api_away: bool,
    /// The quota is used up.
    pub no_pods: bool,
    /// A webhook says no to task executions.
    pub no_executions: bool,
    /// The API server has too much to do. Leases have a share of their own.
    pub overloaded: bool,
    /// When the operator last wrote anything but its lease.
    pub last_write: u64,
    /// The operator's writes that reached the API server, counted.
    pub effects: u64,
    /// How often the operators looked at the clock while it stood still, and when that was.
    looks: (u64, u64),
    /// When an operator last started, or could go on after it was frozen.
    pub last_start: u64,
    /// What happened so far, counted, and what is to go wrong where.
    pub course: Course,
    /// The case of the corpus that is played, if one is.
    pub case: Option<UnderWay>,
    now: u64,
    /// The beginning, on the operators' clock.
    start: Option<Since>,
    agenda: BTreeMap<(u64, u64), Deed>,
    serial: u64,
    followers: BTreeMap<u64, Follower>,
    taken_in: u64,
    wake: Arc<Notify>,
}

/// The world as many hold it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub fn new(world: World) -> Shared {
        Shared(Arc::new(Mutex::new(world)))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    pub fn new(seed: u64, faults: Faults, scenario: Scenario, replicas: usize) -> World {
        let api = ApiServer::new(1, &[NAMESPACE, OPERATOR_NAMESPACE]);
        World {
            taken_in: api.revision(),
            api,
            bus: JetStream::new(seed.is_multiple_of(2)),
            tools: Tools::default(),
            pools: Pools::new(seed.is_multiple_of(2)),
            faults,
            case: scenario.case.clone().map(UnderWay::new),
            scenario,
            trace: Trace::default(),
            laws: Laws::default(),
            orders: Vec::new(),
            replicas: vec![Replica::default(); replicas],
            api_away: false,
            no_pods: false,
            no_executions: false,
            overloaded: false,
            last_write: 0,
            effects: 0,
            looks: (0, 0),
            last_start: 0,
            course: Course::default(),
            now: 0,
            start: None,
            agenda: BTreeMap::new(),
            serial: 0,
            followers: BTreeMap::new(),
            wake: Arc::default(),
        }
    }

    /// The operators' clock begins now.
    pub fn start_clock(&mut self, start: Since) {
        self.start = Some(start);
    }

    /// An operator does something by its own timer: it may be later than the last deed.
    pub fn catch_up(&mut self) {
        self.now = self.now.max(self.start.map_or(0, Since::now));
    }

    /// The operators go on, who stood still until now.
    pub fn wakes(&mut self, now: u64) {
        self.last_start = now;
        self.laws.pools_heard_again(now);
    }

    /// Milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The time of day, of everybody whose clock is right.
    pub fn time(&self) -> Timestamp {
        time_at(self.now)
    }

    /// Told when the agenda changed.
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// When something happens next.
    pub fn next_at(&self) -> Option<u64> {
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// Lets `deed` happen in so many milliseconds.
    pub fn later(&mut self, wait: u64, deed: impl FnOnce(&mut World) + Send + 'static) {
        self.serial += 1;
        let place = (self.now + wait, self.serial);
        self.agenda.insert(place, Box::new(deed));
        self.wake.notify_one();
    }

    /// Lets everything happen that is due at `now`.
    pub fn run_until(&mut self, now: u64) {
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= now
        {
            let ((at, _), deed) = entry.remove_entry();
            self.now = self.now.max(at);
            deed(self);
            self.take_in();
        }
        self.now = self.now.max(now);
    }

    pub fn say(&mut self, who: &str, what: &str) {
        self.trace.say(self.now, who, what);
    }

    /// A fault that happens now.
    pub fn strike(&mut self, class: Class) {
        self.faults.count(class);
        self.say("fault", &format!("{class:?}"));
    }

    pub fn lives(&self, process: Process) -> bool {
        let replica = &self.replicas[process.replica];
        replica.lives && replica.life == process.life
    }

    /// An operator looks at the clock.
    pub fn looked_at_the_clock(&mut self, now: u64) {
        match &mut self.looks {
            (at, count) if *at == now => *count += 1,
            looks => *looks = (now, 0),
        }
        if self.looks.1 == LOOKS {
            let what = format!("time goes on: the operator does not sleep at {now}");
            self.laws.broken.push(what);
            self.wake.notify_one();
        }
    }

    /// A request of somebody else than the operator: nothing goes wrong with it.
    pub fn ask(&mut self, who: &str, request: &Request) -> Result<Answer, Refusal> {
        let mut request = request.clone();
        if request.verb == Verb::Create {
            let resource = request.kind.resource();
            request.body["kind"] = resource.kind.into();
            request.body["apiVersion"] = resource.api_version().into();
        }
        let answer = self.api.handle(self.time(), &request);
        if request.verb.writes() {
            let code = answer.as_ref().map_or_else(Refusal::code, |_| 200);
            self.say(who, &format!("{} -> {code}", request.line()));
        }
        answer
    }

    /// Stores an object as it is, as those do that need no leave.
    pub fn store(&mut self, who: &str, key: Key, object: Value) {
        self.say(
            who,
            &format!("{:?} {}/{}", key.kind, key.namespace, key.name),
        );
        self.api.store_unchecked(key, object);
    }

    /// What was written has consequences: laws, watches, kubelets, the garbage collector.
    fn take_in(&mut self) {
        if self.api.revision() == self.taken_in {
            return;
        }
        let changes = self.api.changes_after(self.taken_in).to_vec();
        self.taken_in = self.api.revision();
        for change in &changes {
            self.laws.observe(change, self.now);
            if let Some(case) = &mut self.case {
                self.laws.broken.extend(case.observe(change));
            }
            if change.key.kind == Kind::Pod && change.after.is_some() {
                self.attend(change.key.clone());
            }
        }
        self.play_case();
        let deletes = changes.iter().any(|change| change.after.is_none());
        if deletes {
            let wait = self.faults.dice.u64(1..2000);
            self.later(wait, World::collect_garbage);
        }
        for id in self.followers.keys().copied().collect::<Vec<_>>() {
            self.tell_soon(id);
        }
    }

    fn collect_garbage(&mut self) {
        let mut refused = false;
        for request in self.api.garbage() {
            refused |= self.ask("gc", &request).is_err();
        }
        if refused {
            self.later(GARBAGE_PAUSE, World::collect_garbage);
        }
    }

    /// Opens a watch for a process.
    pub fn follow(
        &mut self,
        watch: Watch,
        sender: UnboundedSender<Result<Event, Lost>>,
        process: Process,
    ) {
        self.serial += 1;
        let id = self.serial;
        let timeout = u64::try_from(watch.timeout().as_millis()).unwrap_or(u64::MAX);
        let follower = Follower {
            watch,
            sender,
            process,
            not_before: self.now,
            last: None,
        };
        self.followers.insert(id, follower);
        if Some(process) == self.leads() {
            // What it missed until now it has yet to do.
            self.last_start = self.now;
        }
        self.tell_soon(id);
        self.later(timeout, move |world| {
            world.followers.remove(&id);
        });
    }

    fn tell_soon(&mut self, id: u64) {
        let late = match self.faults.strikes(Class::WatchLate, 0.05) {
            true => self.faults.dice.u64(100..10_000),
            false => self.faults.dice.u64(0..4),
        };
        let Some(follower) = self.followers.get_mut(&id) else {
            return;
        };
        follower.not_before = follower.not_before.max(self.now + late);
        let wait = follower.not_before - self.now;
        self.later(wait, move |world| world.tell(id));
    }

    /// Tells a watch all that is new, if its time has come.
    fn tell(&mut self, id: u64) {
        let Some(mut follower) = self.followers.remove(&id) else {
            return;
        };
        let Process { replica, .. } = follower.process;
        if !self.lives(follower.process) {
            return;
        }
        let silent = self.course.is_silent(replica, self.now);
        if follower.not_before > self.now || self.replicas[replica].cut_off || silent {
            self.followers.insert(id, follower);
            return;
        }
        while follower.not_before <= self.now
            && let Some(event) = self.api.next_event(&mut follower.watch)
        {
            match self.fate_of_event(id, &follower.sender) {
                EventFate::Arrives => {}
                EventFate::Alone => {
                    follower.not_before = self.now + MOMENT;
                    self.later(MOMENT, move |world| world.tell(id));
                }
                EventFate::Twice => drop(follower.sender.send(Ok(event.clone()))),
                EventFate::Lost => continue,
                EventFate::EndsTheWatch => return,
            }
            follower.last = Some(event.clone());
            if follower.sender.send(Ok(event)).is_err() {
                return;
            }
        }
        if !follower.watch.is_over() {
            self.followers.insert(id, follower);
        }
    }

    /// Breaks every watch of a replica off; the next ones begin with a list if `gone`.
    pub fn cut_watches(&mut self, gone: bool) {
        let cut: Vec<_> = std::mem::take(&mut self.followers).into_values().collect();
        for follower in cut {
            let _ = follower.sender.send(Err(Lost));
        }
        if gone {
            self.api.compact(self.api.revision());
        }
    }

    /// Breaks off one watch, if there is one.
    pub fn cut_one_watch(&mut self) {
        let ids: Vec<_> = self.followers.keys().copied().collect();
        let Some(id) = self.faults.dice.choice(ids) else {
            return;
        };
        if let Some(follower) = self.followers.remove(&id) {
            let _ = follower.sender.send(Err(Lost));
        }
    }

    /// A watch ends as too old: the next one begins with a list.
    pub fn expire_watch(&mut self, id: u64) {
        if let Some(follower) = self.followers.remove(&id) {
            let gone = Refusal::expired("too old resource version");
            let _ = follower.sender.send(Ok(Event::Error(gone)));
        }
    }

    /// The last event of every watch comes again.
    pub fn repeat_events(&mut self) {
        for follower in self.followers.values() {
            if let Some(event) = &follower.last {
                let _ = follower.sender.send(Ok(event.clone()));
            }
        }
    }

    /// The watches of a replica that can be heard again hear what they missed.
    pub fn tell_all(&mut self) {
        for id in self.followers.keys().copied().collect::<Vec<_>>() {
            self.tell_soon(id);
        }
    }

    /// All objects of a kind in the one namespace.
    pub fn all(&self, kind: Kind) -> Vec<(Key, Arc<Value>)> {
        let all = self.api.all(kind);
        all.filter(|(key, _)| key.namespace == NAMESPACE)
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect()
    }

    /// Who holds the lease.
    pub fn leader(&self) -> String {
        let lease = self.api.get(Kind::Lease, OPERATOR_NAMESPACE, LEASE);
        let holder = lease.and_then(|lease| lease["spec"]["holderIdentity"].as_str());
        holder.unwrap_or_default().to_owned()
    }

    /// Whether who holds the lease lives.
    pub fn is_led(&self) -> bool {
        self.leads().is_some()
    }

    /// Whether who leads watches all that it works on.
    pub fn is_watched_by_its_leader(&self) -> bool {
        let leads = self.leads();
        let followers = self.followers.values();
        let theirs = followers.filter(|it| Some(it.process) == leads && !it.sender.is_closed());
        let watched: Vec<_> = theirs.map(|follower| follower.watch.kind()).collect();
        [Kind::Workflow, Kind::TaskExecution, Kind::Pod]
            .iter()
            .all(|kind| watched.contains(kind))
    }

    /// Who holds the lease, if that process lives.
    fn leads(&self) -> Option<Process> {
        let leader = self.leader();
        let replicas = self.replicas.iter().enumerate();
        let living = replicas.filter(|(_, state)| state.lives);
        let mut living = living.map(|(replica, Replica { life, .. })| Process {
            replica,
            life: *life,
        });
        living.find(|process| process.identity() == leader)
    }
}

/// The time of day so many milliseconds after the beginning.
pub fn time_at(now: u64) -> Timestamp {
    let start = Timestamp::from_second(START).unwrap_or_default();
    let passed = SignedDuration::try_from(Duration::from_millis(now)).unwrap_or_default();
    start.saturating_add(passed).unwrap_or(start)
}
