//! Whether the stream still holds the events of objects that were let go.

use std::time::Duration;

use tokio::time::Instant;

use super::{Mirror, RETRY_FIRST};
use crate::api::MirrorPosition;
use crate::events::{Entity, had_its_time, own_sequence};
use crate::ports::BusError;

/// An object that was let go can wait: when the connection comes back it is asked about at once.
const STANDING_PAUSE: Duration = Duration::from_secs(30);

/// What the stream says of an object that was let go.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// It holds what the receipt says, or held it for its time.
    Stands,
    /// It holds it, at another place than the receipt says.
    Elsewhere(MirrorPosition),
    /// It lost it.
    Missing,
}

impl Mirror {
    /// Whether the stream still holds what it held of an object that was let go.
    ///
    /// # Errors
    /// When to ask again, if that cannot be told now.
    pub async fn standing(
        &self,
        entity: Entity,
        uid: &str,
        receipt: &MirrorPosition,
    ) -> Result<Standing, Duration> {
        let later = |_: BusError| STANDING_PAUSE.mul_f64(0.5 + fastrand::f64() / 2.0);
        let asked = Instant::now();
        let before = self.stream().await.map_err(later)?;
        let stored = self.bus.last(&self.subjects.chain(entity, uid)).await;
        let stored = stored
            .inspect_err(|_| self.books().doubt())
            .map_err(later)?;
        let here = receipt.stream == before.identity.created;
        let stream = match stored {
            None if here => self.ask(asked).await.map_err(later)?,
            _ => before.clone(),
        };
        if self.epoch() != before.epoch {
            return Err(RETRY_FIRST);
        }
        let told = stored
            .as_ref()
            .and_then(|stored| Some((own_sequence(uid, stored)?, stored.stream_sequence)));
        Ok(match told {
            Some((seq, stream_seq)) if seq >= receipt.seq => {
                let found = MirrorPosition {
                    seq,
                    stream: stream.identity.created,
                    stream_seq,
                };
                match found == *receipt {
                    true => Standing::Stands,
                    false => Standing::Elsewhere(found),
                }
            }
            None if here && had_its_time(receipt.stream_seq, stream.identity.first_sequence) => {
                Standing::Stands
            }
            _ => Standing::Missing,
        })
    }
}
