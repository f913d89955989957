//! The command line. Every flag is an environment variable too.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use super::issuer::NatsIssuer;
use crate::{
    api::Duration,
    engine::definition::DEFAULT_MAX_ITEMS,
    logs::LogFormat,
    ports::{NatsFlags, NatsOptions, StreamOptions},
};

/// Runs workflows on Kubernetes and mirrors their events to NATS JetStream.
#[derive(Parser, Debug)]
#[command(name = "operator", version, about)]
pub struct CommandLine {
    /// Something else than running the operator.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run the operator.
    #[command(flatten)]
    pub settings: Settings,
}

/// What can be done beside running the operator.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Takes the operator's finalizers from every object, so that nothing is stuck once the
    /// operator is gone. For uninstalling: events that NATS does not have yet are lost.
    ReleaseFinalizers(ReleaseFinalizers),
    /// Writes what a NATS server must know to ask this operator who connects (auth callout).
    NatsIssuer(NatsIssuer),
}

/// How to release finalizers.
#[derive(Args, Debug)]
pub struct ReleaseFinalizers {
    /// The operator's Deployment, scaled to zero first.
    #[arg(long)]
    pub deployment: Option<String>,
    /// The Deployment's namespace.
    #[arg(long, env = "COMPOZY_NAMESPACE", default_value = "compozy-system")]
    pub namespace: String,
    /// The namespaces whose objects are released; empty: all.
    #[arg(long, env = "COMPOZY_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
}

/// How to run the operator.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// How log lines look.
    #[arg(long, env = "COMPOZY_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Which log lines to write, as tracing's EnvFilter has it.
    #[arg(
        long,
        env = "COMPOZY_LOG_FILTER",
        default_value = "info,async_nats=warn"
    )]
    pub log_filter: String,
    /// Where to serve /metrics, /healthz and /readyz.
    #[arg(long, env = "COMPOZY_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,

    /// The namespace of the lease.
    #[arg(long, env = "COMPOZY_NAMESPACE", default_value = "compozy-system")]
    pub namespace: String,
    /// The lease's name.
    #[arg(long, env = "COMPOZY_LEASE_NAME", default_value = "compozy-operator")]
    pub lease_name: String,
    /// Who holds the lease; by default the pod's name and a random token.
    #[arg(long, env = "COMPOZY_IDENTITY")]
    pub identity: Option<String>,
    /// How long the lease stays after its holder stopped renewing it: at least 3s.
    #[arg(long, env = "COMPOZY_LEASE_DURATION", default_value = "15s")]
    pub lease_duration: Duration,

    /// The namespaces whose workflows are run; without it all of the cluster's.
    #[arg(long, env = "COMPOZY_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,

    /// Where NATS is; without it nothing is mirrored.
    #[arg(long, env = "COMPOZY_NATS_URL", default_value = "")]
    pub nats_url: String,
    /// Who the operator is to NATS.
    #[command(flatten)]
    pub nats_flags: NatsFlags,
    /// A file with the key with which the operator vouches for programs in pods when NATS asks (auth callout): 32 random
    /// bytes. Without it nobody is vouched for.
    #[arg(long, env = "COMPOZY_NATS_ISSUER_KEY_FILE")]
    pub nats_issuer_key_file: Option<PathBuf>,
    /// The first token of every subject.
    #[arg(long, env = "COMPOZY_NATS_PREFIX", default_value = "compozy")]
    pub nats_prefix: String,
    /// Whether to create the streams and keep them as configured.
    #[arg(long, env = "COMPOZY_MANAGE_STREAMS", default_value_t = true, action = clap::ArgAction::Set)]
    pub manage_streams: bool,
    /// Copies that NATS keeps of the event stream.
    #[arg(long, env = "COMPOZY_STREAM_REPLICAS", default_value_t = 1)]
    pub stream_replicas: usize,
    /// How long NATS keeps events.
    #[arg(long, env = "COMPOZY_STREAM_MAX_AGE", default_value = "168h")]
    pub stream_max_age: Duration,
    /// How many bytes of events NATS keeps, with a suffix such as Gi.
    #[arg(long, env = "COMPOZY_STREAM_MAX_BYTES", default_value = "1Gi", value_parser = parse_bytes)]
    pub stream_max_bytes: u64,
    /// How many events NATS keeps. Each takes about 0.9 KB of the server's memory.
    #[arg(long, env = "COMPOZY_STREAM_MAX_MESSAGES", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub stream_max_messages: u64,
    /// How long a deleted object waits for NATS before it is let go with its events unpublished. However long ago it was
    /// deleted, a process that begins tries for 30s itself.
    #[arg(long, env = "COMPOZY_EVENTS_DELETION_GRACE", default_value = "5m")]
    pub events_deletion_grace: Duration,

    /// How long a run that succeeded stays, if it does not say; without it, for ever.
    #[arg(long, env = "COMPOZY_TTL_AFTER_SUCCEEDED")]
    pub ttl_after_succeeded: Option<Duration>,
    /// How long a run that ended otherwise stays, if it does not say; without it, for ever.
    #[arg(long, env = "COMPOZY_TTL_AFTER_FAILED")]
    pub ttl_after_failed: Option<Duration>,

    /// Whether executor pods are made to fit Pod Security "restricted".
    #[arg(long, env = "COMPOZY_RESTRICTED_PODS", default_value_t = false, action = clap::ArgAction::Set)]
    pub restricted_pods: bool,
    /// Service accounts that workflows may name.
    #[arg(long, env = "COMPOZY_ALLOW_SERVICE_ACCOUNTS", value_delimiter = ',')]
    pub allow_service_accounts: Vec<String>,
    /// Whether workflows may mount directories of the node.
    #[arg(long, env = "COMPOZY_ALLOW_HOST_PATH", default_value_t = false, action = clap::ArgAction::Set)]
    pub allow_host_path: bool,
    /// Whether workflows may run privileged containers.
    #[arg(long, env = "COMPOZY_ALLOW_PRIVILEGED", default_value_t = false, action = clap::ArgAction::Set)]
    pub allow_privileged: bool,
    /// Whether workflows may use the node's ports and namespaces.
    #[arg(long, env = "COMPOZY_ALLOW_HOST_NAMESPACES", default_value_t = false, action = clap::ArgAction::Set)]
    pub allow_host_namespaces: bool,
    /// A YAML file with `podTemplate`, the overlay under every workflow's own.
    #[arg(long, env = "COMPOZY_CONFIG")]
    pub config: Option<PathBuf>,
    /// The image with the executor, for pods that serve tools; without it the operator serves none.
    #[arg(long, env = "COMPOZY_EXECUTOR_IMAGE")]
    pub executor_image: Option<String>,
    /// When that image is pulled: Always, IfNotPresent or Never.
    #[arg(long, env = "COMPOZY_EXECUTOR_IMAGE_PULL_POLICY")]
    pub executor_image_pull_policy: Option<String>,
    /// How many items a `forEach` may have.
    #[arg(long, env = "COMPOZY_MAX_ITEMS", default_value_t = DEFAULT_MAX_ITEMS, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_items: u32,
    /// How many objects of a kind are worked on at once.
    #[arg(long, env = "COMPOZY_MAX_CONCURRENT_RECONCILES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max_concurrent_reconciles: u16,
}

