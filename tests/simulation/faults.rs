//! What goes wrong, how likely in this world, and how often it did.

use std::collections::BTreeMap;

macro_rules! classes {
    ($($class:ident: $meaning:literal,)*) => {
        /// A class of faults.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Class { $(#[doc = $meaning] $class,)* }

        impl Class {
            /// All of them.
            pub const ALL: &[Class] = &[$(Class::$class,)*];

            /// What it is, for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Class::$class => $meaning,)* }
            }
        }
    };
}

classes! {
    Conflict: "API: 409, somebody wrote first",
    TooMany: "API: 429",
    Internal: "API: 500",
    Unavailable: "API: 503",
    RequestLost: "API: the connection breaks before it was done",
    AnswerLost: "API: done, the connection breaks before the answer",
    AnswerNever: "API: done, the answer never comes",
    SlowRequest: "API: done seconds later",
    SlowAnswer: "API: answered seconds later, stale by then",
    ApiAway: "API: refuses connections for a while",
    QuotaExceeded: "API: a quota refuses pods for a while",
    WebhookRefuses: "API: a webhook refuses task executions for a while",
    CrdMissing: "API: a CRD is not served for a while",
    NamespaceEnds: "API: the namespace is deleted",
    InvalidStored: "API: a stored object does not parse",
    WatchCut: "watch: broken off",
    WatchGone: "watch: broken off and its history compacted, 410",
    WatchLate: "watch: events seconds late",
    WatchRepeats: "watch: the last event comes again",
    PodDeleted: "others: a pod is deleted",
    PodStripped: "others: a pod is taken away, finalizer and all",
    ExecutionDeleted: "others: a task execution is deleted",
    ExecutionStripped: "others: a task execution is taken away, finalizer and all",
    WorkflowDeleted: "others: a workflow is deleted",
    WorkflowRecreated: "others: a workflow is created anew under its name",
    WorkflowStripped: "others: a workflow is taken away, finalizer and all",
    NameTaken: "others: a stranger's pod has a name of ours",
    LeaseDeleted: "others: the lease is deleted",
    LeaseTaken: "others: somebody takes the lease",
    Crash: "operator: dies at any moment",
    CrashBeforeEffect: "operator: dies before a write is done",
    CrashAfterEffect: "operator: dies after a write, before its answer",
    Restart: "operator: ends in order and starts again",
    Frozen: "operator: stands still, longer than the lease",
    CutOff: "operator: cut off from the API server, a second one leads",
    ClockJump: "operator: its clock is set",
    SlowKubelet: "kubelet: seconds late",
    BusAway: "NATS: away for a while",
    BusSlow: "NATS: an answer takes long",
    BusRequestLost: "NATS: a message is lost",
    BusAckLost: "NATS: stored, the acknowledgement is lost",
    BusLeaderless: "NATS: nobody answers for the stream for a while",
    BusInFlight: "NATS: another write is under way",
    BusEmptied: "NATS: restarted with an empty store",
    BusEndLost: "NATS: restarted without the end of its stream",
    BusRetired: "NATS: the oldest messages went",
    BusFull: "NATS: no space left for a while",
    Overloaded: "API: 429 to everything for a while",
    ToolAnswerMissed: "NATS: a tool's answer does not reach who listens",
    BusBehind: "NATS: a server leads that was behind, and no connection breaks",
    PoolNewsSlow: "pools: what workers report is heard seconds later",
    PoolOrderLost: "pools: an order reaches no worker",
    PoolAckLost: "pools: that a report is recorded is not heard",
    ReportAckLost: "pools: a report is stored, and its worker does not hear so",
    ReportTwice: "pools: the same report twice",
    WorkerAckLost: "pools: that a command is done is not heard",
    WorkerSlow: "pools: a worker takes a command seconds later",
    WorkerKilled: "pools: a worker is killed",
    WorkerFrozen: "pools: a worker stands still",
    WorkerTellsLate: "pools: who stood still goes on with what it has lost",
    WorkerHandsBack: "pools: a worker is replaced and hands back what it has",
    WorkersAway: "pools: no worker for a while",
    PodTakenUnseen: "others: a pod is taken away while no watch is open, and their history is compacted",
    PoolRemovalSlow: "pools: that a command was taken out is heard seconds later",
    DeliveryForgotten: "pools: NATS is killed, and forgets what it delivered last",
}

/// What tells the chance of the classes that came later from that of everything else.
const SALT_OF_LATER: u64 = 0x1a7e;

/// How likely each class is in this world, and how often it happened.
pub struct Faults {
    pub dice: fastrand::Rng,
    /// Shares of 1, by class.
    weights: BTreeMap<Class, f64>,
    pub fired: BTreeMap<Class, u64>,
    on: bool,
}

impl Faults {
    /// Weights of their own for each seed: some classes are away, some common.
    pub fn draw(seed: u64) -> Faults {
        let mut dice = fastrand::Rng::with_seed(seed ^ 0xfa17);
        let calm = dice.u8(..8) == 0;
        // Of chance of its own: worlds without them stay what they are.
        let mut dice_of_later = fastrand::Rng::with_seed(seed ^ SALT_OF_LATER);
        let weights = Class::ALL
            .iter()
            .map(|class| {
                let (dice, one_in) = match class {
                    Class::Overloaded | Class::BusBehind | Class::PodTakenUnseen => {
                        (&mut dice_of_later, 8)
                    }
                    Class::ToolAnswerMissed => (&mut dice_of_later, 3),
                    class if *class > Class::ToolAnswerMissed => (&mut dice_of_later, 2),
                    _ => (&mut dice, 3),
                };
                let there = !calm && dice.u8(..one_in) == 0;
                (*class, if there { 0.2 + dice.f64() } else { 0.0 })
            })
            .collect();
        Faults {
            dice,
            weights,
            fired: BTreeMap::new(),
            on: true,
        }
    }

    /// A world in which nothing goes wrong.
    pub fn none() -> Faults {
        Faults {
            dice: fastrand::Rng::with_seed(0),
            weights: BTreeMap::new(),
            fired: BTreeMap::new(),
            on: false,
        }
    }

    /// From now on nothing goes wrong any more.
    pub fn stop(&mut self) {
        self.on = false;
    }

    pub fn are_on(&self) -> bool {
        self.on
    }

    /// Whether this happens now; `base` is how likely it is at a weight of 1.
    pub fn strikes(&mut self, class: Class, base: f64) -> bool {
        if !self.on {
            return false;
        }
        let weight = self.weights.get(&class).copied().unwrap_or(0.0);
        let strikes = weight > 0.0 && self.dice.f64() < weight * base;
        if strikes {
            self.count(class);
        }
        strikes
    }

    /// One of these by their weights; none if all are away.
    pub fn one_of(&mut self, classes: &[Class]) -> Option<Class> {
        let weight = |class: &Class| self.weights.get(class).copied().unwrap_or(0.0);
        let total: f64 = classes.iter().map(weight).sum();
        if !self.on || total <= 0.0 {
            return None;
        }
        let mut rest = self.dice.f64() * total;
        classes
            .iter()
            .find(|class| {
                rest -= self.weights.get(class).copied().unwrap_or(0.0);
                rest < 0.0
            })
            .copied()
    }

    pub fn count(&mut self, class: Class) {
        *self.fired.entry(class).or_default() += 1;
    }
}
