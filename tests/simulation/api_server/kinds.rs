//! The kinds of objects that the model knows, and in what they differ.

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Namespace,
    Pod,
    ConfigMap,
    Lease,
    /// `events.k8s.io/v1`; the older form in the core group is not modelled.
    Event,
    Workflow,
    TaskExecution,
    Tool,
}

/// What is known of a kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    pub kind: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    /// The word in the path.
    pub plural: &'static str,
    pub namespaced: bool,
    /// Defined by a CRD of ours: checked and pruned by its schema.
    pub custom: bool,
    /// Whether there is a `/status`.
    pub has_status: bool,
    /// Whether PUT without a resourceVersion overwrites whatever is there.
    pub unconditional_update: bool,
    /// Whether PUT creates what is not there.
    pub create_on_update: bool,
    /// Whether DELETE answers with the object instead of a `Status`.
    pub returns_deleted: bool,
    /// What `fieldSelector` may name beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
}

const BUILT_IN: Resource = Resource {
    kind: "",
    group: "",
    version: "v1",
    plural: "",
    namespaced: true,
    custom: false,
    has_status: false,
    unconditional_update: true,
    create_on_update: false,
    returns_deleted: false,
    selectable: &[],
};

const CUSTOM: Resource = Resource {
    group: "compozy.dev",
    version: "v1alpha1",
    custom: true,
    has_status: true,
    unconditional_update: false,
    ..BUILT_IN
};

static NAMESPACE: Resource = Resource {
    kind: "Namespace",
    plural: "namespaces",
    namespaced: false,
    has_status: true,
    returns_deleted: true,
    selectable: &["status.phase"],
    ..BUILT_IN
};
static POD: Resource = Resource {
    kind: "Pod",
    plural: "pods",
    has_status: true,
    returns_deleted: true,
    selectable: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
    ],
    ..BUILT_IN
};
static CONFIG_MAP: Resource = Resource {
    kind: "ConfigMap",
    plural: "configmaps",
    ..BUILT_IN
};
static LEASE: Resource = Resource {
    kind: "Lease",
    group: "coordination.k8s.io",
    plural: "leases",
    unconditional_update: false,
    create_on_update: true,
    ..BUILT_IN
};
static EVENT: Resource = Resource {
    kind: "Event",
    group: "events.k8s.io",
    plural: "events",
    create_on_update: true,
    selectable: &["reason", "type"],
    ..BUILT_IN
};
static WORKFLOW: Resource = Resource {
    kind: "Workflow",
    plural: "workflows",
    ..CUSTOM
};
static TOOL: Resource = Resource {
    kind: "Tool",
    plural: "tools",
    has_status: false,
    ..CUSTOM
};
static TASK_EXECUTION: Resource = Resource {
    kind: "TaskExecution",
    plural: "taskexecutions",
    ..CUSTOM
};

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::Namespace,
        Kind::Pod,
        Kind::ConfigMap,
        Kind::Lease,
        Kind::Event,
        Kind::Workflow,
        Kind::TaskExecution,
        Kind::Tool,
    ];

    /// What is known of it.
    pub fn resource(self) -> &'static Resource {
        match self {
            Kind::Namespace => &NAMESPACE,
            Kind::Pod => &POD,
            Kind::ConfigMap => &CONFIG_MAP,
            Kind::Lease => &LEASE,
            Kind::Event => &EVENT,
            Kind::Workflow => &WORKFLOW,
            Kind::TaskExecution => &TASK_EXECUTION,
            Kind::Tool => &TOOL,
        }
    }
}

impl Resource {
    /// `v1` or `compozy.dev/v1alpha1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// How messages name it: `pods` or `workflows.compozy.dev`.
    pub fn qualified(&self) -> String {
        qualified(self.plural, self.group)
    }
}

/// A name with its group, if it has one.
pub fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}
