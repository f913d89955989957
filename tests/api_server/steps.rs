//! Random requests. A step is made into a request for each side, of what that side was told.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::{
    api_server::Kind,
    objects::{Edit, content_edit, edited, metadata_edit, status, template},
    sides::Memory,
};

/// One request, before either side's UIDs and revisions are in it.
#[derive(Clone, Debug)]
pub struct Step {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    Create(Vec<Edit>),
    Get {
        metadata_only: bool,
    },
    List {
        query: String,
        metadata_only: bool,
    },
    NextPage {
        query: String,
    },
    /// A version of the object that was seen earlier, with changes.
    Update {
        age: usize,
        of_status: bool,
        edits: Vec<Edit>,
    },
    /// With the resourceVersion of a version that was seen earlier.
    Patch {
        content_type: &'static str,
        of_status: bool,
        patch: Value,
        guard: Option<usize>,
    },
    Delete {
        options: Value,
        uid: Option<usize>,
        version: Option<usize>,
    },
    /// From the start of the sequence, or from a revision long before it.
    Watch {
        query: &'static str,
        from_start: bool,
    },
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

impl Step {
    /// The next step of a sequence that has this namespace.
    pub fn draw(rng: &mut Rng, namespace: &str) -> Step {
        let kind = match rng.u8(..16) {
            0..6 => Kind::Workflow,
            6..9 => Kind::TaskExecution,
            9..13 => Kind::Pod,
            13 => Kind::ConfigMap,
            14 => Kind::Event,
            _ => Kind::Lease,
        };
        let namespace = match rng.u8(..40) {
            0 => "nowhere".to_owned(),
            1 => closing(namespace),
            _ => namespace.to_owned(),
        };
        Step {
            kind,
            namespace,
            name: NAMES[rng.usize(..NAMES.len())].to_owned(),
            action: Action::draw(rng, kind),
        }
    }

    /// How a sequence begins: with a namespace, and with one that is being deleted.
    pub fn beginning(namespace: &str) -> Vec<Step> {
        let deletion = Action::Delete {
            options: json!({}),
            uid: None,
            version: None,
        };
        let steps = [
            (namespace.to_owned(), Action::Create(Vec::new())),
            (closing(namespace), Action::Create(Vec::new())),
            (closing(namespace), deletion),
        ];
        let steps = steps.into_iter().map(|(name, action)| Step {
            kind: Kind::Namespace,
            namespace: String::new(),
            name,
            action,
        });
        steps.collect()
    }

    /// Watches that tell a sequence again from its start.
    pub fn watches(namespace: &str) -> Vec<Step> {
        let kinds = [
            Kind::Workflow,
            Kind::TaskExecution,
            Kind::Pod,
            Kind::ConfigMap,
            Kind::Lease,
        ];
        let queries = ["", "labelSelector=l%3Dx", "fieldSelector=metadata.name%3Da"];
        let all = kinds
            .iter()
            .flat_map(|kind| queries.map(|query| (*kind, query)));
        all.map(|(kind, query)| Step {
            kind,
            namespace: namespace.to_owned(),
            name: String::new(),
            action: Action::Watch {
                query,
                from_start: true,
            },
        })
        .collect()
    }

