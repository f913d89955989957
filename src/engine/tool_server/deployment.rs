//! The Deployment that serves a tool.
//!
//! With `exec` and `stdio` the executor runs in the user's container and starts the program; an init container has brought it
//! there, for the image need not have it. With `http` it is a container of its own, and the user's web server a sidecar of
//! it: that starts before it and gets SIGTERM after it, so it answers what the executor has taken.

use std::collections::BTreeMap;

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
use kube::Resource;

use super::ServerSettings;
use crate::{
    api::{HandlerAddress, HandlerCommand, LABEL_TOOL, Tool, ToolHandler},
    engine::{
        names,
        pod::{self, ENV_PREFIX, VOLUME_PREFIX, merge_templates, security},
        rights,
        spec_hash::fingerprint,
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
/// What the executor leaves of it to tell the callers of what was cut off.
const FAREWELL_SECONDS: i64 = 5;

/// The container with the user's program.
const TOOL_CONTAINER: &str = "tool";
const EXECUTOR_CONTAINER: &str = "executor";

/// The Deployment of `tool`, all in it decided.
pub(super) fn deployment(
    tool: &Tool,
    handler: &ToolHandler,
    program: Program,
    settings: &ServerSettings,
) -> Deployment {
    let name = tool.metadata.name.clone().unwrap_or_default();
    let labels = BTreeMap::from([(LABEL_TOOL.to_owned(), name.clone())]);
    let spec = DeploymentSpec {
        replicas: handler.replicas.map(i32::from),
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
        template: template(tool, handler, program, settings),
        ..DeploymentSpec::default()
    };
    let mut wanted = Deployment {
        metadata: ObjectMeta {
            name: Some(names::tool_server(&name)),
            namespace: tool.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner(tool)]),
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

fn owner(tool: &Tool) -> OwnerReference {
    OwnerReference {
        block_owner_deletion: Some(true),
        // What was read from the API server has a name and a UID.
        ..tool.controller_owner_ref(&()).unwrap_or_default()
    }
}

fn template(
    tool: &Tool,
    handler: &ToolHandler,
    program: Program,
    settings: &ServerSettings,
) -> PodTemplateSpec {
    let given = merge_templates(
        Some(&settings.pod_template),
        None,
        handler.pod_template.as_ref(),
    );
    let metadata = given.metadata.unwrap_or_default();
    let overlay = given.spec.unwrap_or_default();
    let name = tool.metadata.name.clone().unwrap_or_default();
    let mut labels = metadata.labels;
    labels.insert(LABEL_TOOL.to_owned(), name);
    let grace = overlay
        .termination_grace_period_seconds
        .unwrap_or(GRACE_SECONDS);
    let serving = Serving {
        tool,
        handler,
        program,
        settings,
        grace: (grace - FAREWELL_SECONDS).max(1),
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
    tool: &'a Tool,
    handler: &'a ToolHandler,
    program: Program<'a>,
    settings: &'a ServerSettings,
    /// How long calls under way may go on after SIGTERM, in seconds.
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
    /// What a handler names, if it is one thing.
    pub(super) fn of(handler: &ToolHandler) -> Option<Program<'_>> {
        match (&handler.exec, &handler.stdio, &handler.http) {
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
                    resources: self.handler.container.resources.clone(),
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
        let given = self.handler.container.clone();
        Container {
            name: TOOL_CONTAINER.to_owned(),
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
        let name = self.tool.metadata.name.as_deref().unwrap_or_default();
        [executor, "tool", "serve", name]
            .map(str::to_owned)
            .to_vec()
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
        let settings = self.settings;
        let namespace = self.tool.metadata.namespace.clone().unwrap_or_default();
        let mut ours = vec![
            variable("COMPOZY_NAMESPACE", namespace),
            variable("COMPOZY_NATS_URL", settings.nats_url.clone()),
            variable("COMPOZY_NATS_PREFIX", settings.nats_prefix.clone()),
            EnvVar {
                name: "COMPOZY_POD_UID".to_owned(),
                value: None,
                value_from: Some(EnvVarSource {
                    field_ref: Some(field("metadata.uid".to_owned())),
                    ..EnvVarSource::default()
                }),
            },
            variable(
                "COMPOZY_NATS_INBOX_PREFIX",
                rights::inbox_prefix("$(COMPOZY_POD_UID)"),
            ),
            variable("COMPOZY_TOOL_GRACE", format!("{}s", self.grace)),
            variable("COMPOZY_READY_PORT", READY_PORT.to_string()),
        ];
        if settings.vouched_for {
            ours.push(variable("COMPOZY_NATS_TOKEN_FILE", TOKEN_FILE.to_owned()));
        }
        if settings.nats_ca.is_some() {
            ours.push(variable("COMPOZY_NATS_CA_FILE", CA_FILE.to_owned()));
        }
        if let Some(concurrency) = self.handler.concurrency {
            ours.push(variable(
                "COMPOZY_TOOL_CONCURRENCY",
                concurrency.to_string(),
            ));
        }
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
