//! One world from its beginning until it is at rest.

use std::{collections::BTreeMap, time::Duration};

use clap::Parser;
use compozy::operator::{
    settings::CommandLine,
    system::{Outside, System},
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{advance, sleep_until},
};

use crate::{
    bus::SimBus,
    faults::{Class, Faults},
    scenario::Scenario,
    wire::{SimClock, client},
    world::{Order, Process, STANDBY, Shared, Since, World},
};

/// At rest means that the operator wrote nothing for so many milliseconds …
const STILL: u64 = 40_000;
/// … and will not in so many more.
const WATCHED: u64 = 200_000;
/// The same for a case: there are many, and nothing in them comes so late.
const WATCHED_CASE: u64 = 70_000;
/// From when nothing goes wrong any more the world has so long to come to rest.
const PATIENCE: u64 = 3 * 3_600_000;

/// What NATS holds of pools and belongs to nobody any more goes within so long.
const UNASKED: u64 = 7 * 60_000;

/// What came of a world.
pub struct Outcome {
    pub seed: u64,
    /// Laws that were broken.
    pub broken: Vec<String>,
    pub trace: Vec<String>,
    pub fingerprint: u64,
    pub fired: BTreeMap<Class, u64>,
    /// Virtual milliseconds.
    pub lasted: u64,
    /// Writes of the operator.
    pub effects: u64,
    pub world: Shared,
}

/// Runs the world of a seed.
pub fn run(seed: u64) -> Outcome {
    let scenario = Scenario::draw(seed);
    let replicas = scenario.replicas;
    play(
        seed,
        World::new(seed, Faults::draw(seed), scenario, replicas),
    )
}

/// Runs a world.
pub fn play(seed: u64, world: World) -> Outcome {
    let runtime = runtime();
    // kube's back-off and ours draw from this one.
    fastrand::seed(seed);
    let shared = Shared::new(world);
    runtime.block_on(Conductor::new(&shared).conduct());
    drop(runtime);
    let mut world = shared.lock();
    let outcome = Outcome {
        seed,
        broken: std::mem::take(&mut world.laws.broken),
        fingerprint: world.trace.fingerprint(),
        trace: std::mem::take(&mut world.trace).into_lines(),
        fired: world.faults.fired.clone(),
        lasted: world.now(),
        effects: world.effects,
        world: shared.clone(),
    };
    drop(world);
    outcome
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// A process of the operator that was started.
struct Running {
    task: JoinHandle<()>,
    end: Option<oneshot::Sender<()>>,
}

/// Lets time pass, and starts and ends the operators.
struct Conductor {
    world: Shared,
    since: Since,
    running: BTreeMap<usize, Running>,
    /// Since when the world is at rest.
    resting: Option<u64>,
}

impl Conductor {
    fn new(world: &Shared) -> Conductor {
        Conductor {
            world: world.clone(),
            since: Since::after(0),
            running: BTreeMap::new(),
            resting: None,
        }
    }

    fn now(&self) -> u64 {
        self.since.now()
    }

    async fn conduct(mut self) {
        // The runtime's own clock starts with the first call.
        self.since = Since::after(0);
        self.world.lock().start_clock(self.since);
        self.world.lock().begin();
        while !self.is_over() {
            self.go_on(u64::MAX).await;
        }
        self.stop();
    }

    /// Waits until something happens, but not longer than until `end`, and does what is to be done.
    async fn go_on(&mut self, end: u64) {
        let (wake, next) = {
            let world = self.world.lock();
            (world.wake(), world.next_at().unwrap_or(1 << 40).min(end))
        };
        tokio::select! {
            biased;
            () = wake.notified() => {}
            () = sleep_until(self.since.at(next)) => {}
        }
        // While an order is followed time may pass, and more come of it.
        while let orders = self.take_orders(end)
            && !orders.is_empty()
        {
            for order in orders {
                self.follow(order).await;
            }
        }
    }

    fn take_orders(&self, end: u64) -> Vec<Order> {
        let mut world = self.world.lock();
        world.run_until(self.now().min(end));
        std::mem::take(&mut world.orders)
    }

    fn stop(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.task.abort();
        }
    }

    async fn follow(&mut self, order: Order) {
        match order {
            Order::Start(replica) => self.start(replica),
            Order::Crash(replica) => {
                if let Some(running) = self.running.remove(&replica) {
                    running.task.abort();
                    let _ = running.task.await;
                }
            }
            Order::End(replica) => {
                if let Some(end) = self.running.get_mut(&replica).and_then(|it| it.end.take()) {
                    let _ = end.send(());
                }
            }
            Order::Freeze(span) => {
                let until = self.now() + span;
                self.world.lock().run_until(until);
                self.world.lock().wakes(until);
                advance(Duration::from_millis(span)).await;
            }
            Order::Sleep(span) => {
                let (world, now) = (self.world.clone(), self.now());
                let elsewhere = std::thread::spawn(move || stand_in(&world, now, now + span));
                let _ = elsewhere.join();
                {
                    let mut world = self.world.lock();
                    world.start_clock(self.since);
                    world.wakes(now + span);
                }
                advance(Duration::from_millis(span)).await;
            }
        }
    }

    fn start(&mut self, replica: usize) {
        let process = {
            let mut world = self.world.lock();
            let state = &mut world.replicas[replica];
            if state.lives {
                return;
            }
            state.lives = true;
            state.life += 1;
            let life = state.life;
            world.last_start = world.now();
            world.say("world", &format!("operator {replica}.{life} starts"));
            Process { replica, life }
        };
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(operate(self.world.clone(), process, self.since, ended));
        let running = Running {
            task,
            end: Some(end),
        };
        self.running.insert(replica, running);
    }

    /// Whether nothing is left to see.
    fn is_over(&mut self) -> bool {
        let mut world = self.world.lock();
        let now = world.now();
        if !world.laws.broken.is_empty() {
            return true;
        }
        let quiet = world.scenario.quiet_at;
        let watched = match world.case {
            Some(_) => WATCHED_CASE,
            None => WATCHED,
        };
        if now < quiet {
            return false;
        }
        if let Some(since) = self.resting {
            if world.last_write > since {
                let what = format!("at rest since {since}, a write at {}", world.last_write);
                world.laws.broken.push(format!("rest is rest: {what}"));
                return true;
            }
            if now >= since + watched {
                world.laws.at_the_end();
                return true;
            }
            return false;
        }
        let still = now >= world.last_write.max(world.last_start).max(quiet) + STILL;
        if still {
            let unfinished = world.unfinished();
            // An acknowledgement that was lost shows after an hour.
            let unheard = world.faults.fired.contains_key(&Class::PoolAckLost);
            let left = unfinished == world.left_in_pools() && !unheard;
            let acted = world.last_write.max(world.last_start).max(quiet);
            if unfinished.is_empty() {
                self.resting = Some(now);
            } else if now > quiet + PATIENCE || left && now > acted + UNASKED {
                let what = unfinished.join("; ");
                world
                    .laws
                    .broken
                    .push(format!("the world comes to rest: {what}"));
                return true;
            }
        }
        false
    }
}

