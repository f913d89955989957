//! The reconciler of tools that the operator serves: each has a Deployment, whose pods take its calls.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::watcher;
use tokio::time::Instant;

use super::{
    cluster::{CallError, Cluster},
    hub::Hub,
    index::{Key, Known, key_of, sibling},
    queue::Queue,
    unparsable::Kind,
    watch::Watched,
};
use crate::{
    api::{LABEL_TOOL, Time, Tool},
    engine::{
        names,
        tool_server::{self, Plan, ServerSettings, plan},
    },
    ports::Clock,
};

/// How often a Deployment is looked at that no watch shows.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What is known of tools and what serves them, and which to look at.
#[derive(Default)]
pub struct KnownTools {
    tools: Known<Tool>,
    deployments: Known<Deployment>,
    /// Tools to look at.
    pub queue: Queue<Key>,
}

impl KnownTools {
    /// A tool, if tools are watched.
    pub fn tool(&self, key: &Key) -> Option<Arc<Tool>> {
        self.tools.get(key)
    }

    /// Whether a pod takes the calls of a tool that the operator serves. The Deployment knows it before the tool's status
    /// says so.
    pub fn is_served(&self, tool: &Tool) -> bool {
        let key = key_of(tool);
        let server = sibling(&key, &names::tool_server(&key.1));
        let deployment = self.deployments.get(&server);
        deployment.is_some_and(|deployment| tool_server::serves(&deployment, tool))
    }
}

impl Watched for Tool {
    const KIND: &'static str = "Tool";
    const PLURAL: &'static str = "tools";
    const SHOWN_AS: Option<Kind> = None;
    fn seen(self, hub: &Hub) {
        let key = key_of(&self);
        if hub.tools.tools.apply(self) {
            hub.tools.queue.add(key);
        }
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        hub.tools.tools.delete(key, uid);
    }
    fn known(hub: &Hub) -> Vec<(Key, String)> {
        hub.tools.tools.all()
    }
}

impl Watched for Deployment {
    const KIND: &'static str = "Deployment";
    const PLURAL: &'static str = "deployments";
    const SHOWN_AS: Option<Kind> = None;
    fn config() -> watcher::Config {
        watcher::Config::default().labels(LABEL_TOOL)
    }
    fn seen(self, hub: &Hub) {
        let tool = tool_of(&key_of(&self));
        if hub.tools.deployments.apply(self) {
            tool.into_iter().for_each(|tool| hub.tools.queue.add(tool));
        }
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        hub.tools.deployments.delete(key, uid);
        tool_of(key)
            .into_iter()
            .for_each(|tool| hub.tools.queue.add(tool));
    }
    fn known(hub: &Hub) -> Vec<(Key, String)> {
        hub.tools.deployments.all()
    }
}

/// Whether the API server said no. What cannot be applied, such as a list with an entry twice, it calls an error of its own
/// (500).
fn is_refusal(error: &CallError) -> bool {
    error.code().is_some() && !error.is_conflict() && !error.is_throttled()
}

/// The tool that a Deployment would serve, by its name.
fn tool_of(deployment: &Key) -> Option<Key> {
    let tool = deployment.1.strip_prefix(names::TOOL_SERVER_PREFIX)?;
    Some(sibling(deployment, tool))
}

/// The reconciler.
pub struct ToolServers {
    /// Where observations are.
    pub hub: Arc<Hub>,
    /// Where changes go.
    pub cluster: Cluster,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The installation's say.
    pub settings: ServerSettings,
}

impl ToolServers {
    /// Does what is to be done about a tool.
    ///
    /// # Errors
    /// A call that failed; trying again is safe.
    pub async fn reconcile(&self, key: &Key) -> Result<Option<Instant>, CallError> {
        let Some(tool) = self.hub.tools.tool(key) else {
            return Ok(None);
        };
        let server = sibling(key, &names::tool_server(&key.1));
        let known = self.hub.tools.deployments.get(&server);
        let mut found = known.as_deref().cloned();
        if self.plan(&tool, found.as_ref(), None).apply.is_some() {
            // The cache may be behind, and has nothing of a Deployment without our label.
            found = self.cluster.fetch_deployment(&server).await?;
        }
        let mut refused = None;
        if let Some(wanted) = self.plan(&tool, found.as_ref(), None).apply {
            match self.cluster.apply_deployment(&wanted).await {
                Ok(applied) => found = Some(applied),
                Err(error) if is_refusal(&error) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        let said = refused.as_ref().map(CallError::said);
        let plan = self.plan(&tool, found.as_ref(), said.as_deref());
        if let Some(status) = plan.record {
            self.cluster.record_tool(&tool, status).await?;
        }
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        // No watch tells when somebody else's Deployment goes.
        let unwatched = found.is_some() && self.hub.tools.deployments.get(&server).is_none();
        Ok(unwatched.then(|| Instant::now() + LOOK_AGAIN))
    }

    fn plan(&self, tool: &Tool, found: Option<&Deployment>, refused: Option<&str>) -> Plan {
        let now = Time(self.clock.now());
        plan(tool, found, refused, &self.settings, now)
    }
}
