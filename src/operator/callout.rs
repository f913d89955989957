//! Tells NATS who may come in: whoever runs in a pod shows its service account's token. The API server says whose that is,
//! the pod's owners say what it does, the engine what that may do.
//!
//! Every process of an installation answers, whether it leads or not: nothing is written.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, api::PostParams};
use nkeys::KeyPair;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use crate::api::{ExecutorPool, Time, Tool};
use crate::engine::rights::{Role, rights};
use crate::engine::server::{Served, TOKEN_AUDIENCE as AUDIENCE};
use crate::ports::{Clock, NatsCallout};
use crate::protocol::callout::Question;

/// Questions that are worked on at once; further ones wait in the client, and the server gives up by itself.
const AT_ONCE: usize = 32;

/// The server waits for five seconds; see the chart's `nats.conf`.
const PATIENCE: Duration = Duration::from_secs(4);

/// A connection ends after so long, and its program comes back with a newer token: so long may a stolen one be of use.
const VALID_FOR: Duration = Duration::from_secs(24 * 3600);

/// Or so much earlier, drawn for each: pods that came together must not be cut off together.
const EARLIER: Duration = Duration::from_secs(6 * 3600);

/// Who answers, and with what.
pub struct Callout {
    client: Client,
    nats: NatsCallout,
    issuer: KeyPair,
    prefix: String,
    clock: Arc<dyn Clock>,
}

impl Callout {
    /// Asks `client` who somebody is, and vouches with the key `issuer`.
    pub fn new(
        client: Client,
        nats: NatsCallout,
        issuer: KeyPair,
        prefix: &str,
        clock: Arc<dyn Clock>,
    ) -> Callout {
        Callout {
            client,
            nats,
            issuer,
            prefix: prefix.to_owned(),
            clock,
        }
    }

    /// Answers until the NATS client ends.
    pub async fn run(&self) {
        let questions = self.nats.questions().await;
        let answers = questions.for_each_concurrent(AT_ONCE, async |message| {
            if let Some(reply) = message.reply {
                self.answer(&reply, &message.payload).await;
            }
        });
        answers.await;
    }

    async fn answer(&self, reply: &str, payload: &[u8]) {
        let question = match Question::read(payload) {
            Ok(question) => question,
            Err(why) => return warn!(why, "NATS asked something that is no question"),
        };
        let asked = tokio::time::timeout(PATIENCE, self.identify(&question)).await;
        let role = asked.unwrap_or_else(|_| Err("the API server did not answer".to_owned()));
        let now = Time(self.clock.now());
        let client = &question.client;
        let answer = match &role {
            Ok(role) => {
                info!(client, ?role, "let into NATS");
                let rights = rights(role, &self.prefix);
                let until = now.after(VALID_FOR - EARLIER.mul_f64(fastrand::f64()));
                question.admit(&self.issuer, &rights, now, until)
            }
            Err(why) => {
                warn!(client, why, "kept out of NATS");
                question.refuse(&self.issuer, why, now)
            }
        };
        let sent = match answer {
            Ok(answer) => self.nats.answer(reply, answer.into()).await,
            Err(error) => return warn!(%error, "the issuer's key does not sign"),
        };
        if let Err(error) = sent {
            // Whoever it is tries again.
            warn!(client, %error, "NATS did not take the answer");
        }
    }

    async fn identify(&self, question: &Question) -> Result<Role, String> {
        let token = question.token.as_deref().filter(|token| !token.is_empty());
        let token = token.ok_or("it shows no token; let it read one with --nats-token-file")?;
        let shown = self.review(token).await?;
        let pod = self.get::<Pod>(&shown.namespace, &shown.pod).await?;
        let uid = pod.metadata.uid.as_deref();
        if uid != Some(&shown.pod_uid) {
            return Err(format!(
                "the pod {}/{} of its token is gone",
                shown.namespace, shown.pod
            ));
        }
        self.role(shown, &pod).await
    }