/// The standby on a machine of its own, while everybody here sleeps. It ends as they wake.
fn stand_in(world: &Shared, now: u64, until: u64) {
    runtime().block_on(async {
        fastrand::seed(now);
        let mut conductor = Conductor::new(world);
        conductor.since = Since::after(now);
        world.lock().start_clock(conductor.since);
        conductor.start(STANDBY);
        while conductor.now() < until {
            conductor.go_on(until).await;
        }
        conductor.stop();
    });
    let mut world = world.lock();
    let life = world.replicas[STANDBY].life;
    world.kill(Process {
        replica: STANDBY,
        life,
    });
}

/// The whole operator, as a process would run it.
async fn operate(world: Shared, process: Process, since: Since, ended: oneshot::Receiver<()>) {
    let grace = format!("{}s", world.lock().scenario.grace);
    let arguments = ["operator", "--events-deletion-grace", &grace];
    let settings = CommandLine::parse_from(arguments).settings;
    let bus = SimBus::new(&world, process);
    let outside = Outside {
        client: client(&world, process),
        bus: Some(bus.clone()),
        calls: Some(bus.clone()),
        pools: Some(bus),
        clock: SimClock::new(&world, process, since),
        identity: process.identity(),
        caller: process.identity(),
    };
    let result = match System::new(settings, outside) {
        Ok(system) => {
            system
                .run(async {
                    let _ = ended.await;
                    Ok(())
                })
                .await
        }
        Err(error) => Err(error),
    };
    let mut world = world.lock();
    let said = result.map_or_else(|error| error.to_string(), |()| "in order".to_owned());
    world.say(
        "world",
        &format!(
            "operator {}.{} ended: {said}",
            process.replica, process.life
        ),
    );
    if world.lives(process) {
        let replica = process.replica;
        world.replicas[replica].lives = false;
        let wait = 1000 + 137 * u64::from(process.life);
        world.later(wait, move |world| world.orders.push(Order::Start(replica)));
    }
}
