//! What goes wrong at one place of a world's course, and how.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    api_server::{Answer, Event, Key, Kind, Lost, Refusal, Request, Verb},
    troubles::is_a_strangers,
    wire::InFlight,
    world::{NAMESPACE, Order, Process, World},
};

/// Watches are silent for so many milliseconds.
const SILENCE: u64 = 10_000;
/// Who hears no more does so until after it leads.
const DEAF: u64 = 40_000;
/// So many writes back is the past.
const WRITES_BACK: usize = 3;
/// API server and NATS are away for so many milliseconds.
const AWAY: u64 = 60_000;
/// By then the operator has looked whether the stream is as it was.
const LOOKED_AFTER: u64 = 45_000;
/// A server starts again within so many milliseconds.
const RESTART: u64 = 300;
/// A pod has ended for so many milliseconds before it is deleted: of one that was deleted as it
/// ended nobody can tell which came first.
const COLLECTS_EVERY: u64 = 3_000;
/// So many writes overtake one: the first one may say the same, as it was decided from the same.
const OVERTAKEN: u32 = 2;
/// Who sleeps sleeps longer than a lease.
const SLEEP: u64 = 40_000;

/// What the places of a world's course are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    /// A write of the operator that reaches the API server; those of its lease are none.
    Write,
    /// One of these that deletes a pod.
    PodDeletion,
    /// One of these with which a run goes.
    RunGoes,
    /// A message of the operator that reaches NATS.
    Message,
    /// An event of a watch that is told.
    Event,
}

macro_rules! disturbances {
    ($($name:ident at $spot:ident: $meaning:literal,)*) => {
        /// What goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Disturbance { $(#[doc = $meaning] $name,)* }

        impl Disturbance {
            /// All of them.
            pub const ALL: &[Disturbance] = &[$(Disturbance::$name,)*];

            /// Where it can happen.
            pub fn spot(self) -> Spot {
                match self { $(Disturbance::$name => Spot::$spot,)* }
            }
        }
    };
}

disturbances! {
    CrashBefore at Write: "the operator dies, and it is not done",
    PodsCollected at Write: "the operator dies before it, and pods that ended are deleted meanwhile",
    CrashAfter at Write: "the operator dies after it is done",
    StaleStandby at Write: "a standby hears no more, and soon takes over without knowing it",
    Conflict at Write: "it is refused with 409",
    RequestLost at Write: "the connection breaks, and it is not done",
    AnswerLost at Write: "it is done, and the connection breaks",
    AnswerLostInSilence at Write: "the same, and watches are silent for a while",
    Silence at Write: "watches are silent for a while from there on",
    Late at Write: "it arrives late",
    Overtaken at Write: "the operator dies, and it is done after the next one has written twice to that object",
    ApiAway at Write: "the API server is away for a while from there on",
    Overloaded at Write: "the API server refuses everything with 429 for a while from there on",
    Overslept at Write: "the operator sleeps longer than its lease, and another one works",
    PodReplaced at PodDeletion: "the pod is gone by then, and a stranger's has its name",
    RunReplaced at RunGoes: "the answer comes late, after another run of its name",
    CrashBeforeMessage at Message: "the operator dies, and it is not stored",
    CrashAfterMessage at Message: "the operator dies after it is stored",
    Unacknowledged at Message: "it is stored, and the acknowledgement is lost",
    BusAway at Message: "NATS is away for a while from there on",
    StreamEmptied at Message: "NATS loses its stream after it",
    StreamEndLost at Message: "it is acknowledged, and NATS starts again without it",
    StreamCutBack at Message: "the same with all before it; NATS is full for a while then, and the API server has too much to do",
    EventHeld at Event: "it does not come, nor do others, until the watch breaks",
    EventLost at Event: "it is left out, until a later list",
    EventLostToThePast at Event: "the same, and the list that comes at once is of the past",
    EventTwice at Event: "it comes twice",
    EventAlone at Event: "what happened at the same time comes a moment later",
}

impl Disturbance {
    /// Whether the operator does for a while nothing that it would have done.
    pub fn holds_up(self) -> bool {
        !matches!(
            self,
            Disturbance::Conflict
                | Disturbance::RequestLost
                | Disturbance::AnswerLost
                | Disturbance::Unacknowledged
                | Disturbance::EventTwice
                | Disturbance::EventAlone
        )
    }

    /// Whether nobody can know any more what the undisturbed end tells: then the laws alone count.
    pub fn takes_from_the_end(self) -> bool {
        matches!(self, Disturbance::PodReplaced | Disturbance::RunReplaced)
    }

    /// Whether there is a standby from the start.
    pub fn has_standby(self) -> bool {
        self == Disturbance::StaleStandby
    }
}

impl FromStr for Disturbance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Disturbance::ALL.iter().copied();
        all.find(|known| format!("{known:?}") == text)
            .ok_or_else(|| format!("{text:?} is none of {:?}", Disturbance::ALL))
    }
}

/// What goes wrong, and at which of its spots, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub what: Disturbance,
    pub at: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.what, self.at)
    }
}

