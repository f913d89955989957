//! The operator as a whole: watches, leadership, reconcilers, and their end. What it needs of the
//! outside is given to it, so that all of it runs in a simulation too.

use std::{
    collections::HashMap,
    future::Future,
    marker::PhantomData,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::Client;
use serde::Deserialize;
use tokio::{sync::watch, task::JoinSet};
use tracing::info;

use super::{
    Error,
    calls::CallsUnderWay,
    cluster::Cluster,
    dispatches::Dispatches,
    drive::drive,
    executions::Executions,
    fence::Fence,
    http::Health,
    hub::Hub,
    lease::Lease,
    metrics::Metrics,
    mirror::{Mirror, MirrorMetrics},
    outbox::Outbox,
    publishing,
    retelling::Retelling,
    servers::{ServedHere, Servers},
    settings::Settings,
    survey::Survey,
    time::Grace,
    unparsable,
    warnings::Warnings,
    watch::{Scope, Watched, watch},
    workflows::Workflows,
};
use crate::{
    api::{ExecutorPool, PodTemplate, TaskExecution, Time, Tool, Ttl, Workflow},
    engine::{
        admission::AllowList, definition::Installation, pod::PodSettings, server::ServerSettings,
    },
    events::Subjects,
    ports::{Bus, Calls, Clock, Pools},
};

/// How often the event stream is looked at.
const REFRESH: Duration = Duration::from_secs(30);
/// Objects whose events are published at once.
const PUBLISH_AT_ONCE: usize = 256;
/// Objects that were let go and are asked about or told again at once.
const RETELL_AT_ONCE: usize = 16;

/// Objects that cannot be parsed shown at once.
const SHOW_AT_ONCE: usize = 4;

/// The file of `--config`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigFile {
    #[serde(default)]
    pod_template: PodTemplate,
}

/// All that the operator gets from the outside.
pub struct Outside {
    /// The API server. It must not retry by itself.
    pub client: Client,
    /// NATS; without it nothing is mirrored.
    pub bus: Option<Arc<dyn Bus>>,
    /// Calls of tools over NATS; without it none can be called.
    pub calls: Option<Arc<dyn Calls>>,
    /// Warm pools over NATS; without it no task can run in one.
    pub pools: Option<Arc<dyn Pools>>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Who holds the lease.
    pub identity: String,
    /// Which process calls tools: no other one, before or after it, may ever say so.
    pub caller: String,
}

/// An operator.
pub struct System {
    settings: Settings,
    installation: Installation,
    /// The certificates with which NATS shows who it is, as PEM.
    nats_ca: Option<String>,
    client: Client,
    clock: Arc<dyn Clock>,
    identity: String,
    calls: Option<Arc<dyn Calls>>,
    pools: Option<Arc<dyn Pools>>,
    caller: String,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    survey: Survey,
    ready: Arc<AtomicBool>,
}

impl System {
    /// An operator that does nothing yet.
    ///
    /// # Errors
    /// The file of `--config` or `--nats-ca-file` cannot be read.
    pub fn new(settings: Settings, outside: Outside) -> Result<System, Error> {
        let mut mirror_metrics = None;
        let mut survey = Survey::default();
        let metrics = Metrics::new(|registry| {
            mirror_metrics = Some(MirrorMetrics::register(registry));
            survey = Survey::register(registry);
        });
        let subjects = Subjects::new(&settings.nats_prefix);
        let mirror = outside
            .bus
            .zip(mirror_metrics)
            .map(|(bus, metrics)| Mirror::new(bus, subjects, metrics));
        Ok(System {
            installation: installation(&settings)?,
            nats_ca: nats_ca(&settings)?,
            settings,
            client: outside.client,
            clock: outside.clock,
            identity: outside.identity,
            calls: outside.calls,
            pools: outside.pools,
            caller: outside.caller,
            hub: Arc::new(Hub::new(Outbox::new(mirror))),
            metrics: Arc::new(metrics),
            survey,
            ready: Arc::default(),
        })
    }

    /// What the probes look at.
    pub fn health(&self) -> Health {
        let (hub, shown) = (self.hub.clone(), self.metrics.clone());
        let (survey, clock) = (self.survey.clone(), self.clock.clone());
        let refresh = Arc::new(move || {
            survey.take(&hub.index, Time(clock.now()));
            shown.show_queue("workflow", hub.workflows.depth());
            shown.show_queue("taskexecution", hub.executions.depth());
            shown.show_queue("mirror", hub.mirrored.depth());
            shown.show_queue("retelling", hub.owed.depth());
            shown.show_queue("tool", hub.tools.queue.depth());
            shown.show_queue("pool", hub.pools.queue.depth());
            if let Some(mirror) = hub.outbox.mirror() {
                mirror.show_age(clock.now());
            }
        });
        Health {
            ready: self.ready.clone(),
            metrics: self.metrics.clone(),
            refresh,
        }
    }

