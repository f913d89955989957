//! A case played: objects, pods and a clock around the plans of the engine. Everything that is
//! due happens at once and in the same order every time; then the clock jumps to what is due next.

pub mod memory;
pub mod pods;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use compozy::{
    api::{FINALIZER_EVENTS, RunPhase, TaskExecution, TaskPhase, Time, Workflow},
    engine::{attempt, run::ExecutionIndex, workflow},
};
use kube::ResourceExt;

use crate::corpus::{
    Case,
    check::Seen,
    expect::Told,
    key,
    kubelet::status::seconds,
    laws,
    script::{Act, Moment},
};
use memory::{Executions, Memory};
use pods::Pods;

/// More rounds than this at one point in time, and something fights back.
const MAX_ROUNDS: usize = 100;

/// More points in time than this, and something never ends.
const MAX_MOMENTS: usize = 5_000;

/// How often a refused pod is tried again.
const TRY_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A case under way.
pub struct World<'a> {
    case: &'a Case,
    /// Whether the operator begins anew before each of its decisions.
    forgetful: bool,
    memory: Memory,
    workflow: Workflow,
    executions: Executions,
    pods: Pods<'a>,
    /// When each reconciler wants to look again: the workflow's is none.
    wakes: BTreeMap<Option<ExecutionIndex>, Time>,
    /// The acts of users that are still to come.
    acts: Vec<usize>,
    now: Time,
    began: Time,
    told: Vec<Told>,
    waits: BTreeMap<String, Vec<String>>,
    taken: BTreeSet<&'a str>,
}