/// A world's course so far.
#[derive(Default)]
pub struct Course {
    pub place: Option<Place>,
    /// Whether it went wrong there.
    pub happened: bool,
    passed: BTreeMap<Spot, u64>,
    /// The revision before each write.
    revisions: Vec<u64>,
    /// Until when watches are silent.
    silent_until: u64,
    /// This replica's watches are silent, until then.
    deaf: Option<(usize, u64)>,
    /// Lists are of this revision, until then.
    past: Option<(u64, u64)>,
    /// A write whose sender is dead, and how often its object is still to be written before it is.
    in_flight: Option<(InFlight, u32)>,
}

impl Course {
    /// How many there were.
    pub fn passed(&self, spot: Spot) -> u64 {
        self.passed.get(&spot).copied().unwrap_or(0)
    }

    fn pass(&mut self, spot: Spot) {
        *self.passed.entry(spot).or_default() += 1;
    }

    /// A write arrives; the API server is at this revision.
    pub fn write(&mut self, revision: u64) {
        self.pass(Spot::Write);
        self.revisions.push(revision);
    }

    /// Whether this goes wrong at the spot that was just passed. It does so once.
    pub fn strikes(&mut self, what: Disturbance) -> bool {
        let at = self.passed(what.spot());
        let strikes = !self.happened && self.place == Some(Place { what, at });
        self.happened |= strikes;
        strikes
    }

    /// Whether the watches of this replica are silent.
    pub fn is_silent(&self, replica: usize, now: u64) -> bool {
        let deaf = self.deaf;
        now < self.silent_until || deaf.is_some_and(|(who, until)| who == replica && now < until)
    }

    fn revision_back(&self) -> u64 {
        let place = self.revisions.len().saturating_sub(WRITES_BACK);
        self.revisions.get(place).copied().unwrap_or(0)
    }
}

/// What becomes of an event on its way to a watch.
pub enum EventFate {
    Arrives,
    Twice,
    Alone,
    Lost,
    EndsTheWatch,
}

/// The refusal of a write that somebody else's write has overtaken. Creations meet that too: of a
/// quota that is counted.
pub fn conflict_of(request: &Request) -> Refusal {
    Refusal::modified(request.kind.resource(), &request.key().name)
}

impl World {
    fn strikes(&mut self, what: Disturbance) -> bool {
        let strikes = self.course.strikes(what);
        if strikes {
            self.say("fault", &format!("{what:?}"));
        }
        strikes
    }

    fn silence(&mut self, span: u64) {
        self.course.silent_until = self.now() + span;
        self.later(span, World::tell_all);
    }

    fn overload(&mut self, span: u64) {
        self.overloaded = true;
        self.later(span, |world| world.overloaded = false);
    }

    /// From now on lists are of the past, and watches are silent, for a while.
    fn read_the_past(&mut self, span: u64) {
        let revision = self.course.revision_back();
        self.course.past = Some((revision, self.now() + span));
        self.silence(span);
    }

    /// The list of the past that answers this request, if that is what is read now.
    pub fn stale_list(&self, request: &Request) -> Option<Answer> {
        let (revision, until) = self.course.past?;
        if request.verb != Verb::List || self.now() >= until {
            return None;
        }
        self.api.list_at(revision, request).ok().map(Answer::Done)
    }

    /// A write arrives. Whether its sender dies, and it is not done.
    pub fn disturbed_before_effect(&mut self, process: Process) -> bool {
        let dies = self.strikes(Disturbance::PodsCollected);
        if dies {
            self.kill(process);
            self.collect_pods(process.replica, &[]);
        }
        dies
    }

    /// As long as an operator is away, pods that ended a while ago are deleted.
    fn collect_pods(&mut self, replica: usize, ended: &[Key]) {
        if self.replicas[replica].lives {
            return;
        }
        for key in ended {
            let deletion = Request::delete(Kind::Pod, &key.namespace, &key.name, Value::Null);
            let _ = self.ask("podgc", &deletion);
        }
        let pods = self.all(Kind::Pod).into_iter();
        let ended = pods.filter(|(_, pod)| ended_by_itself(pod));
        let ended: Vec<_> = ended.map(|(key, _)| key).collect();
        self.later(COLLECTS_EVERY, move |world| {
            world.collect_pods(replica, &ended)
        });
    }

    /// The sender of a write dies. The API server has it, and takes its time. (A creation is not
    /// done at all: one that comes when the first of its name has gone again nobody can call back.)
    pub fn hold_until_overtaken(&mut self, write: InFlight) {
        self.kill(write.process);
        if write.request.verb != Verb::Create {
            self.course.in_flight = Some((write, OVERTAKEN));
        }
    }

    /// An object was written.
    pub fn overtakes(&mut self, key: &Key) {
        let overtaken = |(write, left): &mut (InFlight, u32)| {
            *left -= u32::from(write.request.key() == *key);
            *left == 0
        };
        if let Some((write, _)) = self.course.in_flight.take_if(overtaken) {
            self.later(1, move |world| world.arrive(write));
        }
    }