    /// Watches, waits for the lease, works, until `end` or until the lease is lost.
    ///
    /// # Errors
    /// The lease was lost, a part of the operator ended, or what `end` says.
    pub async fn run(self, end: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        let mut end = std::pin::pin!(end);
        let mut standby = JoinSet::new();
        let synced = self.start_watches(&mut standby);
        let mut lease = Lease::new(
            self.client.clone(),
            &self.settings,
            &self.identity,
            self.clock.clone(),
            self.metrics.clone(),
        );
        let fence = lease.fence();
        info!(
            identity = self.identity,
            "waiting for the lease and the first lists"
        );
        let begun = async {
            tokio::select! {
                biased;
                listed = all(synced) => listed?,
                never = lease.follow() => match never {},
            }
            self.ready.store(true, Ordering::Release);
            lease.won().await;
            Ok::<_, Error>(())
        };
        tokio::select! {
            biased;
            result = begun => result?,
            ended = &mut end => return ended,
        }
        info!(identity = self.identity, "leading");
        self.metrics.show_leader(true);
        standby.shutdown().await;
        let mut tasks = JoinSet::new();
        let result = tokio::select! {
            biased;
            ended = &mut end => ended,
            () = lease.lost() => Err("the lease was lost".into()),
            ended = self.lead(&mut tasks, fence) => Err(ended),
        };
        self.metrics.show_leader(false);
        // First the work ends, then the lease goes to somebody else.
        tasks.shutdown().await;
        lease.give_back().await;
        result
    }

    /// Works until a part of the operator ends. What a standby's watches told may be older than the
    /// last writes of the leader before, as a connection can be silent without being broken: so
    /// everything is listed once more, from now on.
    async fn lead(&self, tasks: &mut JoinSet<()>, fence: Fence) -> Error {
        let synced = self.start_watches(tasks);
        if let Err(error) = all(synced).await {
            return error;
        }
        self.start_reconcilers(tasks, fence);
        let ended = tasks.join_next().await;
        format!("a part of the operator ended: {ended:?}").into()
    }

    fn start_watches(&self, tasks: &mut JoinSet<()>) -> Vec<watch::Receiver<bool>> {
        let mut synced = Vec::new();
        for scope in Scope::of(self.settings.namespaces()) {
            synced.push(self.start_watch::<Workflow, _>(tasks, &scope));
            synced.push(self.start_watch::<TaskExecution, _>(tasks, &scope));
            synced.push(self.start_watch::<Pod, _>(tasks, &scope));
            if self.server_settings().is_some() {
                synced.push(self.start_watch::<Tool, _>(tasks, &scope));
                synced.push(self.start_watch::<Deployment, Tool>(tasks, &scope));
                synced.push(self.start_watch::<ExecutorPool, _>(tasks, &scope));
                synced.push(self.start_watch::<Deployment, ExecutorPool>(tasks, &scope));
            }
        }
        synced
    }

    /// How tools and pools are served, if they are.
    fn server_settings(&self) -> Option<ServerSettings> {
        let settings = &self.settings;
        let executor_image = settings.executor_image.clone()?;
        Some(ServerSettings {
            executor_image,
            executor_image_pull_policy: settings.executor_image_pull_policy.clone(),
            nats_url: settings.nats_address()?,
            nats_prefix: settings.nats_prefix.clone(),
            vouched_for: settings.nats_issuer_key_file.is_some(),
            nats_ca: self.nats_ca.clone(),
            allow: self.installation.allow.clone(),
            pod_template: self.installation.pod_template.clone(),
            pods: self.pod_settings(),
        })
    }

    fn pod_settings(&self) -> PodSettings {
        PodSettings {
            restricted: self.settings.restricted_pods,
        }
    }

    fn calls_under_way(&self, fence: Fence) -> Option<CallsUnderWay> {
        let calls = self.calls.clone()?;
        let (caller, prefix) = (self.caller.clone(), &self.settings.nats_prefix);
        let (hub, clock) = (self.hub.clone(), self.clock.clone());
        Some(CallsUnderWay::new(calls, prefix, caller, fence, hub, clock))
    }

