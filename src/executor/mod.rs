//! The executor: what runs beside the code that does the work. Everything with tokio and child processes.
//!
//! `serve` takes the calls of a tool and lets a `handler` answer them; `call` is the other end, for people and scripts.

pub mod call;
pub mod command_line;
pub mod handler;
pub mod install;
pub mod ready;
pub mod serve;

mod answers;
mod recent;

/// Why the executor ends.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
