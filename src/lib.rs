//! compozy-operator: workflows as Kubernetes resources, run as pods, mirrored to NATS JetStream.
//!
//! Data goes one way: watch → index → decide → apply → mirror. `ARCHITECTURE.md` is the map.

pub mod api;
pub mod engine;
pub mod events;
pub mod executor;
pub mod logs;
pub mod operator;
pub mod ports;
pub mod protocol;
