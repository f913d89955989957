//! `operator release-finalizers`: takes our finalizers from every object.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::{NamespaceResourceScope, PartialObjectMeta},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::info;

use super::{Error, settings::ReleaseFinalizers};
use crate::api::{
    FINALIZER_EVENTS, FINALIZER_OUTCOME, LABEL_WORKFLOW_UID, TaskExecution, Workflow,
};

/// A list is read in pages of this size.
const PAGE: u32 = 500;
/// Objects released at once.
const AT_ONCE: usize = 16;
/// How often all is looked through again because somebody wrote to an object meanwhile.
const PASSES: usize = 5;
/// How long the operator may take to end after it was scaled to zero.
const SCALE_DOWN: Duration = Duration::from_secs(60);
/// How often it is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(250);
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A kind that holds one of our finalizers.
trait Held:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned
{
    const FINALIZER: &'static str;
    /// The label that ours carry.
    const LABEL: &'static str;
}

impl Held for Workflow {
    const FINALIZER: &'static str = FINALIZER_EVENTS;
    const LABEL: &'static str = "";
}

impl Held for TaskExecution {
    const FINALIZER: &'static str = FINALIZER_EVENTS;
    const LABEL: &'static str = "";
}

impl Held for Pod {
    const FINALIZER: &'static str = FINALIZER_OUTCOME;
    const LABEL: &'static str = LABEL_WORKFLOW_UID;
}

/// Scales the operator down, if it is named, then releases workflows, task executions and pods.
///
/// # Errors
/// A call that failed; running it again goes on where it stopped.
pub async fn release_finalizers(client: Client, options: &ReleaseFinalizers) -> Result<(), Error> {
    if let Some(name) = &options.deployment {
        scale_down(&client, &options.namespace, name).await?;
    }
    let namespaces = &options.watch_namespaces;
    let workflows = release_kind::<Workflow>(&client, namespaces).await?;
    let executions = release_kind::<TaskExecution>(&client, namespaces).await?;
    let pods = release_kind::<Pod>(&client, namespaces).await?;
    info!(workflows, executions, pods, "finalizers released");
    Ok(())
}

/// An operator that still runs would put its finalizers on again: waits until its pods are gone.
async fn scale_down(client: &Client, namespace: &str, name: &str) -> Result<(), Error> {
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let scaled = timely(deployments.patch_scale(name, &PatchParams::default(), &none)).await?;
    let scale = match scaled {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        other => other?,
    };
    // The scale itself does not count the pods that are ending.
    let selector = scale.status.and_then(|status| status.selector);
    let selector = selector.ok_or("the Deployment's scale does not say which pods are its own")?;
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let ours = ListParams::default().labels(&selector);
    let gone = async {
        while !timely(pods.list_metadata(&ours)).await??.items.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        Ok::<_, Error>(())
    };
    tokio::time::timeout(SCALE_DOWN, gone)
        .await
        .map_err(|_| format!("{name} still runs {SCALE_DOWN:?} after it was scaled to zero"))?
}

async fn release_kind<K: Held>(client: &Client, namespaces: &[String]) -> Result<usize, Error> {
    if namespaces.is_empty() {
        return release_all(client, &Api::<K>::all(client.clone())).await;
    }
    let mut released = 0;
    for namespace in namespaces {
        let api = Api::<K>::namespaced(client.clone(), namespace);
        released += release_all(client, &api).await?;
    }
    Ok(released)
}

/// Releases until a whole pass met nobody else's write.
async fn release_all<K: Held>(client: &Client, all: &Api<K>) -> Result<usize, Error> {
    let mut released = 0;
    for _ in 0..PASSES {
        let pass = release_pass(client, all).await?;
        released += pass.released;
        if pass.conflicts == 0 {
            return Ok(released);
        }
    }
    Err(format!(
        "{} are being written to by somebody else; run this again",
        K::plural(&())
    )
    .into())
}

/// What became of the objects that were held.
#[derive(Default)]
struct Pass {
    released: usize,
    conflicts: usize,
}

/// Goes once through all objects of a kind; a kind that is not installed has none.
async fn release_pass<K: Held>(client: &Client, all: &Api<K>) -> Result<Pass, Error> {
    let mut pass = Pass::default();
    let mut params = ListParams::default().labels(K::LABEL).limit(PAGE);
    loop {
        let page = match timely(all.list_metadata(&params)).await? {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(pass),
            other => other?,
        };
        let held = page.items.into_iter().filter(is_held::<K>);
        let answers: Vec<bool> = futures::stream::iter(held)
            .map(|object| release_one(client, object))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        pass.released += answers.iter().filter(|released| **released).count();
        pass.conflicts += answers.iter().filter(|released| !**released).count();
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(pass),
        }
    }
}

fn is_held<K: Held>(object: &PartialObjectMeta<K>) -> bool {
    object.finalizers().iter().any(|held| held == K::FINALIZER)
}

