//! The messages between the operator, executors, tools and NATS servers: subjects and bodies. Names
//! are those of the flow documents. Pure.

pub mod callout;
pub mod pool;
pub mod tool;
