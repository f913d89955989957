//! The cases of the conformance corpus in the simulation: what their users do and what API server
//! and strangers do to their pods, beside the kubelet; and what is seen of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use compozy::{
    api::{LABEL_ATTEMPT, LABEL_INDEX, LABEL_TASK, TaskEvent, TaskExecution, TaskPhase, Workflow},
    engine::names,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    api_server::{Change, Key, Kind, Request},
    corpus::{
        Case,
        check::{self, Seen},
        expect::Told,
        key, key_of,
        kubelet::status,
        laws,
        script::{Act, Moment},
    },
    faults::Faults,
    scenario::Scenario,
    seed::{self, Outcome},
    systematic::disturbance::Place,
    world::{NAMESPACE, STANDBY, World},
};

/// Cases that are not played here, and why.
const NOT_HERE: &[(&str, &str)] = &[];

/// Users act so many milliseconds after the time that their script says: a run begins a little
/// after its creation, from which they count.
const UNPUNCTUAL: u64 = 100;

/// Every case that is played here.
pub fn all() -> Vec<Arc<Case>> {
    let cases = crate::corpus::cases();
    for (name, why) in NOT_HERE {
        let known = cases.iter().any(|case| case.name == *name);
        assert!(known, "there is no case {name} to leave out, {why}");
    }
    let here = |case: &Case| !NOT_HERE.iter().any(|(name, _)| *name == case.name);
    cases.into_iter().filter(here).map(Arc::new).collect()
}

/// Plays a case, beside a standby or not; `place` is where something goes wrong.
pub fn play(case: &Arc<Case>, standby: bool, place: Option<Place>) -> Outcome {
    let mut scenario = Scenario::of(case);
    scenario.replicas += usize::from(standby);
    // The second one of them may also begin when the first one sleeps.
    let mut world = World::new(0, Faults::none(), scenario, STANDBY + 1);
    world.course.place = place;
    seed::play(0, world)
}

/// A case under way.
pub struct UnderWay {
    case: Arc<Case>,
    /// The acts of users that are still to come.
    acts: Vec<usize>,
    workflow: Option<Workflow>,
    executions: BTreeMap<String, TaskExecution>,
    /// Tasks whose execution somebody takes away.
    taken: BTreeSet<String>,
    /// Every pod as it was created, with its task.
    pods: Vec<(String, Pod)>,
    /// The pods that are there.
    there: BTreeMap<String, Pod>,
    /// Attempts whose container runs or ran.
    ran: BTreeSet<(String, u32)>,
    told: Vec<Told>,
    waits: BTreeMap<String, Vec<String>>,
    /// When each pod was first refused.
    refused: BTreeMap<String, u64>,
    /// Pods of somebody else that are to take a name, and for how many milliseconds.
    strangers: Vec<(String, u64)>,
}

impl UnderWay {
    pub fn new(case: Arc<Case>) -> UnderWay {
        UnderWay {
            acts: (0..case.script.user.len()).collect(),
            case,
            workflow: None,
            executions: BTreeMap::new(),
            taken: BTreeSet::new(),
            pods: Vec::new(),
            there: BTreeMap::new(),
            ran: BTreeSet::new(),
            told: Vec::new(),
            waits: BTreeMap::new(),
            refused: BTreeMap::new(),
            strangers: Vec::new(),
        }
    }

    /// Whether somebody is still to act.
    pub fn waits_for_users(&self) -> bool {
        !self.acts.is_empty()
    }

    /// A write. Says which law it breaks, if it breaks one.
    pub fn observe(&mut self, change: &Change) -> Option<String> {
        let broken = match change.key.kind {
            Kind::Workflow => self.observe_workflow(change),
            Kind::TaskExecution => self.observe_execution(change),
            Kind::Pod => {
                self.observe_pod(change);
                None
            }
            _ => return None,
        };
        broken.or_else(|| self.broken())
    }