    /// The path of all objects of its kind.
    pub fn collection(&self) -> String {
        let resource = self.kind.resource();
        let root = if resource.group.is_empty() {
            "api"
        } else {
            "apis"
        };
        let api = resource.api_version();
        if resource.namespaced {
            format!(
                "/{root}/{api}/namespaces/{}/{}",
                self.namespace, resource.plural
            )
        } else {
            format!("/{root}/{api}/{}", resource.plural)
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    /// The request, made of what a side was told.
    pub fn request(&self, memory: &Memory) -> Option<http::Request<Vec<u8>>> {
        let path = self.path();
        let seen = |age| memory.version(&path, age);
        let (method, uri, content_type, accept, body) = match &self.action {
            Action::Create(edits) => {
                let object = template(self.kind, &self.namespace, &self.name);
                (
                    "POST",
                    self.collection(),
                    "application/json",
                    "",
                    edited(object, edits),
                )
            }
            Action::Get { metadata_only } => {
                let accept = if *metadata_only { METADATA } else { "" };
                ("GET", path, "", accept, Value::Null)
            }
            Action::List {
                query,
                metadata_only,
            } => {
                let accept = if *metadata_only { METADATA_LIST } else { "" };
                (
                    "GET",
                    format!("{}?{query}", self.collection()),
                    "",
                    accept,
                    Value::Null,
                )
            }
            Action::NextPage { query } => {
                let token = memory.next_page.as_ref()?.replace('=', "%3D");
                let uri = format!("{}?{query}&continue={token}", self.collection());
                ("GET", uri, "", "", Value::Null)
            }
            Action::Update {
                age,
                of_status,
                edits,
            } => {
                let uri = with_status(path.clone(), *of_status);
                (
                    "PUT",
                    uri,
                    "application/json",
                    "",
                    edited(seen(*age)?.clone(), edits),
                )
            }
            Action::Patch {
                content_type,
                of_status,
                patch,
                guard,
            } => {
                let mut patch = patch.clone();
                if let Some(age) = guard {
                    patch["metadata"]["resourceVersion"] =
                        seen(*age)?["metadata"]["resourceVersion"].clone();
                }
                (
                    "PATCH",
                    with_status(path.clone(), *of_status),
                    *content_type,
                    "",
                    patch,
                )
            }
            Action::Delete {
                options,
                uid,
                version,
            } => {
                let mut options = options.clone();
                if let Some(age) = uid {
                    options["preconditions"]["uid"] = seen(*age)?["metadata"]["uid"].clone();
                }
                if let Some(age) = version {
                    options["preconditions"]["resourceVersion"] =
                        seen(*age)?["metadata"]["resourceVersion"].clone();
                }
                ("DELETE", path.clone(), "application/json", "", options)
            }
            Action::Watch { query, from_start } => {
                let from = if *from_start {
                    memory.start.as_deref()?
                } else {
                    "1"
                };
                let uri = format!(
                    "{}?watch=true&timeoutSeconds=1&resourceVersion={from}&{query}",
                    self.collection()
                );
                ("GET", uri, "", "", Value::Null)
            }
        };
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in [("content-type", content_type), ("accept", accept)] {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        Some(request.body(body).unwrap())
    }
}

fn with_status(path: String, of_status: bool) -> String {
    if of_status {
        format!("{path}/status")
    } else {
        path
    }
}

fn closing(namespace: &str) -> String {
    format!("{namespace}-closing")
}

impl Action {
    fn draw(rng: &mut Rng, kind: Kind) -> Action {
        let of_status = kind.resource().has_status && rng.u8(..5) < 2;
        match rng.u8(..100) {
            0..22 => Action::Create(creation_edits(rng, kind)),
            22..30 => Action::Get {
                metadata_only: rng.u8(..4) == 0,
            },
            30..36 => Action::List {
                query: list_query(rng, kind),
                metadata_only: rng.u8(..4) == 0,
            },
            36..38 => Action::NextPage {
                query: "limit=1".to_owned(),
            },
            38..60 => update(rng, kind, of_status),
            60..82 => patch(rng, kind, of_status),
            // Of other kinds a server that is young remembers everything.
            82..83 if kind.resource().custom => Action::Watch {
                query: "",
                from_start: false,
            },
            _ => delete(rng),
        }
    }
}

fn creation_edits(rng: &mut Rng, kind: Kind) -> Vec<Edit> {
    let mut edits = Vec::new();
    if rng.u8(..3) == 0 {
        edits.push(content_edit(kind, rng));
    }
    if rng.u8(..3) == 0 {
        edits.push(metadata_edit(rng));
    }
    if kind == Kind::Pod && rng.bool() {
        edits.push(("spec.nodeName", Some(json!("node"))));
    }
    match rng.u8(..40) {
        0 => edits.push(("metadata.name", Some(json!("Capital")))),
        1 => edits.push(("metadata.name", Some(json!("a.b")))),
        2 => edits.push(("metadata.name", Some(json!("x".repeat(70))))),
        3 => edits.push(("metadata.name", None)),
        4 => edits.push(("metadata.namespace", Some(json!("other")))),
        5 => edits.push(("metadata.uid", Some(json!("mine")))),
        _ => {}
    }
    edits
}

fn update(rng: &mut Rng, kind: Kind, of_status: bool) -> Action {
    let mut edits = Vec::new();
    if of_status {
        edits.push(("status", Some(status(kind, rng))));
    }
    if !of_status && rng.bool() {
        edits.push(content_edit(kind, rng));
    }
    if rng.bool() {
        edits.push(metadata_edit(rng));
    }
    match rng.u8(..24) {
        0 | 1 => edits.push(("metadata.resourceVersion", None)),
        2 => edits.push(("metadata.uid", Some(json!("another")))),
        3 => edits.push(("metadata.uid", None)),
        4 => edits.push(("metadata.name", Some(json!("another")))),
        5 => edits.push(("metadata.deletionTimestamp", None)),
        _ => {}
    }
    // Mostly the newest version, sometimes one that was written over.
    let age = [0, 0, 0, 1][rng.usize(..4)];
    Action::Update {
        age,
        of_status,
        edits,
    }
}

fn patch(rng: &mut Rng, kind: Kind, of_status: bool) -> Action {
    let edit = if of_status {
        ("status", Some(status(kind, rng)))
    } else if rng.bool() {
        content_edit(kind, rng)
    } else {
        metadata_edit(rng)
    };
    let strategic = rng.u8(..3) == 0;
    // In a patch, to remove is to write null.
    let mut patch = match edit {
        // A patch into a list would replace it by an object.
        (path, _) if path.contains(".0.") => json!({"metadata": {"labels": {"l": "w"}}}),
        (path, value) => edited(json!({}), &[(path, Some(value.unwrap_or(Value::Null)))]),
    };
    if strategic && rng.bool() {
        patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}});
    }
    Action::Patch {
        content_type: if strategic { STRATEGIC } else { MERGE },
        of_status,
        patch,
        guard: [None, None, Some(0), Some(1)][rng.usize(..4)],
    }
}

fn delete(rng: &mut Rng) -> Action {
    let mut options = json!({});
    match rng.u8(..8) {
        0 => options["gracePeriodSeconds"] = json!(0),
        1 => options["gracePeriodSeconds"] = json!(5),
        2 => options["propagationPolicy"] = json!("Background"),
        3 => options["propagationPolicy"] = json!("Foreground"),
        4 => options["propagationPolicy"] = json!("Orphan"),
        _ => {}
    }
    if rng.u8(..10) == 0 {
        options["preconditions"] = json!({"uid": "somebody"});
    }
    let age = |rng: &mut Rng| [None, None, None, Some(0), Some(1)][rng.usize(..5)];
    Action::Delete {
        options,
        uid: age(rng),
        version: age(rng),
    }
}

fn list_query(rng: &mut Rng, kind: Kind) -> String {
    let queries = [
        "",
        "limit=1",
        "limit=2",
        "labelSelector=l",
        "labelSelector=%21l",
        "labelSelector=l%3Dx",
        "labelSelector=l%21%3Dx",
        "labelSelector=l+in+%28x%2Cy%29",
        "labelSelector=l+notin+%28x%29&limit=1",
        "labelSelector=%3D%3D",
        "fieldSelector=metadata.name%3Da",
        "fieldSelector=metadata.name%21%3Da",
        "fieldSelector=spec.nothing%3Da",
    ];
    let only_pods = [
        "fieldSelector=status.phase%3DPending",
        "fieldSelector=spec.nodeName%3Dnode",
    ];
    if kind == Kind::Pod && rng.u8(..3) == 0 {
        return only_pods[rng.usize(..2)].to_owned();
    }
    queries[rng.usize(..queries.len())].to_owned()
}
