//! The executor: what runs beside the code that does the work. Everything with tokio and child processes.
//!
//! `serve` takes the calls of a tool and lets a `handler` answer them; `call` is the other end, for people and scripts.
//! `worker` takes the tasks of a pool and lets a `handler` run them.

pub mod call;
pub mod command_line;
pub mod handler;
pub mod install;
pub mod ready;
pub mod serve;
pub mod worker;

mod answers;
mod recent;

/// Why the executor ends.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// How serving a tool, or working for a pool, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All that was taken is done.
    Finished,
    /// Some was cut off when the grace was over; who waits for it was told.
    CutOff,
}
