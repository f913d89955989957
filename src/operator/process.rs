//! The operator as a process: connections, watches, leadership, reconcilers, and their end.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Config};
use serde::Deserialize;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::{error, info};

use super::{
    cluster::Cluster,
    drive::drive,
    executions::Executions,
    http::{self, Health},
    hub::Hub,
    lease::Lease,
    metrics::Metrics,
    mirror::{Mirror, MirrorMetrics},
    outbox::Outbox,
    publishing,
    settings::Settings,
    warnings::Warnings,
    watch::watch,
    workflows::Workflows,
};
use crate::{
    api::{PodTemplate, TaskExecution, Workflow},
    engine::{admission::AllowList, definition::Installation, pod::PodSettings},
    events::Subjects,
    ports::{Bus, Clock, Ids, NatsBus, NatsOptions, RandomIds, StreamOptions, SystemClock},
};

/// How often the event stream is looked at.
const REFRESH: Duration = Duration::from_secs(30);
/// Objects whose events are published at once.
const PUBLISH_AT_ONCE: usize = 64;

/// What ends the operator.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The file of `--config`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigFile {
    #[serde(default)]
    pod_template: PodTemplate,
}

/// Runs until a signal to end, or until the lease is lost.
///
/// # Errors
/// What keeps the operator from starting, and the loss of the lease: the process must end then,
/// so that a standby's work meets none of ours.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let mut termination = Termination::listen()?;
    let installation = installation(&settings)?;
    let mut config = Config::infer().await?;
    // Every call has a timeout of our own; retries are the queues', which know what is stale.
    config.default_retry = false;
    let client = Client::try_from(config)?;
    let identity = settings.identity.clone().unwrap_or_else(identity);

    let mut mirror_metrics = None;
    let metrics = Arc::new(Metrics::new(|registry| {
        mirror_metrics = Some(MirrorMetrics::register(registry))
    }));
    let outbox = Outbox::new(mirror(&settings, mirror_metrics).await?);
    let hub = Arc::new(Hub::new(outbox));

    let mut tasks = JoinSet::new();
    let ready = Arc::new(AtomicBool::new(false));
    serve_http(&mut tasks, &settings, &hub, &metrics, &ready);
    let synced = start_watches(&mut tasks, &client, &hub, &metrics);
    let lease = Lease::seek(client.clone(), &settings, &identity);
    let mut lease = tokio::select! {
        lease = lease => lease?,
        () = termination.requested() => return Ok(()),
    };
    info!(identity, "waiting for the lease and the first lists");
    let begun = async {
        for mut synced in synced {
            synced.wait_for(|synced| *synced).await?;
        }
        ready.store(true, Ordering::Release);
        lease.won().await;
        Ok::<_, Error>(())
    };
    tokio::select! {
        result = begun => result?,
        () = termination.requested() => return Ok(()),
    }
    info!(identity, "leading");
    metrics.show_leader(true);
    start_reconcilers(
        &mut tasks,
        &settings,
        installation,
        &client,
        &hub,
        &metrics,
        &identity,
    );
    let result = tokio::select! {
        () = termination.requested() => Ok(()),
        () = lease.lost() => Err("the lease was lost".into()),
        Some(ended) = tasks.join_next() => Err(format!("a part of the operator ended: {ended:?}").into()),
    };
    metrics.show_leader(false);
    // First the work ends, then the lease goes to somebody else.
    tasks.shutdown().await;
    lease.give_back().await;
    result
}

fn installation(settings: &Settings) -> Result<Installation, Error> {
    let file = match &settings.config {
        None => ConfigFile::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("--config {}: {error}", path.display()))?;
            serde_norway::from_str(&text)
                .map_err(|error| format!("--config {}: {error}", path.display()))?
        }
    };
    Ok(Installation {
        allow: AllowList {
            service_accounts: settings.service_accounts(),
            host_path: settings.allow_host_path,
            privileged: settings.allow_privileged,
            host_namespaces: settings.allow_host_namespaces,
        },
        pod_template: file.pod_template,
    })
}

fn identity() -> String {
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
    format!(
        "{}-{}",
        host.unwrap_or_else(|_| "operator".to_owned()),
        RandomIds::new().token()
    )
}

