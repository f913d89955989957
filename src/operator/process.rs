//! The operator as a process: what it gets from the outside, probes, and its end by a signal.

use std::sync::Arc;

use kube::{Client, Config};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use super::{
    Error,
    callout::Callout,
    http, issuer,
    settings::Settings,
    system::{Outside, System},
};
use crate::ports::{Bus, Calls, Ids, NatsBus, Pools, RandomIds, SystemClock};

/// A list whose answer never comes, or a watch whose connection is dead without a word, would be
/// waited for for ever. A watch is ended by the API server before that, after 290 s.
const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(300);

/// Runs until a signal to end, or until the lease is lost.
///
/// # Errors
/// What keeps the operator from starting, and the loss of the lease: the process must end then,
/// so that a standby's work meets none of ours.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let mut termination = Termination::listen()?;
    let mut config = Config::infer().await?;
    // Every call has a timeout of our own; retries are the queues', which know what is stale.
    config.default_retry = false;
    config.read_timeout = Some(READ_TIMEOUT);
    let bus = bus(&settings).await?;
    let client = Client::try_from(config)?;
    let callout = callout(&settings, &client, bus.as_ref())?;
    let outside = Outside {
        client,
        calls: bus
            .as_ref()
            .map(|bus| Arc::new(bus.calls()) as Arc<dyn Calls>),
        pools: bus
            .as_ref()
            .map(|bus| Arc::new(bus.pools()) as Arc<dyn Pools>),
        bus: bus.map(|bus| Arc::new(bus) as Arc<dyn Bus>),
        clock: Arc::new(SystemClock),
        // Not what the settings say: a process that starts anew may have the same.
        caller: identity(),
        identity: settings.identity.clone().unwrap_or_else(identity),
    };
    let address = settings.http_address;
    let system = System::new(settings, outside)?;
    let health = system.health();
    let served = async {
        if let Err(error) = http::serve(address, health).await {
            error!(%error, %address, "cannot serve HTTP; choose another --http-address");
        }
    };
    let end = async {
        tokio::select! {
            biased;
            () = termination.requested() => Ok(()),
            () = served => Err("HTTP is no longer served".into()),
            () = vouch(callout) => Err("nobody tells NATS any more who connects".into()),
        }
    };
    system.run(end).await
}

fn identity() -> String {
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
    format!(
        "{}-{}",
        host.unwrap_or_else(|_| "operator".to_owned()),
        RandomIds::new().token()
    )
}

async fn bus(settings: &Settings) -> Result<Option<NatsBus>, Error> {
    let Some(options) = settings.nats() else {
        info!("no NATS URL: events are not mirrored");
        return Ok(None);
    };
    Ok(Some(NatsBus::connect(options).await?))
}

/// Who tells NATS who connects, if it asks us.
fn callout(
    settings: &Settings,
    client: &Client,
    bus: Option<&NatsBus>,
) -> Result<Option<Callout>, Error> {
    let (Some(key), Some(bus)) = (&settings.nats_issuer_key_file, bus) else {
        return Ok(None);
    };
    let (issuer, prefix) = (issuer::read(key)?, &settings.nats_prefix);
    let clock = Arc::new(SystemClock);
    let callout = Callout::new(client.clone(), bus.callout(), issuer, prefix, clock);
    Ok(Some(callout))
}

async fn vouch(callout: Option<Callout>) {
    match callout {
        Some(callout) => callout.run().await,
        None => std::future::pending().await,
    }
}

/// SIGTERM and SIGINT, listened for from the beginning: none gets lost between two waits.
struct Termination {
    term: Signal,
    int: Signal,
}

impl Termination {
    fn listen() -> std::io::Result<Termination> {
        Ok(Termination {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits until one of them comes.
    async fn requested(&mut self) {
        tokio::select! {
            biased;
            _ = self.term.recv() => info!("SIGTERM: ending"),
            _ = self.int.recv() => info!("SIGINT: ending"),
        }
    }
}
