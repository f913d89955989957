//! The wiring: what happens in the cluster, and what is done about it.

pub mod callout;
pub mod calls;
pub mod cluster;
pub mod dispatches;
mod drive;
pub mod executions;
pub mod fence;
pub mod fresh;
mod gaps;
pub mod http;
pub mod hub;
pub mod index;
pub mod issuer;
pub mod lease;
pub mod metrics;
pub mod mirror;
pub mod outbox;
pub mod process;
pub mod progress;
pub mod publishing;
pub mod queue;
pub mod release;
pub mod retelling;
pub mod servers;
pub mod settings;
pub mod survey;
pub mod system;
#[cfg(test)]
mod testing;
pub mod time;
pub mod unparsable;
pub mod warnings;
pub mod watch;
pub mod workflows;

/// What ends the operator.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
