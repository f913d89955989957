//! How the command lines of our programs say who they are to NATS. Every flag is an environment variable too.

use std::path::PathBuf;

use clap::Args;

use super::nats_auth::Credentials;
use super::nats_connection::ConnectionOptions;

/// Who the program is to NATS, and whom it trusts.
#[derive(Args, Clone, Debug, Default)]
pub struct NatsFlags {
    /// A file with the NATS user's name. This and the other files are read at every connect.
    #[arg(long, env = "COMPOZY_NATS_USER_FILE", requires = "nats_password_file")]
    pub nats_user_file: Option<PathBuf>,
    /// A file with the NATS user's password.
    #[arg(long, env = "COMPOZY_NATS_PASSWORD_FILE", requires = "nats_user_file")]
    pub nats_password_file: Option<PathBuf>,
    /// A file with a token for NATS, instead of a user.
    #[arg(long, env = "COMPOZY_NATS_TOKEN_FILE", conflicts_with_all = ["nats_user_file", "nats_creds_file"])]
    pub nats_token_file: Option<PathBuf>,
    /// A NATS credentials file (.creds: JWT and key), instead of a user.
    #[arg(
        long,
        env = "COMPOZY_NATS_CREDS_FILE",
        conflicts_with = "nats_user_file"
    )]
    pub nats_creds_file: Option<PathBuf>,
    /// A file with the certificates to trust, as PEM; given, the connection must be TLS.
    #[arg(long, env = "COMPOZY_NATS_CA_FILE")]
    pub nats_ca_file: Option<PathBuf>,
    /// A file with this program's certificate for NATS, as PEM; given, the connection must be TLS.
    #[arg(long, env = "COMPOZY_NATS_CERT_FILE", requires = "nats_key_file")]
    pub nats_cert_file: Option<PathBuf>,
    /// A file with the key of this program's certificate, as PEM.
    #[arg(long, env = "COMPOZY_NATS_KEY_FILE", requires = "nats_cert_file")]
    pub nats_key_file: Option<PathBuf>,
}

impl NatsFlags {
    /// How `program` reaches `servers`.
    pub fn connection(&self, program: &str, servers: &str) -> ConnectionOptions {
        ConnectionOptions {
            servers: servers.to_owned(),
            credentials: self.credentials(),
            ca_file: self.nats_ca_file.clone(),
            certificate: self.nats_cert_file.clone().zip(self.nats_key_file.clone()),
            name: format!("compozy-{program}"),
            inbox_prefix: format!("_INBOX_{program}"),
        }
    }

    fn credentials(&self) -> Option<Credentials> {
        let user = self
            .nats_user_file
            .clone()
            .zip(self.nats_password_file.clone());
        let user = user.map(|(user, password)| Credentials::Password { user, password });
        let token = || self.nats_token_file.clone().map(Credentials::Token);
        let creds = || self.nats_creds_file.clone().map(Credentials::Creds);
        user.or_else(token).or_else(creds)
    }
}