async fn mirror(
    settings: &Settings,
    metrics: Option<MirrorMetrics>,
) -> Result<Option<Mirror>, Error> {
    let Some(metrics) = metrics.filter(|_| !settings.nats_url.is_empty()) else {
        info!("no NATS URL: events are not mirrored");
        return Ok(None);
    };
    let bus = NatsBus::connect(NatsOptions {
        servers: settings.nats_url.clone(),
        credentials: settings
            .nats_user_file
            .clone()
            .zip(settings.nats_password_file.clone()),
        ca_file: settings.nats_ca_file.clone(),
        prefix: settings.nats_prefix.clone(),
        manage_streams: settings.manage_streams,
        stream: StreamOptions {
            replicas: settings.stream_replicas,
            max_age: settings.stream_max_age.get(),
            max_bytes: settings.stream_max_bytes,
            ..StreamOptions::default()
        },
    })
    .await?;
    let bus: Arc<dyn Bus> = Arc::new(bus);
    Ok(Some(Mirror::new(
        bus,
        Subjects::new(&settings.nats_prefix),
        metrics,
    )))
}

fn serve_http(
    tasks: &mut JoinSet<()>,
    settings: &Settings,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
    ready: &Arc<AtomicBool>,
) {
    let (hub, shown) = (hub.clone(), metrics.clone());
    let refresh = Arc::new(move || {
        shown.show_queue("workflow", hub.workflows.depth());
        shown.show_queue("taskexecution", hub.executions.depth());
        shown.show_queue("mirror", hub.mirrored.depth());
    });
    let health = Health {
        ready: ready.clone(),
        metrics: metrics.clone(),
        refresh,
    };
    let address = settings.http_address;
    tasks.spawn(async move {
        if let Err(error) = http::serve(address, health).await {
            error!(%error, %address, "cannot serve HTTP; choose another --http-address");
        }
    });
}

fn start_watches(
    tasks: &mut JoinSet<()>,
    client: &Client,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
) -> [watch::Receiver<bool>; 3] {
    let (workflows, workflows_synced) = watch::channel(false);
    let (executions, executions_synced) = watch::channel(false);
    let (pods, pods_synced) = watch::channel(false);
    tasks.spawn(watch::<Workflow>(
        client.clone(),
        hub.clone(),
        metrics.clone(),
        workflows,
    ));
    tasks.spawn(watch::<TaskExecution>(
        client.clone(),
        hub.clone(),
        metrics.clone(),
        executions,
    ));
    tasks.spawn(watch::<Pod>(
        client.clone(),
        hub.clone(),
        metrics.clone(),
        pods,
    ));
    [workflows_synced, executions_synced, pods_synced]
}

fn start_reconcilers(
    tasks: &mut JoinSet<()>,
    settings: &Settings,
    installation: Installation,
    client: &Client,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
    identity: &str,
) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let cluster = Cluster::new(client.clone(), hub.clone(), metrics.clone());
    let warnings = Warnings::new(client.clone(), identity);
    let concurrency = usize::from(settings.max_concurrent_reconciles);
    let workflows = Arc::new(Workflows {
        hub: hub.clone(),
        cluster: cluster.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        warnings: warnings.clone(),
        installation,
        deletion_grace: settings.events_deletion_grace,
        runs: Mutex::new(HashMap::new()),
    });
    let executions = Arc::new(Executions {
        hub: hub.clone(),
        cluster,
        clock,
        metrics: metrics.clone(),
        warnings,
        pods: PodSettings {
            restricted: settings.restricted_pods,
        },
        deletion_grace: settings.events_deletion_grace,
    });
    tasks.spawn(drive(
        "workflow",
        hub.clone(),
        |hub| &hub.workflows,
        concurrency,
        metrics.clone(),
        move |key| {
            let workflows = workflows.clone();
            async move { workflows.reconcile(&key).await }
        },
    ));
    tasks.spawn(drive(
        "taskexecution",
        hub.clone(),
        |hub| &hub.executions,
        concurrency,
        metrics.clone(),
        move |key| {
            let executions = executions.clone();
            async move { executions.reconcile(&key).await }
        },
    ));
    let publisher = hub.clone();
    tasks.spawn(drive(
        "mirror",
        hub.clone(),
        |hub| &hub.mirrored,
        PUBLISH_AT_ONCE,
        metrics.clone(),
        move |key| {
            let hub = publisher.clone();
            async move { Ok(publishing::publish(&hub, key).await) }
        },
    ));
    tasks.spawn(look_after_stream(hub.clone()));
}

async fn look_after_stream(hub: Arc<Hub>) {
    loop {
        if hub.outbox.refresh().await {
            hub.publish_all();
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// SIGTERM and SIGINT, listened for from the beginning: none gets lost between two waits.
struct Termination {
    term: Signal,
    int: Signal,
}

impl Termination {
    fn listen() -> std::io::Result<Termination> {
        Ok(Termination {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits until one of them comes.
    async fn requested(&mut self) {
        tokio::select! {
            _ = self.term.recv() => info!("SIGTERM: ending"),
            _ = self.int.recv() => info!("SIGINT: ending"),
        }
    }
}
