//! The Deployment that serves a tool or a pool.
//!
//! With `exec` and `stdio` the executor runs in the user's container and starts the program; an init container has brought it
//! there, for the image need not have it. With `http` it is a container of its own, and the user's web server a sidecar of
//! it: that starts before it and gets SIGTERM after it, so it answers what the executor has taken.

use std::collections::BTreeMap;

use super::{Manner, Served, ServerSettings};
use crate::{
    api::{HandlerAddress, HandlerCommand, HandlerPods},
    engine::{
        pod::{self, ENV_PREFIX, VOLUME_PREFIX, merge_templates, security},
        rights,
        spec_hash::fingerprint,
    },
};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Container, DownwardAPIProjection, DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar,
            EnvVarSource, ObjectFieldSelector, PodSpec, PodTemplateSpec, Probe,
            ProjectedVolumeSource, ResourceRequirements, ServiceAccountTokenProjection,
            TCPSocketAction, Volume, VolumeMount, VolumeProjection,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};

/// The fingerprint of what was asked for: only a change of it is written again.
pub(super) const ANNOTATION_HASH: &str = "compozy.dev/spec-hash";

/// For whom the token is with which a pod shows NATS what it is.
pub const TOKEN_AUDIENCE: &str = "compozy-nats";
/// The least that a token may live is ten minutes; the kubelet renews it in time.
const TOKEN_SECONDS: i64 = 3600;

const EXECUTOR_DIRECTORY: &str = "/compozy/bin";
const EXECUTOR: &str = "/compozy/bin/executor";
const NATS_DIRECTORY: &str = "/compozy/nats";
const TOKEN_FILE: &str = "/compozy/nats/token";
const CA_FILE: &str = "/compozy/nats/ca.crt";

/// Certificates are no secret: so they come to pods of every namespace without an object of their own.
const ANNOTATION_CA: &str = "compozy.dev/nats-ca";

/// Open as long as the executor takes calls.
const READY_PORT: i32 = 6960;

/// Kubernetes' own default.
const GRACE_SECONDS: i64 = 30;

const EXECUTOR_CONTAINER: &str = "executor";

/// What is to be served, as far as its Deployment goes.
pub(super) struct Server<'a> {
    pub(super) manner: &'static Manner,
    pub(super) pods: &'a HandlerPods,
    name: &'a str,
    namespace: &'a str,
    owner: OwnerReference,
    at_once: Option<u16>,
}

impl Server<'_> {
    /// None if others serve it.
    pub(super) fn of<K: Served>(served: &K) -> Option<Server<'_>> {
        let meta = served.meta();
        Some(Server {
            manner: &K::MANNER,
            pods: served.pods()?,
            // What was read from the API server has a name, a namespace and a UID.
            name: meta.name.as_deref().unwrap_or_default(),
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            owner: OwnerReference {
                block_owner_deletion: Some(true),
                ..served.controller_owner_ref(&()).unwrap_or_default()
            },
            at_once: served.at_once(),
        })
    }

    fn label(&self) -> (String, String) {
        (self.manner.label.to_owned(), self.name.to_owned())
    }
}

/// The Deployment of `server`, all in it decided.
pub(super) fn deployment(
    server: &Server,
    program: Program,
    settings: &ServerSettings,
) -> Deployment {
    let labels = BTreeMap::from([server.label()]);
    let spec = DeploymentSpec {
        replicas: server.pods.replicas.map(i32::from),
        selector: LabelSelector {
            match_labels: Some(labels.clone()),
            ..LabelSelector::default()
        },
        // A new pod takes calls before an old one ends: there is always one.
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(1)),
                max_unavailable: Some(IntOrString::Int(0)),
            }),
        }),
        template: template(server, program, settings),
        ..DeploymentSpec::default()
    };
    let mut wanted = Deployment {
        metadata: ObjectMeta {
            name: Some(server.manner.deployment(server.name)),
            namespace: Some(server.namespace.to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![server.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    };
    let hash = (ANNOTATION_HASH.to_owned(), hash(&wanted));
    wanted.metadata.annotations = Some(BTreeMap::from([hash]));
    wanted
}

fn hash(wanted: &Deployment) -> String {
    // What was made of types of Kubernetes can be written as JSON.
    fingerprint(&serde_json::to_value(wanted).unwrap_or_default())
}

fn template(server: &Server, program: Program, settings: &ServerSettings) -> PodTemplateSpec {
    let given = merge_templates(
        Some(&settings.pod_template),
        None,
        server.pods.pod_template.as_ref(),
    );
    let metadata = given.metadata.unwrap_or_default();
    let overlay = given.spec.unwrap_or_default();
    let mut labels = metadata.labels;
    labels.extend([server.label()]);
    let grace = overlay
        .termination_grace_period_seconds
        .unwrap_or(GRACE_SECONDS);
    let serving = Serving {
        server,
        program,
        settings,
        grace: (grace - server.manner.farewell).max(1),
    };
    let mut annotations = metadata.annotations;
    let ca = settings.nats_ca.clone();
    annotations.extend(ca.map(|ca| (ANNOTATION_CA.to_owned(), ca)));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            init_containers: Some(vec![serving.before()]),
            containers: vec![serving.main()],
            ..pod::overlaid(overlay, serving.volumes(), &settings.pods)
        }),
    }
}