impl<'a> World<'a> {
    /// The moment after the workflow was created.
    pub fn new(case: &'a Case, forgetful: bool) -> World<'a> {
        // Not at a full second: what Kubernetes drops of a time must not matter.
        let began = Time("2026-01-01T00:00:00.400Z".parse().unwrap());
        let mut workflow = case.workflow.clone();
        workflow.metadata.namespace = Some("n".to_owned());
        workflow.metadata.uid = Some("run".to_owned());
        workflow.metadata.generation = Some(1);
        workflow.metadata.creation_timestamp = Some(seconds(began));
        World {
            memory: Memory::rebuild(&workflow, &BTreeMap::new()),
            acts: (0..case.script.user.len()).collect(),
            pods: Pods::new(case),
            executions: BTreeMap::new(),
            wakes: BTreeMap::new(),
            told: Vec::new(),
            waits: BTreeMap::new(),
            taken: BTreeSet::new(),
            now: began,
            case,
            forgetful,
            workflow,
            began,
        }
    }

    /// Plays to the end, at which nothing is left to do.
    pub fn play(mut self) -> Seen {
        for _ in 0..MAX_MOMENTS {
            self.settle();
            let Some(next) = self.next_moment() else {
                return self.end();
            };
            assert!(next > self.now, "{}: time stands still", self.case.name);
            self.now = next;
        }
        panic!("{}: never ends: {:?}", self.case.name, self.workflow.status);
    }

    fn end(self) -> Seen {
        let phase = self.workflow.status.as_ref().map(|status| status.phase);
        assert!(
            phase.is_some_and(RunPhase::is_final),
            "{}: nothing is left to do, but the run is {phase:?}\n{}",
            self.case.name,
            summary(&self.executions),
        );
        assert!(
            self.acts.is_empty(),
            "{}: nobody came to act",
            self.case.name
        );
        let by_task = |te: Arc<TaskExecution>| (key(&te), (*te).clone());
        Seen {
            workflow: self.workflow,
            executions: self.executions.into_values().map(by_task).collect(),
            pods: self.pods.created,
            told: self.told,
            waits: Some(self.waits),
        }
    }

    /// Everything that is due now.
    fn settle(&mut self) {
        for _ in 0..MAX_ROUNDS {
            let mut happened = self.users_act();
            happened |= self.pods.advance(self.now);
            happened |= self.reconcile_workflow();
            let known: Vec<_> = self.executions.keys().copied().collect();
            for which in known {
                happened |= self.reconcile(which);
            }
            if !happened {
                return;
            }
        }
        panic!(
            "{}: does not come to rest\n{}",
            self.case.name,
            summary(&self.executions)
        );
    }

    fn assert_lawful(&self) {
        let broken = laws::broken(&laws::Moment {
            workflow: &self.workflow,
            executions: self.executions.values().map(AsRef::as_ref).collect(),
            pods: self.pods.all().collect(),
            taken: self.taken.clone(),
        });
        self.assert_none(broken);
    }

    fn assert_none(&self, broken: Option<String>) {
        if let Some(how) = broken {
            panic!("{}: {how}", self.case.name);
        }
    }

    fn next_moment(&self) -> Option<Time> {
        let acts = self
            .acts
            .iter()
            .filter_map(|&act| match self.case.script.user[act].when {
                Moment::Passed(span) => Some(self.began.after(span.get())),
                _ => None,
            });
        let wakes = self.wakes.values().copied();
        acts.chain(wakes).chain(self.pods.next_moment()).min()
    }

    fn reconcile_workflow(&mut self) -> bool {
        if self.forgetful {
            self.memory = Memory::rebuild(&self.workflow, &self.executions);
        }
        self.memory.notice_gone(&self.executions, self.now);
        self.memory.expand(&self.workflow, &self.executions);
        let unended: Vec<_> = self
            .executions
            .values()
            .filter(|te| !is_ended(te))
            .cloned()
            .collect();
        let plan = workflow::plan(&workflow::Observed {
            workflow: &self.workflow,
            graph: self.memory.graph(),
            lookup: &|which| self.executions.get(&which).cloned(),
            unended: &unended,
            all_seen: true,
            told: true,
            last_progress: self.memory.last_progress,
            now: self.now,
        });
        self.wake(None, plan.wake);
        let happened = !plan.steps.is_empty();
        for step in plan.steps {
            self.apply_to_workflow(step);
            self.assert_lawful();
        }
        happened
    }

    fn apply_to_workflow(&mut self, step: workflow::Step) {
        match step {
            workflow::Step::Hold => {
                self.workflow
                    .finalizers_mut()
                    .push(FINALIZER_EVENTS.to_owned());
            }
            workflow::Step::Record(status) => {
                let before = self.workflow.status.clone().unwrap_or_default();
                self.assert_none(laws::broken_by_run(&before, &status));
                let new = status.transitions.iter().skip(before.transitions.len());
                self.told.extend(new.map(|seen| told(None, seen.event)));
                self.workflow.status = Some(*status);
                self.memory.last_progress = Some(self.now);
            }
            workflow::Step::Create(which, te) => self.create(which, *te),
            workflow::Step::ConfirmTasks => panic!("{}: all are seen", self.case.name),
            workflow::Step::Suspend(name, suspend) => {
                self.execution_named(&name).spec.suspend = suspend;
            }
            workflow::Step::Stop(name, stop) => {
                self.execution_named(&name).spec.stop = Some(stop);
            }
        }
    }

    fn execution_named(&mut self, name: &str) -> &mut TaskExecution {
        let mut executions = self.executions.values_mut();
        Arc::make_mut(executions.find(|te| te.name_any() == name).unwrap())
    }

    fn create(&mut self, which: ExecutionIndex, mut te: TaskExecution) {
        te.metadata.uid = Some(format!("uid-{}", key(&te)));
        te.metadata.generation = Some(1);
        te.metadata.creation_timestamp = Some(seconds(self.now));
        self.told
            .push(told(Some(&key(&te)), compozy::api::TaskEvent::Scheduled));
        self.pods.expect(&te, self.now);
        self.memory.observe(which, &te);
        let before = self.executions.insert(which, Arc::new(te));
        assert!(
            before.is_none(),
            "{}: {which:?} is created twice",
            self.case.name
        );
    }

    fn reconcile(&mut self, which: ExecutionIndex) -> bool {
        let Some(te) = self.executions.get(&which).cloned() else {
            return false;
        };
        let number = attempt::current_attempt(&te);
        let decide = |view| attempt::plan(&te, view, self.pods.all(), self.now);
        let pod = self.pods.get(&te, number);
        let mut plan = decide(pod.map_or(attempt::PodView::Unseen, attempt::PodView::Cached));
        if matches!(plan.steps[..], [attempt::Step::ConfirmPod(_)]) {
            plan = decide(pod.map_or(attempt::PodView::Gone, attempt::PodView::Present));
        }
        self.wake(Some(which), plan.wake);
        let mut happened = false;
        for step in plan.steps {
            happened |= self.apply_to(which, step);
            self.assert_lawful();
        }
        happened
    }

    /// Whether something happened.
    fn apply_to(&mut self, which: ExecutionIndex, step: attempt::Step) -> bool {
        let te = self.executions[&which].clone();
        match step {
            attempt::Step::Record(status) => self.record(which, &te, *status),
            attempt::Step::CreatePod(number) => return self.create_pod(which, &te, number),
            attempt::Step::ConfirmPod(_) => panic!("{}: asks again", self.case.name),
            attempt::Step::DeletePod(number) => self.pods.delete(&te, number, self.now),
            attempt::Step::ReleasePod(number) => self.pods.release(&te, number),
            attempt::Step::FindTool
            | attempt::Step::Call(_)
            | attempt::Step::Listen(_)
            | attempt::Step::ConfirmCall(_)
            | attempt::Step::FindCommand(_)
            | attempt::Step::Dispatch(_)
            | attempt::Step::Withdraw(_)
            | attempt::Step::Cancel(_) => {
                panic!("{}: no task here is without a pod", self.case.name)
            }
        }
        true
    }

    fn create_pod(&mut self, which: ExecutionIndex, te: &TaskExecution, number: u32) -> bool {
        let Err(refused) = self.pods.create(te, number, self.now) else {
            return true;
        };
        let plan = attempt::plan_refused(te, &refused, self.now);
        let recorded = !plan.steps.is_empty();
        for step in plan.steps {
            self.apply_to(which, step);
        }
        self.wake(Some(which), Some(self.now.after(TRY_AGAIN)));
        recorded
    }

    fn record(
        &mut self,
        which: ExecutionIndex,
        te: &TaskExecution,
        status: compozy::api::TaskExecutionStatus,
    ) {
        let name = &key(te);
        let before = te.status.clone().unwrap_or_default();
        self.assert_none(laws::broken_by_task(&before, &status));
        // More than are kept in a status no case has.
        let new = status.transitions.iter().skip(before.transitions.len());
        self.told
            .extend(new.map(|seen| told(Some(name), seen.event)));
        if let (TaskPhase::Pending, Some(reason)) = (status.phase, &status.reason)
            && status.stopping.is_none()
        {
            let shown = self.waits.entry(name.clone()).or_default();
            if shown.last() != Some(reason) {
                shown.push(reason.clone());
            }
        }
        let te = Arc::make_mut(self.executions.get_mut(&which).unwrap());
        te.status = Some(status);
        self.memory.observe(which, te);
    }

    fn wake(&mut self, who: Option<ExecutionIndex>, at: Option<Time>) {
        match at {
            Some(at) => self.wakes.insert(who, at),
            None => self.wakes.remove(&who),
        };
    }

    fn users_act(&mut self) -> bool {
        let (due, later) = self.acts.iter().partition(|&&act| self.is_due(act));
        self.acts = later;
        let due: Vec<usize> = due;
        let case = self.case;
        for &act in &due {
            self.act(&case.script.user[act].act);
        }
        !due.is_empty()
    }

    fn is_due(&self, act: usize) -> bool {
        let task = |name: &str| {
            let mut executions = self.executions.values();
            executions.find(|te| key(te) == name)
        };
        match &self.case.script.user[act].when {
            Moment::Passed(span) => self.now >= self.began.after(span.get()),
            Moment::Runs(one) => task(&one.task).is_some_and(|te| self.pods.runs(te, one.attempt)),
            Moment::Fails(one) => task(&one.task)
                .and_then(|te| te.status.as_ref())
                .is_some_and(|status| {
                    let mut attempts = status.attempts.iter();
                    attempts.any(|seen| seen.number == one.attempt && seen.class.is_some())
                }),
            Moment::Ended(name) => task(name).is_some_and(|te| is_ended(te)),
        }
    }

    /// As the operator does with a spec that changed.
    fn look_anew(&mut self) {
        self.memory = Memory::rebuild(&self.workflow, &self.executions);
    }

    fn act(&mut self, act: &'a Act) {
        let find = |world: &Self, name: &str| {
            let mut executions = world.executions.iter();
            *executions.find(|(_, te)| key(te) == name).unwrap().0
        };
        match act {
            Act::Cancel(cancel) => {
                self.workflow.spec.cancel = Some(cancel.clone());
                self.look_anew();
            }
            Act::Suspend(suspend) => {
                self.workflow.spec.suspend = Some(*suspend);
                self.look_anew();
            }
            Act::ChangeInputs(inputs) => {
                self.workflow.spec.inputs = Some(inputs.clone());
                self.look_anew();
            }
            Act::DeleteWorkflow(_) => {
                self.workflow.metadata.deletion_timestamp = Some(seconds(self.now));
            }
            Act::DeleteTask(name) => {
                let task = find(self, name);
                let te = Arc::make_mut(self.executions.get_mut(&task).unwrap());
                te.metadata.deletion_timestamp = Some(seconds(self.now));
            }
            Act::StripTask(name) => {
                let task = find(self, name);
                self.executions.remove(&task);
                self.taken.insert(name);
                self.wake(Some(task), None);
            }
        }
    }
}

/// Each task execution, a line.
fn summary(executions: &Executions) -> String {
    let lines = executions.values().map(|te| {
        let status = te.status.clone().unwrap_or_default();
        format!("  {}: {:?} {:?}", key(te), status.phase, status.reason)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a task execution has reached a final phase.
fn is_ended(te: &TaskExecution) -> bool {
    te.status
        .as_ref()
        .is_some_and(|status| status.phase.is_final())
}

fn told(task: Option<&str>, event: impl serde::Serialize) -> Told {
    let event = serde_json::to_value(event).unwrap();
    Told {
        task: task.map(str::to_owned),
        event: event.as_str().unwrap().to_owned(),
    }
}
