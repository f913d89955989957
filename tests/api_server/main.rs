//! The model of the API server against a real one.

#[path = "../simulation/api_server/mod.rs"]
mod api_server;
mod operator;