struct Serving<'a> {
    server: &'a Server<'a>,
    program: Program<'a>,
    settings: &'a ServerSettings,
    /// How long what is under way may go on after SIGTERM, in seconds.
    grace: i64,
}

/// What the executor lets answer.
pub(super) enum Program<'a> {
    /// A command that it starts, with the flag that says how.
    Command(&'static str, &'a HandlerCommand),
    /// A web server beside it.
    Http(&'a HandlerAddress),
}

impl Program<'_> {
    /// What is named for the pods, if it is one thing.
    pub(super) fn of(pods: &HandlerPods) -> Option<Program<'_>> {
        match (&pods.exec, &pods.stdio, &pods.http) {
            (Some(exec), None, None) => Some(Program::Command("--exec", exec)),
            (None, Some(stdio), None) => Some(Program::Command("--stdio", stdio)),
            (None, None, Some(http)) => Some(Program::Http(http)),
            _ => None,
        }
    }
}

impl Serving<'_> {
    /// What has to be there before the main container: the executor in a volume, or the web server.
    fn before(&self) -> Container {
        match self.program {
            Program::Command(..) => {
                let command = ["/executor", "install", EXECUTOR];
                let mounts = vec![mount("executor", EXECUTOR_DIRECTORY, false)];
                Container {
                    volume_mounts: Some(mounts),
                    // It is over before the user's container starts, which needs them anyway.
                    resources: self.server.pods.container.resources.clone(),
                    ..self.executor(command.map(str::to_owned).to_vec())
                }
            }
            Program::Http(address) => {
                let user = self.user();
                let probe = user.startup_probe.clone();
                Container {
                    restart_policy: Some("Always".to_owned()),
                    // No call is taken before there is somebody to pass it to.
                    startup_probe: Some(probe.unwrap_or_else(|| listens(address.port))),
                    ..user
                }
            }
        }
    }

    fn user(&self) -> Container {
        let given = self.server.pods.container.clone();
        Container {
            name: self.server.manner.container.to_owned(),
            security_context: Some(security::container(
                given.security_context.clone(),
                &self.settings.pods,
            )),
            ..given
        }
    }

    /// The container in which the executor takes calls.
    fn main(&self) -> Container {
        match self.program {
            Program::Command(flag, program) => {
                let mut command = self.serve(EXECUTOR);
                command.extend([flag.to_owned(), "--".to_owned()]);
                command.extend(program.command.iter().cloned());
                let mut main = self.serving(self.user());
                main.command = Some(command);
                let mounts = main.volume_mounts.get_or_insert_default();
                mounts.push(mount("executor", EXECUTOR_DIRECTORY, true));
                main
            }
            Program::Http(address) => {
                let path = address.path.as_deref().unwrap_or("/");
                let url = format!("http://localhost:{}{path}", address.port);
                let mut command = self.serve("/executor");
                command.extend(["--http".to_owned(), url]);
                self.serving(Container {
                    resources: Some(executor_resources()),
                    ..self.executor(command)
                })
            }
        }
    }

    fn serve(&self, executor: &str) -> Vec<String> {
        let command = self.server.manner.command.iter().copied();
        let words = [executor].into_iter().chain(command);
        let words = words.chain([self.server.name]);
        words.map(str::to_owned).collect()
    }

    /// A container of the executor's own image.
    fn executor(&self, command: Vec<String>) -> Container {
        let restricted = pod::PodSettings { restricted: true };
        Container {
            name: EXECUTOR_CONTAINER.to_owned(),
            image: Some(self.settings.executor_image.clone()),
            image_pull_policy: self.settings.executor_image_pull_policy.clone(),
            command: Some(command),
            security_context: Some(security::container(None, &restricted)),
            ..Container::default()
        }
    }

    /// What a container needs in which the executor takes calls.
    fn serving(&self, container: Container) -> Container {
        let mut mounts = container.volume_mounts.unwrap_or_default();
        if self.shown_to_nats().is_some() {
            mounts.push(mount("nats", NATS_DIRECTORY, true));
        }
        Container {
            env: Some(self.environment(container.env.unwrap_or_default())),
            volume_mounts: (!mounts.is_empty()).then_some(mounts),
            readiness_probe: Some(ready()),
            ..container
        }
    }

    /// Ours, then the user's, none of which has a name of ours.
    fn environment(&self, given: Vec<EnvVar>) -> Vec<EnvVar> {
        let (settings, server) = (self.settings, self.server);
        let mut ours = vec![
            variable("COMPOZY_NAMESPACE", server.namespace.to_owned()),
            variable("COMPOZY_NATS_URL", settings.nats_url.clone()),
            variable("COMPOZY_NATS_PREFIX", settings.nats_prefix.clone()),
            variable_from("COMPOZY_POD_UID", "metadata.uid"),
            variable(
                "COMPOZY_NATS_INBOX_PREFIX",
                rights::inbox_prefix("$(COMPOZY_POD_UID)"),
            ),
            variable(server.manner.grace, format!("{}s", self.grace)),
            variable("COMPOZY_READY_PORT", READY_PORT.to_string()),
        ];
        if settings.vouched_for {
            ours.push(variable("COMPOZY_NATS_TOKEN_FILE", TOKEN_FILE.to_owned()));
        }
        if settings.nats_ca.is_some() {
            ours.push(variable("COMPOZY_NATS_CA_FILE", CA_FILE.to_owned()));
        }
        if let Some(at_once) = server.at_once {
            ours.push(variable(server.manner.at_once, at_once.to_string()));
        }
        let pod = server.manner.pod;
        ours.extend(pod.map(|name| variable_from(name, "metadata.name")));
        let given = given.into_iter();
        ours.extend(given.filter(|variable| !variable.name.starts_with(ENV_PREFIX)));
        ours
    }

    fn volumes(&self) -> Vec<Volume> {
        let brings_executor = matches!(self.program, Program::Command(..));
        let executor = brings_executor.then(|| Volume {
            name: volume_name("executor"),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity("64Mi".to_owned())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        });
        let nats = self.shown_to_nats().map(|sources| Volume {
            name: volume_name("nats"),
            projected: Some(ProjectedVolumeSource {
                sources: Some(sources),
                ..ProjectedVolumeSource::default()
            }),
            ..Volume::default()
        });
        executor.into_iter().chain(nats).collect()
    }

    /// The files with which pod and NATS show each other who they are, if there are any.
    fn shown_to_nats(&self) -> Option<Vec<VolumeProjection>> {
        let token = self.settings.vouched_for.then(|| VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                audience: Some(TOKEN_AUDIENCE.to_owned()),
                expiration_seconds: Some(TOKEN_SECONDS),
                path: "token".to_owned(),
            }),
            ..VolumeProjection::default()
        });
        let ca = self.settings.nats_ca.as_ref().map(|_| VolumeProjection {
            downward_api: Some(DownwardAPIProjection {
                items: Some(vec![DownwardAPIVolumeFile {
                    path: "ca.crt".to_owned(),
                    field_ref: Some(field(format!("metadata.annotations['{ANNOTATION_CA}']"))),
                    ..DownwardAPIVolumeFile::default()
                }]),
            }),
            ..VolumeProjection::default()
        });
        let sources: Vec<_> = token.into_iter().chain(ca).collect();
        (!sources.is_empty()).then_some(sources)
    }
}