    /// The law of a moment that is broken, if one is.
    fn broken(&self) -> Option<String> {
        let executions = self.executions.iter();
        laws::broken(&laws::Moment {
            workflow: self.workflow.as_ref()?,
            executions: executions
                .filter(|(task, _)| !self.taken.contains(*task))
                .map(|(_, te)| te)
                .collect(),
            pods: self.there.values().collect(),
            taken: self.taken.iter().map(String::as_str).collect(),
        })
    }

    fn observe_workflow(&mut self, change: &Change) -> Option<String> {
        let workflow = parsed::<Workflow>(change.after.as_deref())?;
        let status = workflow.status.clone().unwrap_or_default();
        let before = self.workflow.as_ref();
        let before = before
            .and_then(|seen| seen.status.clone())
            .unwrap_or_default();
        let newest = before.transitions.last().map_or(0, |seen| seen.seq);
        let new = status.transitions.iter().filter(|seen| seen.seq > newest);
        self.told.extend(new.map(|seen| told(None, &seen.event)));
        self.workflow = Some(workflow);
        laws::broken_by_run(&before, &status)
    }

    fn observe_execution(&mut self, change: &Change) -> Option<String> {
        let te = parsed::<TaskExecution>(change.after.as_deref())?;
        let task = key(&te);
        let status = te.status.clone().unwrap_or_default();
        let known = self.executions.get(&task);
        let before = known.and_then(|te| te.status.clone()).unwrap_or_default();
        if known.is_none() {
            self.told.push(told(Some(&task), &TaskEvent::Scheduled));
            self.strangers.extend(self.names_to_take(&te));
        }
        let newest = before.transitions.last().map_or(1, |seen| seen.seq);
        let new = status.transitions.iter().filter(|seen| seen.seq > newest);
        self.told
            .extend(new.map(|seen| told(Some(&task), &seen.event)));
        if let (TaskPhase::Pending, Some(reason)) = (status.phase, &status.reason)
            && status.stopping.is_none()
        {
            let shown = self.waits.entry(task.clone()).or_default();
            if shown.last() != Some(reason) {
                shown.push(reason.clone());
            }
        }
        self.executions.insert(task, te);
        // Metadata may change at any time.
        (before != status)
            .then(|| laws::broken_by_task(&before, &status))
            .flatten()
    }

    fn names_to_take(&self, te: &TaskExecution) -> Vec<(String, u64)> {
        let numbered = (1..).zip(self.case.attempts(&key(te)));
        numbered
            .filter_map(|(number, attempt)| {
                let span = attempt.before.name_taken?.get().as_millis();
                let name = names::pod_name(&te.name_any(), number);
                Some((name, u64::try_from(span).unwrap_or(u64::MAX)))
            })
            .collect()
    }

    fn observe_pod(&mut self, change: &Change) {
        let Some(pod) = parsed::<Pod>(change.after.as_deref()) else {
            self.there.remove(&change.key.name);
            return;
        };
        let Some((task, attempt)) = whose(&pod) else {
            return;
        };
        if matches!(status::main_state(&pod), status::Main::Running(_)) {
            self.ran.insert((task.clone(), attempt));
        }
        if change.before.is_none() {
            self.pods.push((task, pod.clone()));
        }
        self.there.insert(change.key.name.clone(), pod);
    }

    fn is_due(&self, act: usize) -> bool {
        match &self.case.script.user[act].when {
            // These are on the agenda.
            Moment::Passed(_) => false,
            Moment::Runs(one) => self.ran.contains(&(one.task.clone(), one.attempt)),
            Moment::Fails(one) => self.executions.get(&one.task).is_some_and(|te| {
                let attempts = te.status.iter().flat_map(|status| &status.attempts);
                let mut failed = attempts.filter(|seen| seen.class.is_some());
                failed.any(|seen| seen.number == one.attempt)
            }),
            Moment::Ended(task) => self.executions.get(task).is_some_and(|te| {
                let status = te.status.as_ref();
                status.is_some_and(|status| status.phase.is_final())
            }),
        }
    }

