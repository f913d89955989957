//! Every decision, pure: what goes in is an argument, what comes out is a value.
//! No I/O, no clock, no randomness, no Kubernetes client.

pub mod admission;
pub mod attempt;
pub mod backoff;
pub mod container;
pub mod definition;
pub mod expression;
pub mod field_error;
pub mod graph;
pub mod names;
pub mod notice;
pub mod outcome;
pub mod plan;
pub mod pod;
pub mod resolve;
pub mod rights;
pub mod run;
pub mod server;
pub mod spec_hash;
pub mod workflow;
