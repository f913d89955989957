//! The event protocol: what is said about a change of state, where, and in which order. No I/O.
//!
//! `status.transitions` of an object is its outbox. [`Object`] turns each transition into a message (a CloudEvent in
//! binary mode), and [`Chain`] decides which message goes next, whatever the stream answers.

mod chain;
mod failure;
mod message;
mod names;
mod outbox;
pub mod payload;
mod schema;
#[cfg(test)]
mod tests;

pub use chain::{Chain, Entry, Filter, Next, Step, Turn, had_its_time, own_sequence};
pub use message::Event;
pub use names::{Entity, Subjects};
pub use outbox::Object;
pub use schema::schemas;