    /// What was seen, as the corpus wants it.
    fn seen(&self) -> Seen {
        let mut executions = self.executions.clone();
        executions.retain(|task, _| !self.taken.contains(task));
        Seen {
            workflow: self
                .workflow
                .as_ref()
                .unwrap_or(&self.case.workflow)
                .clone(),
            executions,
            pods: self.pods.clone(),
            told: self.told.clone(),
            waits: Some(self.waits.clone()),
        }
    }

    /// How it ended, in parts that have a name: what no disturbance may change.
    pub fn ending(&self) -> BTreeMap<String, Value> {
        let mut parts = BTreeMap::new();
        let seen = self.seen();
        let run = seen.workflow.status.unwrap_or_default();
        let events: Vec<_> = run.transitions.iter().map(|seen| seen.event).collect();
        let error = run.error.as_ref().map(|error| &error.code);
        let rows: Vec<_> = run
            .tasks
            .iter()
            .map(|row| (&row.name, &row.phase, &row.items))
            .collect();
        parts.insert("run phase".to_owned(), json!(run.phase));
        parts.insert("run events".to_owned(), json!(events));
        parts.insert("run outputs".to_owned(), json!(run.outputs));
        parts.insert("run error".to_owned(), json!(error));
        parts.insert("run rows".to_owned(), json!(rows));
        for (task, te) in &seen.executions {
            let status = te.status.clone().unwrap_or_default();
            let events: Vec<_> = status.transitions.iter().map(|seen| seen.event).collect();
            let attempts: Vec<_> = status
                .attempts
                .iter()
                .map(|seen| (seen.number, &seen.reason, seen.class, seen.exit_code))
                .collect();
            let error = status.error.as_ref().map(|error| &error.code);
            let pods = seen.pods.iter().filter(|(of, _)| of == task).count();
            parts.insert(format!("{task} phase"), json!(status.phase));
            parts.insert(format!("{task} events"), json!(events));
            parts.insert(format!("{task} attempts"), json!(attempts));
            parts.insert(format!("{task} inputs"), json!(te.spec.inputs));
            parts.insert(format!("{task} outputs"), json!(status.outputs));
            parts.insert(format!("{task} error"), json!(error));
            parts.insert(format!("{task} pods"), json!(pods));
        }
        parts
    }
}

impl World {
    /// Puts on the agenda what users do at a given time.
    pub fn begin_case(&mut self) {
        let Some(case) = &self.case else { return };
        let timed: Vec<_> = case
            .acts
            .iter()
            .filter_map(|&act| match case.case.script.user[act].when {
                Moment::Passed(span) => Some((act, span.get().as_millis())),
                _ => None,
            })
            .collect();
        let created = self.scenario.workflows[0].at;
        for (act, passed) in timed {
            let wait = created + u64::try_from(passed).unwrap_or(u64::MAX) + UNPUNCTUAL;
            self.later(wait, move |world| world.act_in_case(act));
        }
    }

    /// Users do what is due by now, and strangers take names.
    pub fn play_case(&mut self) {
        let Some(case) = &mut self.case else { return };
        let strangers = std::mem::take(&mut case.strangers);
        let due: Vec<_> = case
            .acts
            .iter()
            .copied()
            .filter(|&act| case.is_due(act))
            .collect();
        for (name, span) in strangers {
            self.later(0, move |world| {
                world.take_name(&name, span);
            });
        }
        for act in due {
            self.later(0, move |world| world.act_in_case(act));
        }
    }

    fn act_in_case(&mut self, act: usize) {
        let Some(case) = &mut self.case else { return };
        if !case.acts.contains(&act) {
            return;
        }
        case.acts.retain(|other| *other != act);
        let script = case.case.clone();
        let workflow = script.name.as_str();
        let patch = |spec: Value| {
            let patch = json!({ "spec": spec });
            Request::merge_patch(Kind::Workflow, NAMESPACE, workflow, patch)
        };
        let request = match &script.script.user[act].act {
            Act::Cancel(cancel) => patch(json!({ "cancel": cancel })),
            Act::Suspend(suspend) => patch(json!({ "suspend": suspend })),
            Act::DeleteWorkflow(_) => {
                Request::delete(Kind::Workflow, NAMESPACE, workflow, Value::Null)
            }
            Act::DeleteTask(task) => {
                let name = case.executions[task].name_any();
                Request::delete(Kind::TaskExecution, NAMESPACE, &name, Value::Null)
            }
            Act::StripTask(task) => return self.strip_task(task),
            Act::ChangeInputs(inputs) => return self.change_inputs(workflow, &json!(inputs)),
        };
        drop(self.ask("user", &request));
    }