fn field(path: String) -> ObjectFieldSelector {
    ObjectFieldSelector {
        field_path: path,
        ..ObjectFieldSelector::default()
    }
}

/// What it takes to pass messages on; a quota may ask for them.
fn executor_resources() -> ResourceRequirements {
    let amounts = |cpu: Option<&str>, memory: &str| {
        let cpu = cpu.map(|cpu| ("cpu".to_owned(), Quantity(cpu.to_owned())));
        let memory = ("memory".to_owned(), Quantity(memory.to_owned()));
        cpu.into_iter().chain([memory]).collect()
    };
    ResourceRequirements {
        requests: Some(amounts(Some("10m"), "16Mi")),
        limits: Some(amounts(None, "128Mi")),
        ..ResourceRequirements::default()
    }
}

fn ready() -> Probe {
    Probe {
        tcp_socket: Some(port(READY_PORT)),
        period_seconds: Some(2),
        ..Probe::default()
    }
}

/// For five minutes; then the container is started again.
fn listens(at: u16) -> Probe {
    Probe {
        tcp_socket: Some(port(at.into())),
        period_seconds: Some(1),
        failure_threshold: Some(300),
        ..Probe::default()
    }
}

fn port(port: i32) -> TCPSocketAction {
    TCPSocketAction {
        port: IntOrString::Int(port),
        ..TCPSocketAction::default()
    }
}

fn volume_name(what: &str) -> String {
    format!("{VOLUME_PREFIX}{what}")
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume_name(volume),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

fn variable(name: &str, value: String) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    }
}

fn variable_from(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(field(path.to_owned())),
            ..EnvVarSource::default()
        }),
    }
}
