//! The messages between the operator, executors and tools: subjects and bodies. Names are those of
//! the flow documents. Pure.

pub mod tool;
