//! What may happen next in a small world: every move of the operator, of pods, of users, of faults.

use std::collections::{BTreeMap, HashMap, VecDeque};

use compozy::{
    api::{FINALIZER_OUTCOME, TaskExecution, TaskPhase, Time},
    engine::{
        attempt::{self, PodView},
        definition::Definition,
        pod::{PodSettings, attempt_pod},
        run::ExecutionIndex,
        workflow,
    },
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::state::{Effect, Key, Left, Object, PodKey, State, hash_of};
use crate::{
    corpus::{
        key,
        kubelet::{Act, status},
        laws,
    },
    played::{memory, pods},
};

/// What happened, for a person.
pub type Label = String;

/// A state that follows, and whether somebody must come to its aid: faults and users need not.
pub struct Move {
    pub label: Label,
    pub state: State,
    pub needed: bool,
}

type Plans = HashMap<u64, (Vec<Effect>, Option<Time>)>;

/// The moves of a world.
pub struct Moves<'a> {
    pub definition: &'a Definition,
    /// Whether progress of the run is written down between its begin and its end.
    pub progress: bool,
    /// Plans that were made before: the engine is pure.
    plans: Plans,
    found: Vec<Move>,
    /// A law that a move has broken.
    pub broken: Option<String>,
}

impl<'a> Moves<'a> {
    pub fn new(definition: &'a Definition, progress: bool) -> Moves<'a> {
        Moves {
            definition,
            progress,
            plans: HashMap::new(),
            found: Vec::new(),
            broken: None,
        }
    }

    /// Everything that may happen next.
    pub fn of(&mut self, state: &State) -> Vec<Move> {
        for (&key, pod) in &state.truth.pods {
            self.pod(state, key, &pod.value);
        }
        // A lease is longer than any call: a new operator writes only when those of the one before
        // have arrived or never will.
        if let Some(effect) = state.straggler.clone() {
            self.add("a straggler is lost", true, state, |next, _| {
                next.straggler = None;
            });
            self.add("a straggler arrives", true, state, |next, this| {
                next.straggler = None;
                this.apply(next, &effect, true);
            });
            return std::mem::take(&mut self.found);
        }
        let mut wake = None;
        let mut at_rest = true;
        let tasks = state.cache.tasks.keys().copied().map(Some);
        for who in std::iter::once(None).chain(tasks) {
            let (effects, due) = self.todo(state, who);
            wake = [wake, due].into_iter().flatten().min();
            if let Some((first, rest)) = effects.split_first() {
                at_rest = false;
                self.write(state, who, first, rest);
            }
        }
        for &key in &state.late {
            self.add("seen late", true, state, |next, this| {
                next.see(key, this.definition)
            });
        }
        if let Some(at) = wake.filter(|_| at_rest && state.late.is_empty()) {
            self.add("time passes", true, state, |next, _| {
                next.now = next.now.max(at)
            });
        }
        self.users(state);
        std::mem::take(&mut self.found)
    }

    fn add(
        &mut self,
        label: &str,
        needed: bool,
        state: &State,
        then: impl FnOnce(&mut State, &mut Self),
    ) {
        let mut next = state.clone();
        then(&mut next, self);
        self.found.push(Move {
            label: label.to_owned(),
            state: next,
            needed,
        });
    }

    /// What a reconciler writes next, or when it looks again.
    fn todo(&mut self, state: &State, who: Option<ExecutionIndex>) -> (Vec<Effect>, Option<Time>) {
        if let Some(pending) = state.pending.get(&who) {
            return (pending.iter().cloned().collect(), None);
        }
        match who {
            None => self.plan_run(state),
            Some(task) => self.plan_task(state, task),
        }
    }

    fn plan_run(&mut self, state: &State) -> (Vec<Effect>, Option<Time>) {
        let known = state.digest_of_run(self.definition);
        let Some(run) = &state.cache.run else {
            return (Vec::new(), None);
        };
        if let Some(plan) = self.plans.get(&known) {
            return plan.clone();
        }
        // A task execution that seems gone is asked for.
        let mut memory = state.memory.clone();
        for task in memory::missing(&memory, state.cache.tasks.keys()) {
            match state.truth.tasks.get(&task) {
                Some(te) => memory::observe(&mut memory, self.definition, task, &te.value),
                None => memory.observe(self.definition, task, TaskPhase::Cancelled, state.now),
            }
        }
        let plan = workflow::plan(&workflow::Observed {
            workflow: &run.value,
            graph: Ok((self.definition, &memory)),
            lookup: &|task| state.cache.tasks.get(&task).map(|te| te.value.clone()),
            unended: &[],
            all_seen: true,
            told: true,
            last_progress: (!self.progress).then_some(state.now),
            now: state.now,
        });
        let effects = plan
            .steps
            .into_iter()
            .map(|step| Effect::Run(step, run.version))
            .collect();
        // Progress that is not to be written must not make time pass.
        let timed = run.value.spec.timeout.is_some();
        let plan = (effects, plan.wake.filter(|_| timed || self.progress));
        self.plans.insert(known, plan.clone());
        plan
    }

    fn plan_task(&mut self, state: &State, task: ExecutionIndex) -> (Vec<Effect>, Option<Time>) {
        let te = &state.cache.tasks[&task];
        let number = attempt::current_attempt(&te.value);
        let pod = state.cache.pods.get(&(task, number));
        let pods = || state.cache.pods.range((task, 0)..=(task, u32::MAX));
        let truth = state.truth.pods.get(&(task, number));
        let version = |pod: Option<&Object<Pod>>| pod.map(|pod| pod.version);
        let known = hash_of(&(
            ("task", task, te.version, state.now.0.as_millisecond()),
            pods()
                .map(|((_, number), pod)| (*number, pod.version))
                .collect::<Vec<_>>(),
            version(truth),
        ));
        if let Some(plan) = self.plans.get(&known) {
            return plan.clone();
        }
        let decide = |view| {
            attempt::plan(
                &te.value,
                view,
                pods().map(|(_, pod)| pod.value.as_ref()),
                state.now,
            )
        };
        let cached = pod.map(|pod| PodView::Cached(&pod.value));
        let mut plan = decide(cached.unwrap_or(PodView::Unseen));
        if matches!(plan.steps[..], [attempt::Step::ConfirmPod(_)]) {
            let found = truth.map(|pod| PodView::Present(&pod.value));
            plan = decide(found.unwrap_or(PodView::Gone));
        }
        let effects = plan.steps.into_iter();
        let effects = effects
            .map(|step| Effect::Task(task, step, te.version))
            .collect();
        let plan = (effects, plan.wake);
        self.plans.insert(known, plan.clone());
        plan
    }

    /// One write of the operator, in all the ways in which it may go.
    fn write(
        &mut self,
        state: &State,
        who: Option<ExecutionIndex>,
        first: &Effect,
        rest: &[Effect],
    ) {
        let label = label(first);
        self.add(&label, true, state, |next, this| {
            let done = this.apply(next, first, false);
            next.pending.remove(&who);
            if done && !rest.is_empty() {
                next.pending
                    .insert(who, rest.iter().cloned().collect::<VecDeque<_>>());
            }
        });
        if let Some(left) = spend(state.left, |left| &mut left.lost) {
            self.add(
                &format!("{label}, answer lost"),
                false,
                state,
                |next, this| {
                    next.left = left;
                    this.apply(next, first, true);
                    next.pending.remove(&who);
                },
            );
            if state.pending.contains_key(&who) {
                self.add(&format!("{label} fails"), false, state, |next, _| {
                    next.left = left;
                    next.pending.remove(&who);
                });
            }
        }
        if let Some(left) = spend(state.left, |left| &mut left.crashes) {
            self.add(&format!("crash at {label}"), false, state, |next, this| {
                next.left = left;
                next.restart(this.definition);
                next.straggler = Some(first.clone());
            });
        }
    }

    /// Whether the API server takes a write. Its answer is seen, unless it is `lost`.
    fn apply(&mut self, state: &mut State, effect: &Effect, lost: bool) -> bool {
        let key = match effect {
            Effect::Run(workflow::Step::Create(task, _), _) => Key::Task(*task),
            Effect::Run(workflow::Step::Stop(name, _) | workflow::Step::Suspend(name, _), _) => {
                let mut tasks = state.truth.tasks.iter();
                match tasks.find(|(_, te)| te.value.name_any() == *name) {
                    Some((task, _)) => Key::Task(*task),
                    None => return true,
                }
            }
            Effect::Run(..) => Key::Run,
            Effect::Task(task, attempt::Step::Record(_), _) => Key::Task(*task),
            Effect::Task(
                task,
                attempt::Step::CreatePod(number)
                | attempt::Step::ConfirmPod(number)
                | attempt::Step::DeletePod(number)
                | attempt::Step::ReleasePod(number),
                _,
            ) => Key::Pod((*task, *number)),
            Effect::Task(task, ..) => Key::Task(*task),
        };
        let done = match effect {
            Effect::Run(step, base) => self.apply_to_run(state, step, *base),
            Effect::Task(task, step, base) => self.apply_to_task(state, *task, step, *base),
        };
        if done {
            match lost {
                true => state.changed(key, false, self.definition),
                false => state.see(key, self.definition),
            }
        }
        done
    }

    fn apply_to_run(&mut self, state: &mut State, step: &workflow::Step, base: u64) -> bool {
        let run = state.truth.run.clone().unwrap();
        let mut workflow = (*run.value).clone();
        match step {
            workflow::Step::Hold => {
                if !workflow::is_held(&workflow) {
                    workflow
                        .finalizers_mut()
                        .push(compozy::api::FINALIZER_EVENTS.to_owned());
                }
            }
            workflow::Step::Record(_) if base != run.version => return false,
            workflow::Step::Record(status) => {
                let before = workflow.status.clone().unwrap_or_default();
                self.broken = self.broken.take().or(laws::broken_by_run(&before, status));
                workflow.status = Some((**status).clone());
            }
            workflow::Step::Create(task, te) => {
                if state.taken.contains_key(task) {
                    self.broken = Some(format!("what was taken away is not made anew: {task:?}"));
                }
                let created = || Object::new(created(te, state.now));
                state.truth.tasks.entry(*task).or_insert_with(created);
                return true;
            }
            workflow::Step::Stop(name, stop) => {
                wish(state, name, |te| te.spec.stop = Some(stop.clone()));
                return true;
            }
            workflow::Step::Suspend(name, suspend) => {
                wish(state, name, |te| te.spec.suspend = *suspend);
                return true;
            }
            workflow::Step::ConfirmTasks => panic!("all are seen"),
        }
        state.truth.run = Some(Object::new(workflow));
        true
    }

    fn apply_to_task(
        &mut self,
        state: &mut State,
        task: ExecutionIndex,
        step: &attempt::Step,
        base: u64,
    ) -> bool {
        let now = state.now;
        match step {
            attempt::Step::Record(status) => {
                let Some(te) = state.truth.tasks.get(&task).filter(|te| te.version == base) else {
                    return false;
                };
                let mut recorded = (*te.value).clone();
                let before = recorded.status.clone().unwrap_or_default();
                self.broken = self.broken.take().or(laws::broken_by_task(&before, status));
                recorded.status = Some((**status).clone());
                state.truth.tasks.insert(task, Object::new(recorded));
            }
            attempt::Step::CreatePod(number) => {
                // Without its owner the garbage collector would take it away at once.
                let Some(te) = state.truth.tasks.get(&task) else {
                    return true;
                };
                let created = || {
                    let mut pod = attempt_pod(&te.value, *number, &PodSettings::default()).pod;
                    pod.metadata.uid = Some(format!("uid-{}", pod.name_any()));
                    pod.metadata.creation_timestamp = Some(status::seconds(now));
                    Object::new(pod)
                };
                state
                    .truth
                    .pods
                    .entry((task, *number))
                    .or_insert_with(created);
            }
            attempt::Step::ConfirmPod(_) => {}
            attempt::Step::DeletePod(number) => {
                change(state, (task, *number), |pod| pods::delete(pod, now));
            }
            attempt::Step::ReleasePod(number) => change(state, (task, *number), |pod| {
                pod.finalizers_mut()
                    .retain(|name| name != FINALIZER_OUTCOME);
            }),
            attempt::Step::FindTool
            | attempt::Step::Call(_)
            | attempt::Step::Listen(_)
            | attempt::Step::ConfirmCall(_)
            | attempt::Step::FindCommand(_)
            | attempt::Step::Dispatch(_)
            | attempt::Step::Withdraw(_)
            | attempt::Step::Cancel(_) => {
                panic!("no task of these worlds calls a tool")
            }
        }
        true
    }

    /// What may become of a pod.
    fn pod(&mut self, state: &State, key: PodKey, pod: &Pod) {
        if status::is_over(pod) {
            return;
        }
        let now = state.now;
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let running = matches!(status::main_state(pod), status::Main::Running(_));
        if !running {
            if !deleted {
                self.turn(state, key, "starts", true, state.left, |pod| {
                    start(pod, now)
                });
            }
        } else {
            self.turn(state, key, "succeeds", true, state.left, |pod| {
                end(pod, 0, now)
            });
            if deleted {
                self.turn(state, key, "is killed", true, state.left, |pod| {
                    end(pod, 143, now)
                });
            } else if let Some(left) = spend(state.left, |left| &mut left.failures) {
                self.turn(state, key, "fails", false, left, |pod| end(pod, 1, now));
            }
        }
        let Some(left) = spend(state.left, |left| &mut left.infrastructure) else {
            return;
        };
        if running {
            self.turn(state, key, "is evicted", false, left, |pod| {
                let mut evicted = status::failed(pod, "Evicted", "The node was low on resource");
                evicted.container_statuses =
                    status::terminated(pod, &killed(now)).container_statuses;
                pod.status = Some(evicted);
            });
        }
        if !deleted {
            self.turn(state, key, "is deleted", false, left, |pod| {
                pods::delete(pod, now)
            });
        }
        self.turn(state, key, "is taken away", false, left, |pod| {
            pods::apply(pod, Act::Strip, now);
        });
    }

    /// A pod changes, which the operator sees at once, or late.
    fn turn(
        &mut self,
        state: &State,
        key: PodKey,
        what: &str,
        needed: bool,
        left: Left,
        how: impl Fn(&mut Pod),
    ) {
        let label = format!("pod {key:?} {what}");
        self.add(&label, needed, state, |next, this| {
            next.left = left;
            change(next, key, &how);
            next.changed(Key::Pod(key), false, this.definition);
        });
        if let Some(left) = spend(left, |left| &mut left.late) {
            self.add(&format!("{label}, unseen"), false, state, |next, this| {
                next.left = left;
                change(next, key, &how);
                next.changed(Key::Pod(key), true, this.definition);
            });
        }
    }

    fn users(&mut self, state: &State) {
        let run = state.workflow();
        if run
            .status
            .as_ref()
            .is_some_and(|status| status.phase.is_final())
        {
            return;
        }
        let now = state.now;
        if let Some(left) = spend(state.left, |left| &mut left.cancel) {
            self.add("cancel", false, state, |next, this| {
                next.left = left;
                let mut run = run.clone();
                run.spec.cancel = Some(compozy::api::Cancel::default());
                next.truth.run = Some(Object::new(run));
                next.changed(Key::Run, false, this.definition);
            });
        }
        let suspended = run.spec.suspend == Some(true);
        let toggled = spend(state.left, |left| &mut left.suspend).filter(|_| !suspended);
        if let Some(left) = toggled.or(suspended.then_some(state.left)) {
            let what = if suspended { "resume" } else { "suspend" };
            self.add(what, suspended, state, |next, this| {
                next.left = left;
                let mut run = run.clone();
                run.spec.suspend = Some(!suspended);
                next.truth.run = Some(Object::new(run));
                next.changed(Key::Run, false, this.definition);
            });
        }
        if let Some(left) = spend(state.left, |left| &mut left.delete) {
            self.add("delete the run", false, state, |next, this| {
                next.left = left;
                let mut run = run.clone();
                run.metadata.deletion_timestamp = Some(status::seconds(now));
                let held = workflow::is_held(&run);
                next.truth.run = held.then(|| Object::new(run)).or(next.truth.run.take());
                next.changed(Key::Run, false, this.definition);
            });
        }
        for (&task, te) in &state.truth.tasks {
            if let Some(left) = spend(state.left, |left| &mut left.strip) {
                self.add(
                    &format!("take task {task:?} away"),
                    false,
                    state,
                    |next, this| {
                        next.left = left;
                        next.truth.tasks.remove(&task);
                        next.taken.insert(task, key(&te.value));
                        next.changed(Key::Task(task), false, this.definition);
                    },
                );
            }
            let Some(left) = spend(state.left, |left| &mut left.tasks) else {
                continue;
            };
            self.add(
                &format!("delete task {task:?}"),
                false,
                state,
                |next, this| {
                    next.left = left;
                    let mut te = (*te.value).clone();
                    te.metadata.deletion_timestamp = Some(status::seconds(now));
                    next.truth.tasks.insert(task, Object::new(te));
                    next.changed(Key::Task(task), false, this.definition);
                },
            );
        }
    }
}

/// What is left of a budget when one more of it is spent, if there is one.
fn spend(mut left: Left, of: impl Fn(&mut Left) -> &mut u8) -> Option<Left> {
    let budget = of(&mut left);
    *budget = budget.checked_sub(1)?;
    Some(left)
}

fn label(effect: &Effect) -> Label {
    match effect {
        Effect::Run(workflow::Step::Record(status), _) => format!("run is {:?}", status.phase),
        Effect::Run(workflow::Step::Create(task, _), _) => format!("create task {task:?}"),
        Effect::Run(workflow::Step::Stop(name, _), _) => format!("stop {name}"),
        Effect::Run(step, _) => format!("{step:?}"),
        Effect::Task(task, attempt::Step::Record(status), _) => {
            format!("task {task:?} is {:?} {:?}", status.phase, status.reason)
        }
        Effect::Task(task, step, _) => format!("{step:?} of task {task:?}"),
    }
}

fn created(te: &TaskExecution, now: Time) -> TaskExecution {
    let mut te = te.clone();
    te.metadata.uid = Some(format!("uid-{}", key(&te)));
    te.metadata.creation_timestamp = Some(status::seconds(now));
    te
}

/// The workflow's wish in the spec of one of its task executions.
fn wish(state: &mut State, name: &str, how: impl FnOnce(&mut TaskExecution)) {
    let mut tasks = state.truth.tasks.values_mut();
    if let Some(object) = tasks.find(|te| te.value.name_any() == name) {
        let mut te = (*object.value).clone();
        how(&mut te);
        *object = Object::new(te);
    }
}

/// Changes a pod, which may be its end.
fn change(state: &mut State, key: PodKey, how: impl Fn(&mut Pod)) {
    let Some(object) = state.truth.pods.get_mut(&key) else {
        return;
    };
    let mut pod = (*object.value).clone();
    how(&mut pod);
    match pods::is_gone(&pod) {
        true => drop(state.truth.pods.remove(&key)),
        false => *object = Object::new(pod),
    }
}

fn start(pod: &mut Pod, now: Time) {
    pod.status = Some(status::bound(pod, now));
    pod.spec.get_or_insert_default().node_name = Some("node".to_owned());
    pod.status = Some(status::creating(pod, now));
    pod.status = Some(status::running(pod, now, false));
}

fn killed(now: Time) -> status::End {
    status::End::new(137, "Error", now)
}

fn end(pod: &mut Pod, code: i32, now: Time) {
    let reason = if code == 0 { "Completed" } else { "Error" };
    pod.status = Some(status::terminated(
        pod,
        &status::End::new(code, reason, now),
    ));
    pod.status = Some(status::over(pod, now));
    if pod.metadata.deletion_timestamp.is_some() {
        pod.metadata.deletion_grace_period_seconds = Some(0);
    }
}

/// What a world begins with.
pub fn begin(workflow: compozy::api::Workflow, definition: &Definition, left: Left) -> State {
    let truth = super::state::Objects {
        run: Some(Object::new(workflow)),
        ..super::state::Objects::default()
    };
    let run = &truth.run.as_ref().unwrap().value;
    let memory = memory::rebuild(definition, run, &BTreeMap::new());
    State {
        cache: truth.clone(),
        truth,
        late: std::collections::BTreeSet::new(),
        memory,
        pending: BTreeMap::new(),
        straggler: None,
        now: Time("2026-01-01T00:00:00Z".parse().unwrap()),
        left,
        taken: BTreeMap::new(),
    }
}