    fn start_dispatches(&self, tasks: &mut JoinSet<()>, fence: Fence) -> Option<Arc<Dispatches>> {
        let (hub, clock) = (self.hub.clone(), self.clock.clone());
        let dispatches = Dispatches::new(self.pools.clone()?, fence, hub, clock);
        let dispatches = Arc::new(dispatches);
        let hearing = dispatches.clone();
        tasks.spawn(async move { hearing.run().await });
        Some(dispatches)
    }

    fn start_watch<K: Watched<As>, As: 'static>(
        &self,
        tasks: &mut JoinSet<()>,
        scope: &Scope,
    ) -> watch::Receiver<bool> {
        let (sender, synced) = watch::channel(false);
        tasks.spawn(watch::<K, As>(
            self.client.clone(),
            scope.clone(),
            self.hub.clone(),
            self.metrics.clone(),
            sender,
        ));
        synced
    }

    fn start_reconcilers(&self, tasks: &mut JoinSet<()>, fence: Fence) {
        let System {
            settings,
            client,
            hub,
            metrics,
            clock,
            ..
        } = self;
        let (warnings, writer) = Warnings::new(metrics.clone());
        tasks.spawn(writer.write(client.clone(), fence.clone(), self.identity.clone()));
        let calls = self.calls_under_way(fence.clone());
        let dispatches = self.start_dispatches(tasks, fence.clone());
        let cluster = Cluster::new(client.clone(), hub.clone(), metrics.clone(), fence);
        let concurrency = usize::from(settings.max_concurrent_reconciles);
        let deletion_grace = Grace::from_now(settings.events_deletion_grace);
        let workflows = Arc::new(Workflows {
            hub: hub.clone(),
            cluster: cluster.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            warnings: warnings.clone(),
            installation: self.installation.clone(),
            deletion_grace,
            runs: Mutex::new(HashMap::new()),
        });
        let executions = Arc::new(Executions {
            hub: hub.clone(),
            cluster: cluster.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            warnings,
            calls,
            dispatches: dispatches.clone(),
            serves: self.server_settings().is_some(),
            pods: self.pod_settings(),
            deletion_grace,
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
        let (shown, clock) = (cluster.clone(), clock.clone());
        tasks.spawn(drive(
            "unparsable",
            hub.clone(),
            |hub| &hub.unparsable,
            SHOW_AT_ONCE,
            metrics.clone(),
            move |object| {
                let (cluster, clock) = (shown.clone(), clock.clone());
                async move {
                    let shown = unparsable::show(&cluster, &*clock, &object).await;
                    shown.map(|()| None)
                }
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
        let retelling = Arc::new(Retelling {
            hub: hub.clone(),
            cluster: cluster.clone(),
        });
        tasks.spawn(drive(
            "retelling",
            hub.clone(),
            |hub| &hub.owed,
            RETELL_AT_ONCE,
            metrics.clone(),
            move |owed| {
                let retelling = retelling.clone();
                async move { retelling.settle(&owed).await }
            },
        ));
        tasks.spawn(look_after_stream(hub.clone()));
        self.start_servers::<Tool>(tasks, cluster.clone(), None);
        self.start_servers::<ExecutorPool>(tasks, cluster, dispatches);
    }

    fn start_servers<K: ServedHere>(
        &self,
        tasks: &mut JoinSet<()>,
        cluster: Cluster,
        feed: Option<Arc<Dispatches>>,
    ) {
        let servers = self.server_settings().map(|settings| Servers {
            hub: self.hub.clone(),
            cluster,
            clock: self.clock.clone(),
            settings,
            feed,
            kind: PhantomData::<K>,
        });
        if let Some(servers) = servers {
            servers.start(tasks, &self.metrics);
        }
    }
}

/// Waits until every kind was listed everywhere.
async fn all(synced: Vec<watch::Receiver<bool>>) -> Result<(), Error> {
    for mut synced in synced {
        synced.wait_for(|synced| *synced).await?;
    }
    Ok(())
}

async fn look_after_stream(hub: Arc<Hub>) {
    let Some(mirror) = hub.outbox.mirror() else {
        return std::future::pending().await;
    };
    loop {
        if mirror.refresh().await {
            hub.start_over();
        }
        if mirror.until_news(REFRESH).await {
            hub.publish_all();
        }
    }
}

fn nats_ca(settings: &Settings) -> Result<Option<String>, Error> {
    let Some(path) = &settings.nats_flags.nats_ca_file else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("--nats-ca-file {}: {error}", path.display()))?;
    Ok(Some(text))
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
        ttl: Ttl {
            after_succeeded: settings.ttl_after_succeeded,
            after_failed: settings.ttl_after_failed,
        },
        max_items: settings.max_items,
    })
}
