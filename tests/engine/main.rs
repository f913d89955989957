//! The pure engine in worlds that are played: the cases of the conformance corpus, and small
//! worlds that are explored exhaustively.

// A test's helpers fail the test the same way as the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;
#[path = "../corpus/mod.rs"]
mod corpus;
mod played;
mod small_worlds;
