//! Every decision, pure: what goes in is an argument, what comes out is a value.
//! No I/O, no clock, no randomness, no Kubernetes client.

pub mod admission;
pub mod expression;
pub mod field_error;
pub mod outcome;
pub mod pod;
