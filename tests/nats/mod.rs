//! A NATS server of a test's own: a process on a free port, with a store that goes with it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use compozy::ports::{Bus, NatsBus, NatsOptions, StreamOptions};

/// Runs the server and ends it when standard input closes, which it does however the test ends.
const GUARD: &str = r#""$@" & server=$!; read -r _; kill -9 $server; wait $server 2>/dev/null"#;
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that may be stopped, crashed and started again on the same port and store.
pub struct NatsServer {
    directory: PathBuf,
    port: u16,
    settings: String,
    process: Option<(Child, ChildStdin)>,
}

#[allow(dead_code)] // each test binary uses its part
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
            process: None,
        }
    }

    /// Gives it other settings, for its next start.
    pub fn configure(&mut self, settings: &str) {
        settings.clone_into(&mut self.settings);
    }

    /// Starts it, on what is left in its store.
    pub fn run(&mut self) {
        let config = self.directory.join("nats.conf");
        let store = self.directory.join("store");
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\" }}\n{}\n",
            self.port,
            store.display(),
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

    /// Removes all that it stored.
    pub fn lose_store(&self) {
        std::fs::remove_dir_all(self.directory.join("store")).unwrap();
    }

    /// Copies what it stored to a place from which [`Self::restore_store`] brings it back. It must not run.
    pub fn save_store(&self) {
        copy(&self.directory.join("store"), &self.directory.join("saved"));
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

    /// Options with which the operator would reach it.
    pub fn options(&self) -> NatsOptions {
        NatsOptions {
            servers: format!("nats://127.0.0.1:{}", self.port),
            credentials: None,
            ca_file: None,
            certificate: None,
            prefix: "compozy".to_owned(),
            manage_streams: true,
            stream: StreamOptions::default(),
        }
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
        options
            .connect(format!("nats://127.0.0.1:{}", self.port))
            .await
            .unwrap()
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