    /// To which pod a token was given.
    async fn review(&self, token: &str) -> Result<Shown, String> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let api = Api::<TokenReview>::all(self.client.clone());
        let reviewed = api.create(&PostParams::default(), &review).await;
        let reviewed =
            reviewed.map_err(|error| format!("its token could not be reviewed: {error}"))?;
        Shown::of(&reviewed)
    }

    /// What a pod does: what its Deployment is there for, whatever its labels say.
    async fn role(&self, shown: Shown, pod: &Pod) -> Result<Role, String> {
        let Shown {
            namespace, pod_uid, ..
        } = shown;
        let set: ReplicaSet = self.owner(&namespace, pod).await?;
        let deployment: Deployment = self.owner(&namespace, &set).await?;
        if controller::<_, ExecutorPool>(&deployment).is_ok() {
            let pool = self.served_by::<ExecutorPool>(&namespace, &deployment);
            return Ok(Role::PoolWorker {
                pool: pool.await?,
                namespace,
                pod: pod_uid,
            });
        }
        let tool = self.served_by::<Tool>(&namespace, &deployment);
        Ok(Role::ToolServer {
            tool: tool.await?,
            namespace,
            pod: pod_uid,
        })
    }

    /// The name of the `K` that a Deployment serves.
    async fn served_by<K>(&self, namespace: &str, deployment: &Deployment) -> Result<String, String>
    where
        K: Served<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let served: K = self.owner(namespace, deployment).await?;
        let name = served.meta().name.clone().unwrap_or_default();
        // A Deployment that somebody else made may name any object as its owner.
        let made_by_us = deployment.metadata.name == Some(K::MANNER.deployment(&name));
        match served.pods().is_some() && made_by_us {
            true => Ok(name),
            false => Err(format!(
                "the operator does not serve the {} {name}",
                K::MANNER.what
            )),
        }
    }

    async fn owner<K, O>(&self, namespace: &str, owned: &K) -> Result<O, String>
    where
        K: Resource<DynamicType = ()>,
        O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let reference = controller::<K, O>(owned)?;
        let owner = self.get::<O>(namespace, &reference.name).await?;
        match owner.meta().uid.as_deref() == Some(&reference.uid) {
            true => Ok(owner),
            false => Err(format!("its {} {} is gone", O::kind(&()), reference.name)),
        }
    }

    async fn get<K>(&self, namespace: &str, name: &str) -> Result<K, String>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let found = api.get(name).await;
        found.map_err(|error| format!("its {} {namespace}/{name}: {error}", K::kind(&())))
    }
}

/// What controls an object, if it is of the kind `O`.
fn controller<K, O>(owned: &K) -> Result<&OwnerReference, String>
where
    K: Resource<DynamicType = ()>,
    O: Resource<DynamicType = ()>,
{
    let owners = owned.meta().owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    let of_kind = |owner: &&OwnerReference| {
        owner.kind == O::kind(&()) && owner.api_version == O::api_version(&())
    };
    controllers.next().filter(of_kind).ok_or_else(|| {
        format!(
            "no {} controls its {}: only what the operator runs is let in so",
            O::kind(&()),
            K::kind(&())
        )
    })
}

/// The pod that a token was given to.
struct Shown {
    namespace: String,
    pod: String,
    pod_uid: String,
}

impl Shown {
    fn of(review: &TokenReview) -> Result<Shown, String> {
        let status = review.status.clone().unwrap_or_default();
        if status.authenticated != Some(true) {
            let error = status.error.unwrap_or_default();
            return Err(format!("its token is not accepted: {error}"));
        }
        // An API server that knows no audiences says nothing of them.
        let audiences = status.audiences.unwrap_or_default();
        if !audiences.iter().any(|audience| audience == AUDIENCE) {
            return Err(format!("its token is not for {AUDIENCE}"));
        }
        let user = status.user.unwrap_or_default();
        let account = user.username.unwrap_or_default();
        let extra = user.extra.unwrap_or_default();
        let one = |name: &str| {
            let values = extra.get(&format!("authentication.kubernetes.io/{name}"));
            let value = values.and_then(|values| values.first()).cloned();
            value.ok_or_else(|| format!("its token is {account}'s, and of no pod"))
        };
        let namespace = account
            .strip_prefix("system:serviceaccount:")
            .and_then(|account| account.split_once(':'));
        let (namespace, _) = namespace.ok_or_else(|| format!("{account} is no service account"))?;
        Ok(Shown {
            namespace: namespace.to_owned(),
            pod: one("pod-name")?,
            pod_uid: one("pod-uid")?,
        })
    }
}