/// False if somebody else wrote to it since it was read.
async fn release_one<K: Held>(
    client: &Client,
    object: PartialObjectMeta<K>,
) -> Result<bool, Error> {
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let rest: Vec<_> = object
        .finalizers()
        .iter()
        .filter(|held| *held != K::FINALIZER)
        .collect();
    let patch = Patch::Merge(json!({"metadata": {
        "resourceVersion": object.resource_version(),
        "finalizers": rest,
    }}));
    let name = object.name_any();
    match timely(api.patch_metadata(&name, &PatchParams::default(), &patch)).await? {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        other => Ok(other.map(|_| true)?),
    }
}

async fn timely<T>(call: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .map_err(|_| format!("the API server did not answer within {CALL_TIMEOUT:?}").into())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use clap::Parser;
    use http::Method;
    use serde_json::Value;

    use super::*;
    use crate::operator::{
        settings::{Command, CommandLine},
        testing::{Answer, Asked, client, refusal},
    };

    /// An API server that answers in turn, and what it was asked.
    struct Server {
        asked: Arc<Mutex<Vec<Asked>>>,
        client: Client,
    }

    impl Server {
        fn new(answer: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Server {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let log = asked.clone();
            let client = client(move |request: Asked| {
                let mut log = log.lock().unwrap();
                let before = log.iter().filter(|one| same(one, &request)).count();
                log.push(request.clone());
                std::future::ready(answer(&request, before))
            });
            Server { asked, client }
        }

        fn calls(&self) -> Vec<String> {
            let asked = self.asked.lock().unwrap();
            let line = |one: &Asked| format!("{} {}", one.method, one.path);
            asked.iter().map(line).collect()
        }
    }

    fn same(one: &Asked, other: &Asked) -> bool {
        one.method == other.method && one.path == other.path
    }

    fn list(items: &[Value]) -> Answer {
        let list = json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": {}, "items": items,
        });
        (200, list)
    }

    fn held() -> Value {
        json!({"metadata": {
            "name": "w", "namespace": "n", "resourceVersion": "7",
            "finalizers": [FINALIZER_EVENTS, "example.com/other"],
        }})
    }

    fn options(flags: &str) -> ReleaseFinalizers {
        let words = format!("operator release-finalizers {flags}");
        let line = CommandLine::try_parse_from(words.split_whitespace()).unwrap();
        let Some(Command::ReleaseFinalizers(options)) = line.command else {
            panic!("another command")
        };
        options
    }

    #[tokio::test]
    async fn somebody_elses_write_does_not_end_it_and_others_finalizers_stay() {
        let server = Server::new(|request, before| match request.method {
            Method::PATCH if before == 0 => refusal(409, "Conflict"),
            Method::PATCH => (200, held()),
            _ if request.path.ends_with("/workflows") => list(&[held()]),
            _ => list(&[]),
        });
        let done = release_finalizers(server.client.clone(), &options("")).await;
        assert!(done.is_ok(), "{done:?}");
        let asked = server.asked.lock().unwrap();
        let patches: Vec<_> = asked
            .iter()
            .filter(|one| one.method == Method::PATCH)
            .collect();
        assert_eq!(patches.len(), 2, "{asked:?}");
        let kept = &patches[1].body["metadata"]["finalizers"];
        assert_eq!(*kept, json!(["example.com/other"]));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_released_while_a_pod_of_the_operator_is_there() {
        let server = Server::new(|request, before| {
            if request.path.ends_with("/scale") {
                let status = json!({"replicas": 0, "selector": "component=operator"});
                return (
                    200,
                    json!({"metadata": {}, "spec": {"replicas": 0}, "status": status}),
                );
            }
            let ends = request.path == "/api/v1/namespaces/system/pods" && before < 3;
            let operator = json!({"metadata": {"name": "operator"}});
            list(if ends {
                std::slice::from_ref(&operator)
            } else {
                &[]
            })
        });
        let flags = options("--deployment operator --namespace system");
        release_finalizers(server.client.clone(), &flags)
            .await
            .unwrap();
        let calls = server.calls();
        let looked = |line: &&String| line.ends_with("/namespaces/system/pods");
        assert_eq!(calls.iter().filter(looked).count(), 4, "{calls:?}");
        assert!(calls[5].ends_with("/workflows"), "{calls:?}");
    }

    #[tokio::test]
    async fn confined_to_namespaces_it_asks_for_no_others() {
        let server = Server::new(|_, _| list(&[]));
        let flags = options("--watch-namespaces a,b");
        release_finalizers(server.client.clone(), &flags)
            .await
            .unwrap();
        let calls = server.calls();
        assert_eq!(calls.len(), 6, "{calls:?}");
        for line in calls {
            assert!(
                line.contains("/namespaces/a/") || line.contains("/namespaces/b/"),
                "{line}"
            );
        }
    }
}