    fn strip_task(&mut self, task: &str) {
        let Some(case) = &mut self.case else { return };
        case.taken.insert(task.to_owned());
        let te = case.executions[task].clone();
        self.laws.stripped(&te.uid().unwrap_or_default());
        let key = Key::new(Kind::TaskExecution, NAMESPACE, &te.name_any());
        self.strip(Kind::TaskExecution, &key);
    }

    /// As if there were no rule that forbids it.
    fn change_inputs(&mut self, name: &str, inputs: &Value) {
        let Some(stored) = self.api.get(Kind::Workflow, NAMESPACE, name) else {
            return;
        };
        let mut object = (**stored).clone();
        object["spec"]["inputs"] = inputs.clone();
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(1);
        object["metadata"]["generation"] = json!(generation + 1);
        self.store("user", Key::new(Kind::Workflow, NAMESPACE, name), object);
    }

    /// In which words the API server refuses a pod, if the script says that it does.
    pub fn refused_by_script(&mut self, pod: &Value) -> Option<String> {
        let now = self.now();
        let case = self.case.as_mut()?;
        let pod: Pod = parsed(Some(pod))?;
        let (task, attempt) = whose(&pod)?;
        let refused = case.case.attempt(&task, attempt)?.before.refused.as_ref()?;
        let first = *case.refused.entry(pod.name_any()).or_insert(now);
        let over = refused
            .lasts
            .is_some_and(|lasts| u128::from(now - first) >= lasts.get().as_millis());
        (!over).then(|| refused.message.clone())
    }
}

/// The task execution, by its key, and the attempt that a pod is of; none if it is a stranger's.
fn whose(pod: &Pod) -> Option<(String, u32)> {
    let index = pod.labels().get(LABEL_INDEX);
    let index = index.and_then(|index| index.parse().ok());
    let task = key_of(pod.labels().get(LABEL_TASK)?, index);
    let attempt = pod.labels().get(LABEL_ATTEMPT)?.parse().ok()?;
    Some((task, attempt))
}

fn parsed<T: DeserializeOwned>(object: Option<&Value>) -> Option<T> {
    T::deserialize(object?).ok()
}

fn told(task: Option<&str>, event: &impl serde::Serialize) -> Told {
    Told {
        task: task.map(str::to_owned),
        event: json!(event).as_str().unwrap_or_default().to_owned(),
    }
}

/// What of a case is not as it expects, a line each.
fn contradictions(case: &Arc<Case>) -> Vec<String> {
    let outcome = play(case, false, None);
    let world = outcome.world.lock();
    let seen = world.case.as_ref().map(UnderWay::seen);
    let mut found = outcome.broken.clone();
    found.extend(
        seen.iter()
            .flat_map(|seen| check::contradictions(case, seen)),
    );
    if !found.is_empty() {
        println!("{}\n{}\n", case.name, outcome.trace.join("\n"));
    }
    let shows = &case.expect.shows;
    let line = |line| format!("{} ({shows}): {line}", case.name);
    found.into_iter().map(line).collect()
}

/// All cases, or the one that `CASE` names.
#[test]
fn every_case_ends_as_expected_in_the_simulation() {
    let wanted = std::env::var("CASE").ok();
    let cases = all();
    let here = |case: &&Arc<Case>| wanted.as_ref().is_none_or(|wanted| *wanted == case.name);
    let found: Vec<_> = cases.iter().filter(here).flat_map(contradictions).collect();
    assert!(
        found.is_empty(),
        "\n{}\none alone: CASE=NAME cargo test --test simulation every_case",
        found.join("\n")
    );
}
