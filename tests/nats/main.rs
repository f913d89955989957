//! What is said to NATS, with real servers that are killed, emptied, slow, or let nobody in.

// A test's helpers fail the test the same way as the test itself.
#![allow(clippy::unwrap_used, clippy::panic)]

mod access;
mod bus;
mod callout;
mod calls;
mod mirror;
mod pool_rights;
mod pools;
mod program;
mod server;
mod stream;
mod tools;
mod worker;
