//! What whoever runs beside the operator may do in NATS.

use crate::protocol::{callout::Rights, tool::ToolSubjects};

/// The account of whoever serves tools: see the chart's `nats.conf`.
const TOOLS: &str = "TOOLS";

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
}

/// Where the answers to what a pod asks of NATS go: nobody else may read them.
pub fn inbox_prefix(pod: &str) -> String {
    format!("_INBOX_{pod}")
}

/// What that role may do.
///
/// A server of tools takes calls of its tool alone, and only in the queue group, so that it cannot listen to those of the
/// others of its kind. It answers calls of its namespace: which ones is not known when it connects.
pub fn rights(role: &Role, prefix: &str) -> Rights {
    let Role::ToolServer {
        namespace,
        tool,
        pod,
    } = role;
    let subjects = ToolSubjects::new(prefix);
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
}