    /// What else goes wrong after a write. Whether its answer is lost.
    pub fn disturbed_after_effect(&mut self, process: Process) -> bool {
        if self.strikes(Disturbance::Silence) {
            self.silence(SILENCE);
        }
        if self.strikes(Disturbance::StaleStandby) {
            self.course.deaf = Some((1 - process.replica, self.now() + DEAF));
            self.later(DEAF, World::tell_all);
            self.later(DEAF / 10, move |world| world.kill(process));
        }
        if self.strikes(Disturbance::Overslept) {
            self.orders.push(Order::Sleep(SLEEP));
        }
        if self.strikes(Disturbance::ApiAway) {
            self.api_away = true;
            self.cut_watches(false);
            self.later(AWAY, |world| world.api_away = false);
            return true;
        }
        if self.strikes(Disturbance::Overloaded) {
            self.overload(AWAY);
        }
        if self.strikes(Disturbance::AnswerLostInSilence) {
            self.silence(SILENCE);
            return true;
        }
        self.strikes(Disturbance::AnswerLost)
    }

    /// The operator is about to delete a pod.
    pub fn disturbed_before_pod_deletion(&mut self, name: &str) {
        self.course.pass(Spot::PodDeletion);
        if self.strikes(Disturbance::PodReplaced) {
            self.strip(Kind::Pod, &Key::new(Kind::Pod, NAMESPACE, name));
            self.take_name(name, AWAY);
        }
    }

    /// A run went with this write. Whether the answer comes after another one of its name.
    pub fn replaced(&mut self) -> bool {
        self.course.pass(Spot::RunGoes);
        let replaced = self.strikes(Disturbance::RunReplaced);
        if replaced {
            // What the case expects is told of the first one.
            self.case = None;
            let mut planned = self.scenario.workflows[0].clone();
            // It ends by itself: whoever touched it would show it to who does not see it.
            planned.spec["timeout"] = json!("30s");
            self.create(&planned);
        }
        replaced
    }

    /// A message arrives at NATS. Whether it is lost with its sender.
    pub fn disturbed_before_message(&mut self, process: Process) -> bool {
        self.course.pass(Spot::Message);
        let dies = self.strikes(Disturbance::CrashBeforeMessage);
        if dies {
            self.kill(process);
        }
        dies
    }

    /// A message was stored. Whether that is not acknowledged.
    pub fn disturbed_after_message(&mut self, process: Process) -> bool {
        if self.strikes(Disturbance::CrashAfterMessage) {
            self.kill(process);
            return true;
        }
        if self.strikes(Disturbance::BusAway) {
            self.bus.away = true;
            self.later(AWAY, |world| world.bus.away = false);
            return true;
        }
        if self.strikes(Disturbance::StreamEmptied) {
            self.bus.empty();
            let now = self.now();
            self.laws.stream_lost(&[], now);
        }
        let all = self.strikes(Disturbance::StreamCutBack);
        if all || self.strikes(Disturbance::StreamEndLost) {
            self.bus.lose_end(if all { usize::MAX } else { 1 });
            let (left, now) = (self.left_in_stream(), self.now());
            self.laws.stream_lost(&left, now);
            self.bus.away = true;
            self.later(RESTART, |world| world.bus.away = false);
        }
        if all {
            self.bus.full = true;
            self.later(AWAY, |world| world.bus.full = false);
            self.overload(LOOKED_AFTER);
        }
        self.strikes(Disturbance::Unacknowledged)
    }

    /// An event is to be told to a watch.
    pub fn fate_of_event(
        &mut self,
        watch: u64,
        sender: &UnboundedSender<Result<Event, Lost>>,
    ) -> EventFate {
        self.course.pass(Spot::Event);
        if self.strikes(Disturbance::EventTwice) {
            return EventFate::Twice;
        }
        if self.strikes(Disturbance::EventAlone) {
            return EventFate::Alone;
        }
        if self.strikes(Disturbance::EventLost) {
            self.later(SILENCE, move |world| world.expire_watch(watch));
            return EventFate::Lost;
        }
        if self.strikes(Disturbance::EventHeld) {
            let sender = sender.clone();
            self.later(SILENCE, move |_| drop(sender.send(Err(Lost))));
            return EventFate::EndsTheWatch;
        }
        if self.strikes(Disturbance::EventLostToThePast) {
            self.read_the_past(SILENCE);
            let gone = Refusal::expired("too old resource version");
            let _ = sender.send(Ok(Event::Error(gone)));
            return EventFate::EndsTheWatch;
        }
        EventFate::Arrives
    }
}

/// Whether a pod's program ended, and no signal ended it: that may as well have been the deletion. A stranger's keeps its
/// name.
fn ended_by_itself(pod: &Value) -> bool {
    let status = &pod["status"];
    let code = status["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64();
    !is_a_strangers(pod)
        && matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"))
        && code.is_some_and(|code| !matches!(code, 137 | 143))
}