impl Settings {
    /// How to reach NATS; none without an address.
    pub fn nats(&self) -> Option<NatsOptions> {
        (!self.nats_url.is_empty()).then(|| NatsOptions {
            connection: self.nats_flags.connection("operator", &self.nats_url),
            prefix: self.nats_prefix.clone(),
            manage_streams: self.manage_streams,
            stream: StreamOptions {
                replicas: self.stream_replicas,
                max_age: self.stream_max_age.get(),
                max_bytes: self.stream_max_bytes,
                max_messages: self.stream_max_messages,
            },
        })
    }

    /// Where NATS is, for others: without a name and a password that stand in it.
    pub fn nats_address(&self) -> Option<String> {
        let servers = self.nats_url.split(',').map(|server| {
            let server = server.trim();
            match (server.split_once("://"), server.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
                (None, Some((_, host))) => host.to_owned(),
                (_, None) => server.to_owned(),
            }
        });
        let servers: Vec<String> = servers.filter(|server| !server.is_empty()).collect();
        (!servers.is_empty()).then(|| servers.join(","))
    }

    /// The service accounts that workflows may name.
    pub fn service_accounts(&self) -> BTreeSet<String> {
        names(&self.allow_service_accounts)
    }

    /// The namespaces whose workflows are run; none means all.
    pub fn namespaces(&self) -> BTreeSet<String> {
        names(&self.watch_namespaces)
    }
}

/// An empty environment variable is a list of one empty name.
fn names(list: &[String]) -> BTreeSet<String> {
    let trimmed = list.iter().map(|name| name.trim());
    trimmed
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let unit: u64 = match suffix {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(format!("{text:?} is not a size such as 512Mi or 1Gi")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit))
        .ok_or_else(|| format!("{text:?} is not a size such as 512Mi or 1Gi"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Credentials;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn one_way_of_saying_who_one_is_is_enough() {
        let parse = |flags: &str| {
            let words = format!("operator --nats-url=nats://n {flags}");
            CommandLine::try_parse_from(words.split_whitespace())
        };
        let nats = |flags: &str| parse(flags).unwrap().settings.nats().unwrap().connection;
        assert_eq!(
            nats("--nats-creds-file=c").credentials,
            Some(Credentials::Creds("c".into()))
        );
        assert_eq!(
            nats("--nats-token-file=t").credentials,
            Some(Credentials::Token("t".into()))
        );
        let mutual = nats("--nats-cert-file=c --nats-key-file=k");
        assert_eq!(mutual.certificate, Some(("c".into(), "k".into())));
        assert_eq!(mutual.credentials, None);
        for refused in [
            "--nats-user-file=u",
            "--nats-cert-file=c",
            "--nats-token-file=t --nats-creds-file=c",
            "--nats-user-file=u --nats-password-file=p --nats-token-file=t",
            "--nats-user-file=u --nats-password-file=p --nats-creds-file=c",
            "--stream-max-messages=0",
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn others_are_told_where_nats_is_and_no_password() {
        let address = |url: &str| {
            let words = ["operator".to_owned(), format!("--nats-url={url}")];
            CommandLine::parse_from(words).settings.nats_address()
        };
        assert_eq!(address(""), None);
        assert_eq!(address("nats://n:4222").unwrap(), "nats://n:4222");
        assert_eq!(
            address("tls://u:p@a:4222, u:p@b").unwrap(),
            "tls://a:4222,b"
        );
    }

    #[test]
    fn names_are_separated_by_commas() {
        let list = ["operator", "--watch-namespaces", "a, b,,a"];
        let settings = CommandLine::parse_from(list).settings;
        assert_eq!(
            settings.namespaces().into_iter().collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn sizes_have_binary_suffixes() {
        assert_eq!(parse_bytes("1Gi"), Ok(1 << 30));
        assert_eq!(parse_bytes("512"), Ok(512));
        assert!(parse_bytes("1GB").is_err());
    }
}
