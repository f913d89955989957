//! A NATS server that does not let everybody in: TLS, client certificates, credentials files, tokens.

use std::path::PathBuf;
use std::time::Duration;

use compozy::ports::{Bus, Credentials, NatsBus, NatsOptions};
use k8s_openapi::ByteString;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use serde_json::{Value, json};

use crate::server::NatsServer;

/// Longer than a few attempts to connect take.
const A_WHILE: Duration = Duration::from_millis(700);

type Authority = CertifiedIssuer<'static, rcgen::KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
}

/// Writes a file into the server's directory.
fn write(server: &NatsServer, name: &str, text: &str) -> PathBuf {
    let path = server.directory().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Writes a certificate that `authority` signed, and its key.
fn issue(authority: &Authority, server: &NatsServer, name: &str) -> (PathBuf, PathBuf) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (
        write(server, &format!("{name}.crt"), &certificate.pem()),
        write(server, &format!("{name}.key"), &key.serialize_pem()),
    )
}

async fn stays_out(options: NatsOptions) -> NatsBus {
    let bus = NatsBus::connect(options).await.unwrap();
    tokio::time::sleep(A_WHILE).await;
    assert!(!bus.connected());
    bus
}

#[tokio::test]
async fn a_server_wants_and_shows_certificates_which_are_read_anew() {
    let (ours, foreign) = (authority(), authority());
    let mut server = NatsServer::stopped("");
    let (certificate, key) = issue(&ours, &server, "server");
    let ca = write(&server, "ca.crt", &ours.pem());
    server.configure(&format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}"
    ));
    server.run();

    let mut options = server.options();
    options.connection.ca_file = Some(write(&server, "trusted.crt", &foreign.pem()));
    options.connection.certificate = Some(issue(&foreign, &server, "operator"));
    let bus = stays_out(options).await;
    // Both were rotated.
    write(&server, "trusted.crt", &ours.pem());
    issue(&ours, &server, "operator");
    server.wait_connected(&bus).await;
    bus.ensure_streams().await.unwrap();

    let mut without_certificate = server.options();
    without_certificate.connection.ca_file = Some(ca);
    stays_out(without_certificate).await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_wanted() {
    let server = NatsServer::start("");
    let mut options = server.options();
    options.connection.ca_file = Some(write(&server, "ca.crt", &authority().pem()));
    stays_out(options).await;
}

#[tokio::test]
async fn a_token_is_read_anew() {
    let server = NatsServer::start("authorization { token: new }");
    let mut options = server.options();
    options.connection.credentials = Some(Credentials::Token(write(&server, "token", "old")));
    let bus = stays_out(options).await;
    write(&server, "token", "new\n");
    server.wait_connected(&bus).await;
}

/// Unpadded base64 with the alphabet for URLs.
fn base64(bytes: &[u8]) -> String {
    let text = serde_json::to_value(ByteString(bytes.to_vec())).unwrap();
    let text = text.as_str().unwrap().trim_end_matches('=');
    text.replace('+', "-").replace('/', "_")
}

/// A JWT as NATS has them: signed with an NKEY.
fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: Value) -> String {
    let claims = json!({"jti": "x", "iat": 1_700_000_000, "iss": issuer.public_key(),
        "sub": subject.public_key(), "name": "test", "nats": claims});
    let part = |value: Value| base64(value.to_string().as_bytes());
    let signed = format!(
        "{}.{}",
        part(json!({"typ": "JWT", "alg": "ed25519-nkey"})),
        part(claims)
    );
    let signature = base64(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn a_credentials_file_is_read_anew() {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let (system, user) = (KeyPair::new_account(), KeyPair::new_user());
    let storage = |bytes: i64| {
        json!({"type": "account", "version": 2, "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": bytes, "disk_storage": bytes, "streams": bytes, "consumer": bytes}})
    };
    let operator_jwt = jwt(
        &operator,
        &operator,
        json!({"type": "operator", "version": 2}),
    );
    let account_jwt = jwt(&operator, &account, storage(-1));
    let system_jwt = jwt(&operator, &system, storage(0));
    let server = NatsServer::start(&format!(
        "operator: \"{operator_jwt}\"\nsystem_account: {system}\nresolver: MEMORY\n\
         resolver_preload {{ {account}: \"{account_jwt}\", {system}: \"{system_jwt}\" }}",
        system = system.public_key(),
        account = account.public_key(),
    ));
    let creds = |issuer: &KeyPair| {
        let claims = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(issuer, &user, claims),
            user.seed().unwrap()
        )
    };
    let mut options = server.options();
    let stranger = KeyPair::new_account();
    options.connection.credentials = Some(Credentials::Creds(write(
        &server,
        "nats.creds",
        &creds(&stranger),
    )));
    let bus = stays_out(options).await;
    write(&server, "nats.creds", &creds(&account));
    server.wait_connected(&bus).await;
    bus.ensure_streams().await.unwrap();
}
