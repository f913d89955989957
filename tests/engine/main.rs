//! The pure engine in worlds that are played: the cases of the conformance corpus.

// A test's helpers fail the test the same way as the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;
#[path = "../corpus/mod.rs"]
mod corpus;
mod played;
