//! Expressions: CEL between `${{` and `}}`, in the strings of a workflow.
//!
//! A string is compiled once, when the workflow is admitted: syntax, names, functions and
//! references are checked there. What only data can show is an [`EvaluationError`] at run time.
//! Results are data: they are never evaluated again.
//!
//! ```
//! use compozy::engine::expression::{Scope, Template, WorkflowScope};
//! use serde_json::json;
//! use std::collections::BTreeMap;
//!
//! let template = Template::compile("hello ${{ inputs.who }}")?;
//! let inputs = json!({"who": "world"});
//! let tasks = BTreeMap::new();
//! let workflow = WorkflowScope { name: "hello", namespace: "default", uid: "1" };
//! let scope = Scope { inputs: &inputs, workflow, tasks: &tasks, item: None };
//! assert_eq!(template.evaluate(&scope)?, json!("hello world"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Bounds
//!
//! The authors of workflows are not the owners of the operator, so nothing they write may stop it.
//! The size and depth of an expression are bounded before it is parsed ([`MAX_EXPRESSION_BYTES`],
//! [`MAX_DEPTH`]), its work and memory while it runs ([`MAX_STEPS`]), and what it returns
//! ([`MAX_OUTPUT_BYTES`], [`MAX_OUTPUT_DEPTH`]). Iteration over a map goes by sorted keys, so the
//! same data always gives the same result.

mod check;
mod compiled;
mod convert;
mod error;
mod explain;
mod functions;
mod instrument;
mod kubelet;
mod meter;
mod names;
mod pattern;
mod references;
mod scan;
mod scope;
mod stack;
mod template;
#[cfg(test)]
mod tests;
mod tree;

pub use convert::{from_cel, to_cel};
pub use error::{CompileError, EvaluationError};
pub use functions::{CallStyle, FUNCTIONS, MACROS};
pub use references::{References, TaskFields};
pub use scope::{ItemScope, Scope, TaskScope, WorkflowScope};
pub use template::Template;
pub use tree::ValueTemplate;

/// How long one expression may be, in bytes, without its `${{` and `}}`.
pub const MAX_EXPRESSION_BYTES: usize = 4096;

/// How deep an expression may be. Every operator in a row counts one, every bracket inside another
/// four: that is how they weigh on the stack of the parser, which is recursive.
pub const MAX_DEPTH: usize = 128;

/// How much one evaluation may do: a step is one node of the expression evaluated, or one value (or
/// 32 bytes of text) copied, compared or searched. All expressions of one template share it. A
/// million takes about a tenth of a second and a hundred megabytes at most.
pub const MAX_STEPS: u64 = 1_000_000;

/// How large all results of one evaluation may be together, in bytes of JSON.
pub const MAX_OUTPUT_BYTES: usize = 256 * 1024;

/// How deep a result may be nested. `serde_json` reads 128 levels and no more, and a result is
/// stored inside an object that has some of its own: one that went deeper could be written and
/// never be read again.
pub const MAX_OUTPUT_DEPTH: usize = 100;
