//! A real kube-apiserver with an etcd of its own: no kubelet, no controllers.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use http::{Method, StatusCode};
use kube::{Client, Config, client::Body, config::AuthInfo};
use serde_json::Value;

/// Runs both and ends them when standard input closes, which it does however the test ends.
const GUARD: &str = r#"
"$etcd" --data-dir="$dir/etcd" --unsafe-no-fsync --log-level=error \
  --listen-client-urls="http://127.0.0.1:$etcd_port" --advertise-client-urls="http://127.0.0.1:$etcd_port" \
  --listen-peer-urls="http://127.0.0.1:$peer_port" >"$dir/etcd.log" 2>&1 & one=$!
"$apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" --secure-port="$port" --bind-address=127.0.0.1 \
  --advertise-address=127.0.0.1 --service-cluster-ip-range=10.0.0.0/24 --cert-dir="$dir" \
  --token-auth-file="$dir/tokens" --authorization-mode=AlwaysAllow --service-account-issuer=https://test \
  --service-account-key-file="$dir/key" --service-account-signing-key-file="$dir/key" \
  --disable-admission-plugins=ServiceAccount,DefaultTolerationSeconds,Priority,TaintNodesByCondition \
  --enable-priority-and-fairness=false --etcd-compaction-interval=0 >"$dir/apiserver.log" 2>&1 & two=$!
read -r _
kill -9 $two $one; wait $two $one 2>/dev/null; rm -rf "$dir""#;
const PATIENCE: Duration = Duration::from_secs(90);

/// The processes, and a client to them.
pub struct RealServer {
    pub client: Client,
    process: Option<(Child, ChildStdin)>,
}

impl RealServer {
    /// Starts it and installs our CRDs.
    pub async fn start() -> RealServer {
        let dir = std::env::temp_dir().join(format!("compozy-api-{:016x}", fastrand::u64(..)));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("tokens"), "token,test,1,\"system:masters\"\n").unwrap();
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(dir.join("key"))
            .arg("2048")
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "openssl made no key");
        let [etcd_port, peer_port, port] = free_ports();
        let mut child = Command::new("sh")
            .args(["-c", GUARD])
            .env("dir", &dir)
            .env("etcd", binary("etcd"))
            .env("apiserver", binary("kube-apiserver"))
            .env("etcd_port", etcd_port.to_string())
            .env("peer_port", peer_port.to_string())
            .env("port", port.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let server = RealServer {
            client: client(port),
            process: Some((child, stdin)),
        };
        server.wait_for("/readyz", &dir).await;
        server.install_crds(&dir).await;
        server
    }

    async fn install_crds(&self, dir: &Path) {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        for (_, crd) in compozy::api::crd::all().unwrap() {
            let body = serde_json::to_vec(&crd).unwrap();
            let request = http::Request::post(path)
                .header("content-type", "application/json")
                .body(Body::from(body));
            let answer = self.client.send(request.unwrap()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::CREATED);
        }
        for plural in ["workflows", "taskexecutions"] {
            let path = format!("/apis/compozy.dev/v1alpha1/namespaces/default/{plural}");
            self.wait_for(&path, dir).await;
        }
        self.wait_for("/api/v1/namespaces/default", dir).await;
    }

    async fn wait_for(&self, path: &str, dir: &Path) {
        let found = async {
            loop {
                let request = http::Request::builder().method(Method::GET).uri(path);
                let answer = self.client.send(request.body(Body::empty()).unwrap()).await;
                if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, found).await.is_err() {
            let log = std::fs::read_to_string(dir.join("apiserver.log")).unwrap_or_default();
            let end: Vec<_> = log.lines().rev().take(20).collect();
            panic!(
                "no {path} within {PATIENCE:?}; the last lines first:\n{}",
                end.join("\n")
            );
        }
    }

    /// Sends a request; the answer's status and JSON, of a watch a list of its events.
    pub async fn send(&self, request: http::Request<Vec<u8>>) -> (u16, Value) {
        let watches = request
            .uri()
            .query()
            .is_some_and(|q| q.contains("watch=true"));
        let answer = self.client.send(request.map(Body::from)).await.unwrap();
        let code = answer.status().as_u16();
        let watches = watches && code == 200;
        let body = answer.into_body().collect_bytes().await.unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        let json = if watches {
            let events = text.lines().map(serde_json::from_str::<Value>);
            events.collect::<Result<Vec<_>, _>>().unwrap().into()
        } else {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        };
        (code, json)
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        if let Some((mut child, stdin)) = self.process.take() {
            drop(stdin);
            let _ = child.wait();
        }
    }
}

fn client(port: u16) -> Client {
    let mut config = Config::new(format!("https://127.0.0.1:{port}").parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info = AuthInfo {
        token: Some("token".to_owned().into()),
        ..AuthInfo::default()
    };
    Client::try_from(config).unwrap()
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn binary(name: &str) -> PathBuf {
    let cache = std::env::var_os("COMPOZY_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        base.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"))
            .join("compozy-operator")
    });
    let path = cache.join("bin").join(name);
    assert!(
        path.exists(),
        "no {}: run hack/tools/build kubernetes etcd",
        path.display()
    );
    path
}
