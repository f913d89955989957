//! What happens in a case: what each pod does, attempt by attempt, and what users do when.

use std::collections::BTreeMap;

use compozy::api::{Cancel, Duration};
use serde::Deserialize;
use serde_json::{Map, Value};

/// `script.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Script {
    /// By task: what the pod of its first, second … attempt does. A pod beyond is an error.
    #[serde(default)]
    pub pods: BTreeMap<String, Vec<Attempt>>,
    /// What users do.
    #[serde(default)]
    pub user: Vec<UserAct>,
}

/// What one pod does.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Attempt {
    /// What comes before its container runs.
    pub before: Before,
    /// What becomes of it.
    pub fate: Fate,
}

impl TryFrom<Map<String, Value>> for Attempt {
    type Error = serde_json::Error;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, Self::Error> {
        let before = map.remove("before").map(Before::deserialize).transpose()?;
        Ok(Attempt {
            before: before.unwrap_or_default(),
            fate: Fate::deserialize(Value::Object(map))?,
        })
    }
}

/// What comes before a pod's container runs, in this order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Before {
    /// The API server refuses the pod, from the first try on.
    pub refused: Option<Refused>,
    /// Somebody else's pod has the name for so long.
    pub name_taken: Option<Duration>,
    /// No node has room for so long.
    pub unscheduled: Option<Duration>,
    /// The image cannot be pulled for so long.
    pub pull_fails: Option<Duration>,
    /// The node needs so long to start the container. Default 1s.
    pub starting: Option<Duration>,
    /// Something in the cluster gives the pod a second container that never ends by itself.
    pub injected: bool,
}

/// The API server does not take a pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// For how long; for ever if not said.
    #[serde(rename = "for")]
    pub lasts: Option<Duration>,
    /// In which words.
    pub message: String,
}

/// What becomes of a pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// The program exits 0.
    Succeeds(Succeeds),
    /// The program exits with another code.
    Exits(Exits),
    /// The program runs until it is stopped.
    Hangs(Hangs),
    /// The program needs more memory than its limit.
    OutOfMemory(Soon),
    /// The pod is evicted while it runs.
    Evicted(Evicted),
    /// The pod's node is lost while it runs.
    NodeLost(NodeLost),
    /// The node does not take the pod.
    RefusedByNode(Reason),
    /// The container cannot be started: its program is not there.
    CannotStart(Reason),
    /// The container never gets going, and nothing says that it never will.
    NeverStarts(NeverStarts),
    /// A container that something in the cluster added fails before the program starts.
    InitFails(Nothing),
    /// Somebody deletes the pod while it runs.
    Deleted(Soon),
    /// Somebody takes the pod away, finalizer and all, while it runs.
    Vanishes(Vanishes),
    /// The pod is active longer than its `activeDeadlineSeconds`.
    Overstays(Soon),
}

/// A program that does its work.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Succeeds {
    /// What it answers.
    pub outputs: Option<Map<String, Value>>,
    /// What else it writes to the outputs file.
    pub writes: Option<String>,
    /// It writes one JSON object of so many bytes.
    pub fills: Option<usize>,
    /// How long it runs.
    #[serde(default = "one_second")]
    pub after: Duration,
}

/// A program that fails.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exits {
    /// Its exit code.
    pub code: i32,
    /// What it writes to its log.
    #[serde(default)]
    pub log: String,
    /// What it writes to the outputs file.
    pub writes: Option<String>,
    /// How long it runs.
    #[serde(default = "one_second")]
    pub after: Duration,
}

/// A program that does not end by itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hangs {
    /// It has to be killed.
    #[serde(default)]
    pub ignores_term: bool,
}

/// Something that happens a while after the program's start.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Soon {
    /// How long after it.
    #[serde(default = "one_second")]
    pub after: Duration,
}

/// A pod that somebody takes away.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vanishes {
    /// How long after the program's start.
    #[serde(default = "one_second")]
    pub after: Duration,
    /// For so long a pod of somebody else has its name then.
    pub name_taken: Option<Duration>,
}

/// A pod that has to leave.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evicted {
    /// Who says so.
    pub by: Evictor,
    /// How long after the program's start.
    #[serde(default = "one_second")]
    pub after: Duration,
}

/// Who evicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Evictor {
    /// Somebody by the eviction API, as `kubectl drain` does.
    Api,
    /// The scheduler, for a pod of higher priority.
    Preemption,
    /// The controller of taints.
    Taint,
    /// The kubelet, low on memory or disk.
    Pressure,
    /// The kubelet, for a storage limit of the pod's own.
    OwnLimit,
}

/// A node that is lost.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeLost {
    /// What is seen of that.
    pub how: Loss,
    /// How long after the program's start.
    #[serde(default = "one_second")]
    pub after: Duration,
}

/// What is seen of a lost node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Loss {
    /// The Node object is deleted, and the garbage collector of pods takes its pods away.
    Removed,
    /// The node shuts down in order and says so.
    Shutdown,
    /// The node comes back and does not know the container.
    Forgotten,
    /// Nothing: it does not answer any more.
    Silent,
}

/// Why something does not go, in the cluster's words.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reason {
    /// In one word.
    pub reason: String,
    /// For a person.
    #[serde(default)]
    pub message: String,
}

/// What a container waits for in vain.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NeverStarts {
    /// What for.
    pub lacks: Lack,
    /// What the cluster says of it.
    #[serde(default)]
    pub message: String,
}

/// What a container waits for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Lack {
    /// A node with room.
    Node,
    /// The image.
    Image,
    /// An image name that is one.
    ImageName,
    /// A user other than root, which is what the image runs as.
    User,
    /// A Secret or ConfigMap.
    Secret,
    /// A volume, of which only Kubernetes Events tell.
    Volume,
}

/// No more to say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// What a user does.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserAct {
    /// When.
    pub when: Moment,
    /// What.
    #[serde(rename = "do")]
    pub act: Act,
}

impl UserAct {
    /// The tasks that it speaks of.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        let moment = match &self.when {
            Moment::Passed(_) => None,
            Moment::Runs(attempt) | Moment::Fails(attempt) => Some(attempt.task.as_str()),
            Moment::Ended(task) => Some(task.as_str()),
        };
        let act = match &self.act {
            Act::DeleteTask(task) | Act::StripTask(task) => Some(task.as_str()),
            _ => None,
        };
        moment.into_iter().chain(act)
    }
}

/// When a user acts.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Moment {
    /// So long after the workflow's creation.
    Passed(Duration),
    /// As soon as the container of this attempt runs.
    Runs(OneAttempt),
    /// As soon as the failure of this attempt is recorded.
    Fails(OneAttempt),
    /// As soon as this task has ended.
    Ended(String),
}

/// One attempt of a task.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OneAttempt {
    /// The task.
    pub task: String,
    /// The attempt, from 1.
    #[serde(default = "first")]
    pub attempt: u32,
}

/// What a user does.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Act {
    /// Sets `spec.cancel`.
    Cancel(Cancel),
    /// Sets `spec.suspend`.
    Suspend(bool),
    /// Deletes the workflow.
    DeleteWorkflow(Nothing),
    /// Deletes the task execution of a task.
    DeleteTask(String),
    /// Deletes the task execution of a task and takes its finalizer off.
    StripTask(String),
    /// Changes the inputs, which the definitions forbid and somebody replaced.
    ChangeInputs(Map<String, Value>),
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn first() -> u32 {
    1
}
