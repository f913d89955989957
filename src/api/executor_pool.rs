//! `ExecutorPool`: workers that are there before the tasks are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The pool that runs a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolRef {
    /// The name of an ExecutorPool in the workflow's namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Which of the pool's functions is meant: its program is told. For pools that can do more than
    /// one thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub handler: Option<String>,
}
