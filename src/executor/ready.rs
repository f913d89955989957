//! Shows whether calls are taken: a port that is open as long as NATS is connected, for a `tcpSocket` probe.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::warn;

use crate::ports::NatsCalls;

/// How often the connection is looked at: a probe comes every two seconds.
const LOOK: Duration = Duration::from_millis(250);

/// Opens and closes the port, for ever.
pub async fn show(address: SocketAddr, calls: &NatsCalls) {
    let mut complained = false;
    loop {
        if calls.connected() {
            match TcpListener::bind(address).await {
                Ok(listener) => stay_open(&listener, calls).await,
                Err(error) if !complained => {
                    complained = true;
                    warn!(%address, %error, "cannot show that calls are taken; choose another --ready-address");
                }
                Err(_) => {}
            }
        }
        sleep(LOOK).await;
    }
}

async fn stay_open(listener: &TcpListener, calls: &NatsCalls) {
    while calls.connected() {
        tokio::select! {
            biased;
            // Whoever looks wants no more than that somebody takes the connection.
            _ = listener.accept() => {}
            () = sleep(LOOK) => {}
        }
    }
}
