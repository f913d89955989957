//! Shows whether work is taken: a port that is open as long as it is, for a `tcpSocket` probe.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::warn;

/// How often it is asked: a probe comes every two seconds.
const LOOK: Duration = Duration::from_millis(250);

/// Opens and closes the port, for ever, as `ready` says.
pub async fn show(port: u16, ready: impl Fn() -> bool) {
    let mut complained = false;
    loop {
        if ready() {
            match open(port).await {
                Ok(listener) => stay_open(&listener, &ready).await,
                Err(error) if !complained => {
                    complained = true;
                    warn!(port, %error, "cannot show that work is taken; choose another --ready-port");
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

async fn stay_open(listener: &TcpListener, ready: &impl Fn() -> bool) {
    while ready() {
        tokio::select! {
            biased;
            // Whoever looks wants no more than that somebody takes the connection.
            Ok(_) = listener.accept() => {}
            () = sleep(LOOK) => {}
        }
    }
}
