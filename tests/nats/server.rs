//! A NATS server of a test's own: a process on a free port, with a store that goes with it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use compozy::ports::{Bus, ConnectionOptions, NatsBus, NatsOptions, StreamOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

/// Runs the server and ends it when standard input closes, which it does however the test ends.
const GUARD: &str = r#""$@" & server=$!; read -r _; kill -9 $server; wait $server 2>/dev/null"#;
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that may be stopped, crashed and started again on the same port and store.
pub struct NatsServer {
    directory: PathBuf,
    port: u16,
    settings: String,
    /// The bytes that JetStream may store.
    room: Option<u64>,
    process: Option<(Child, ChildStdin)>,
}

impl NatsServer {
    /// A server that runs, with JetStream and further `settings` in the server's configuration language.
    pub fn start(settings: &str) -> Self {
        let mut server = Self::stopped(settings);
        server.run();
        server
    }

    /// A server that does not run yet.
    pub fn stopped(settings: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("compozy-nats-{:016x}", fastrand::u64(..)));
        std::fs::create_dir_all(&directory).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Self {
            directory,
            port,
            settings: settings.to_owned(),
            room: None,
            process: None,
        }
    }

    /// Gives it other settings, for its next start.
    pub fn configure(&mut self, settings: &str) {
        settings.clone_into(&mut self.settings);
    }

    /// Gives JetStream so much room, from its next start on.
    pub fn set_room(&mut self, bytes: Option<u64>) {
        self.room = bytes;
    }

    /// Starts it, on what is left in its store.
    pub fn run(&mut self) {
        let config = self.directory.join("nats.conf");
        let store = self.directory.join("store");
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\"\n{} }}\n{}\n",
            self.port,
            store.display(),
            self.room
                .map_or_else(String::new, |bytes| format!("max_file_store: {bytes}")),
            self.settings
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(self.directory.join("log")).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(binary())
            .arg("-c")
            .arg(&config)
            .arg("-P")
            .arg(self.pid_file())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        self.process = Some((child, stdin));
    }

    /// Kills it. Its store stays.
    pub fn crash(&mut self) {
        if let Some((mut child, stdin)) = self.process.take() {
            drop(stdin);
            child.wait().unwrap();
        }
    }

    /// Asks it to end, and waits until it has. Its store stays.
    pub fn stop(&mut self) {
        self.signal("-TERM");
        let pid = std::fs::read_to_string(self.pid_file()).unwrap_or_default();
        let end = std::time::Instant::now() + PATIENCE;
        while Path::new("/proc").join(pid.trim()).join("exe").exists() {
            assert!(std::time::Instant::now() < end, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.crash();
    }

    /// Removes all that it stored.
    pub fn lose_store(&self) {
        std::fs::remove_dir_all(self.directory.join("store")).unwrap();
    }

    /// Copies what it stored to a place from which [`Self::restore_store`] brings it back. It must not run.
    pub fn save_store(&self) {
        let saved = self.directory.join("saved");
        // What was saved before, if anything was.
        let _ = std::fs::remove_dir_all(&saved);
        copy(&self.directory.join("store"), &saved);
    }

    /// Puts the store back to what it was when it was saved. It must not run.
    pub fn restore_store(&self) {
        self.lose_store();
        copy(&self.directory.join("saved"), &self.directory.join("store"));
    }

    /// Sends a signal to the server itself.
    pub fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.pid_file()).unwrap();
        assert!(
            Command::new("kill")
                .args([signal, pid.trim()])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Where it is.
    pub fn address(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Options with which the operator would reach it.
    pub fn options(&self) -> NatsOptions {
        NatsOptions {
            connection: ConnectionOptions {
                servers: self.address(),
                credentials: None,
                ca_file: None,
                certificate: None,
                name: "compozy-operator".to_owned(),
                inbox_prefix: "_INBOX_operator".to_owned(),
            },
            prefix: "compozy".to_owned(),
            manage_streams: true,
            stream: StreamOptions::default(),
        }
    }

    /// The port of a proxy that holds back what the server says for so long.
    pub async fn slow(&self, delay: Duration) -> u16 {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let proxy = listener.local_addr().unwrap().port();
        let server = self.port;
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that does not listen yet refuses this client, who tries again.
                let address = (Ipv4Addr::LOCALHOST, server);
                let Ok(server) = TcpStream::connect(address).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, Duration::ZERO));
                tokio::spawn(pass(from_server, to_client, delay));
            }
        });
        proxy
    }

    /// A bus with these options, once it is connected.
    pub async fn bus(&self, options: NatsOptions) -> NatsBus {
        let bus = NatsBus::connect(options).await.unwrap();
        self.wait_connected(&bus).await;
        bus
    }

    /// Waits until the bus has a connection.
    pub async fn wait_connected(&self, bus: &NatsBus) {
        let connected = async {
            while !bus.connected() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, connected).await.is_err() {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            panic!("no connection to the server; its log:\n{log}");
        }
    }

    /// A client that shares no code with the operator's bus.
    pub async fn client(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        options.connect(self.address()).await.unwrap()
    }

    /// A directory for further files of the test.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.crash();
        // What remains is in the temporary directory; a test's own failure matters more.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Passes on what comes, each piece so much later.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (pieces, mut due) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let write = async {
        while let Some((at, piece)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let piece = buffer[..length].to_vec();
            if pieces.send((Instant::now() + delay, piece)).is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

fn binary() -> PathBuf {
    let cache = || match std::env::var_os("COMPOZY_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => match std::env::var_os("XDG_CACHE_HOME") {
            Some(cache) => PathBuf::from(cache).join("compozy-operator"),
            None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
                .join(".cache/compozy-operator"),
        },
    };
    let path = std::env::var_os("NATS_SERVER")
        .map_or_else(|| cache().join("bin/nats-server"), PathBuf::from);
    assert!(
        path.is_file(),
        "there is no nats-server at {}: `hack/tools/build nats-server` builds it, or NATS_SERVER names another",
        path.display()
    );
    path
}
