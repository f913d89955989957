//! Where every observation comes in, from the watches and from the answers to our own writes,
//! and is told to whoever it concerns.

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};

use super::{
    gaps::StepGaps,
    index::{Change, Index, Key, is_held, key_of, sibling},
    outbox::Outbox,
    queue::Queue,
    unparsable::Unparsable,
};
use crate::{
    api::{ANNOTATION_MIRRORED, MirrorPosition, TaskExecution, Workflow},
    engine::outcome::{self, PodState},
};

/// An object whose events are mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mirrored {
    /// A workflow.
    Workflow(Key),
    /// A task execution.
    Execution(Key),
}

/// The index and the queues.
#[derive(Default)]
pub struct Hub {
    /// What is known.
    pub index: Index,
    /// Workflows to look at.
    pub workflows: Queue<Key>,
    /// Task executions to look at.
    pub executions: Queue<Key>,
    /// Objects to publish.
    pub mirrored: Queue<Mirrored>,
    /// Objects to show as unparsable.
    pub unparsable: Queue<Unparsable>,
