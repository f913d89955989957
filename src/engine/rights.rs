//! What whoever runs beside the operator may do in NATS.

use crate::protocol::{callout::Rights, pool::PoolSubjects, tool::ToolSubjects};

/// The account of whoever serves tools: see the chart's `nats.conf`.
const TOOLS: &str = "TOOLS";
/// The account of pools' workers.
const WORKERS: &str = "WORKERS";

/// As what somebody takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Serves a tool.
    ToolServer {
        /// Its namespace, and its callers'.
        namespace: String,
        /// The tool's name.
        tool: String,
        /// The pod's UID.
        pod: String,
    },
    /// Works on the tasks of a pool.
    PoolWorker {
        /// Its namespace, and its tasks'.
        namespace: String,
        /// The pool's name.
        pool: String,
        /// The pod's UID.
        pod: String,
    },
}

/// Where the answers to what a pod asks of NATS go: nobody else may read them.
pub fn inbox_prefix(pod: &str) -> String {
    format!("_INBOX_{pod}")
}

/// What that role may do.
pub fn rights(role: &Role, prefix: &str) -> Rights {
    match role {
        Role::ToolServer {
            namespace,
            tool,
            pod,
        } => of_tool_server(namespace, tool, pod, &ToolSubjects::new(prefix)),
        Role::PoolWorker {
            namespace,
            pool,
            pod,
        } => of_pool_worker(namespace, pool, pod, &PoolSubjects::new(prefix)),
    }
}

/// A server of tools takes calls of its tool alone, and only in the queue group, so that it cannot listen to those of the
/// others of its kind. It answers calls of its namespace: which ones is not known when it connects.
fn of_tool_server(namespace: &str, tool: &str, pod: &str, subjects: &ToolSubjects) -> Rights {
    Rights {
        name: format!("{namespace}/{tool}"),
        account: TOOLS.to_owned(),
        publish: vec![subjects.answers(namespace)],
        subscribe: vec![
            format!("{} {tool}", subjects.serve(namespace, tool)),
            format!("{}.>", inbox_prefix(pod)),
        ],
    }
}

/// A worker pulls from its pool's consumer alone, says of that one's deliveries whether they are under way or done, and
/// reports. Deliveries come to its own inbox: which task goes to which worker is not known before.
fn of_pool_worker(namespace: &str, pool: &str, pod: &str, subjects: &PoolSubjects) -> Rights {
    Rights {
        name: format!("{namespace}/{pool}"),
        account: WORKERS.to_owned(),
        publish: vec![
            subjects.pull(namespace, pool),
            subjects.acks(namespace, pool),
            subjects.reports_of(namespace, pool),
        ],
        subscribe: vec![
            subjects.controls(namespace, pool),
            format!("{}.>", inbox_prefix(pod)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_server_serves_its_tool_and_nothing_else() {
        let role = Role::ToolServer {
            namespace: "shop".to_owned(),
            tool: "charge".to_owned(),
            pod: "u1".to_owned(),
        };
        let rights = rights(&role, "compozy");
        assert_eq!(rights.account, "TOOLS");
        assert_eq!(rights.publish, ["compozy.results.tool.shop.>"]);
        assert_eq!(
            rights.subscribe,
            [
                "compozy.commands.tool.*.execute.shop_charge charge",
                "_INBOX_u1.>"
            ]
        );
    }

    #[test]
    fn a_worker_takes_the_tasks_of_its_pool_and_nothing_else() {
        let role = Role::PoolWorker {
            namespace: "shop".to_owned(),
            pool: "text".to_owned(),
            pod: "u1".to_owned(),
        };
        let rights = rights(&role, "acme.compozy");
        assert_eq!(rights.account, "WORKERS");
        assert_eq!(
            rights.publish,
            [
                "$JS.API.CONSUMER.MSG.NEXT.ACME_COMPOZY_POOLS.shop_text",
                "$JS.ACK.ACME_COMPOZY_POOLS.shop_text.>",
                "acme.compozy.reports.shop.pool.text.>",
            ]
        );
        assert_eq!(
            rights.subscribe,
            ["acme.compozy.control.shop.text.>", "_INBOX_u1.>"]
        );
    }
}
