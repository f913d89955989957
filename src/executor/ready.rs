//! Shows whether calls are taken: a port that is open as long as NATS is connected, for a `tcpSocket` probe.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::warn;

use crate::ports::NatsCalls;

/// How often the connection is looked at: a probe comes every two seconds.
const LOOK: Duration = Duration::from_millis(250);

/// Opens and closes the port, for ever.
pub async fn show(port: u16, calls: &NatsCalls) {
    let mut complained = false;
    loop {
        if calls.connected() {
            match open(port).await {
                Ok(listener) => stay_open(&listener, calls).await,
                Err(error) if !complained => {
                    complained = true;
                    warn!(port, %error, "cannot show that calls are taken; choose another --ready-port");
                }
                Err(_) => {}
            }
        }
        sleep(LOOK).await;
    }
}

/// For both kinds of addresses, where the machine has both.
async fn open(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

async fn stay_open(listener: &TcpListener, calls: &NatsCalls) {
    while calls.connected() {
        tokio::select! {
            biased;
            // Whoever looks wants no more than that somebody takes the connection.
            Ok(_) = listener.accept() => {}
            () = sleep(LOOK) => {}
        }
    }
}
