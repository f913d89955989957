//! The model of the API server: the operator runs on it, and a real API server answers as it does.

// A test's helpers fail the test the same way as the test itself.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../simulation/api_server/mod.rs"]
mod api_server;
mod compare;
mod conformance;
mod objects;
mod operator;
mod real;
mod sides;
mod steps;
