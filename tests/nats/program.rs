//! Programs under test, and the files and ports by which they show what they do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::server::NatsServer;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A program that ends with the test.
pub struct Program(pub Child);

impl Program {
    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "the program does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file that goes with the server.
pub fn path(server: &NatsServer, name: &str) -> PathBuf {
    server.directory().join(name)
}

/// Waits until the file has so many lines.
pub async fn written(path: &PathBuf, lines: usize) {
    let end = Instant::now() + PATIENCE;
    while std::fs::read_to_string(path).map_or(0, |text| text.lines().count()) < lines {
        assert!(Instant::now() < end, "{} is not written", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A port at which nobody listens.
pub fn free_port() -> SocketAddr {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap()
}

/// Waits until a connection is accepted there, or none.
pub async fn until_open(address: SocketAddr, open: bool) {
    let end = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(address).is_ok() != open {
        assert!(Instant::now() < end, "open: {}", !open);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
