//! What the operator needs of the outside, as traits, and the adapters that meet them for real.
//!
//! Everything that a simulation must control goes through here: the message bus, the time and chance.

pub mod bus;
pub mod calls;
pub mod clock;
pub mod ids;
mod jetstream;
mod jetstream_pools;
pub mod memory;
pub mod nats;
mod nats_auth;
mod nats_callout;
mod nats_calls;
mod nats_connection;
mod nats_flags;
mod nats_log;
mod nats_pools;
mod nats_worker;
pub mod pools;

pub use bus::{Bus, BusError, Message, PublishAck, PublishError, Stored, StreamIdentity};
pub use calls::{CallNews, Calls};
pub use clock::{Clock, SystemClock};
pub use ids::{Ids, RandomIds};
pub use nats::{ConnectionOptions, NatsBus, NatsOptions, StreamOptions};
pub use nats_auth::Credentials;
pub use nats_callout::NatsCallout;
pub use nats_calls::NatsCalls;
pub use nats_flags::NatsFlags;
pub use nats_pools::NatsPools;
pub use nats_worker::{Delivery, NatsWorker};
pub use pools::{Delivered, Found, Place, PoolNews, Pools, Receipt, Withdrawn};
