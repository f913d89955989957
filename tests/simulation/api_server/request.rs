//! A request, taken apart: what is asked of which object.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    kinds::{Kind, Resource},
    refusal::Refusal,
    store::Key,
};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch(PatchType),
    Delete,
    DeleteCollection,
}

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PatchType {
    /// RFC 7396.
    Merge,
    /// Kubernetes' own: lists with keys are merged. Not for custom resources.
    Strategic,
}

impl Verb {
    /// Whether it may change something.
    pub fn writes(self) -> bool {
        !matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub verb: Verb,
    pub kind: Kind,
    /// Empty: of all namespaces, or of none.
    pub namespace: String,
    /// Empty for lists, watches and creations.
    pub name: String,
    pub status: bool,
    pub query: BTreeMap<String, String>,
    /// Whether only the metadata is wanted back.
    pub metadata_only: bool,
    /// `Null` if there is none.
    pub body: Value,
}

/// The parts of an HTTP request that matter.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub accept: &'a str,
    pub content_type: &'a str,
    pub body: &'a [u8],
}

impl Request {
    pub fn create(kind: Kind, namespace: &str, object: Value) -> Request {
        Request::new(Verb::Create, kind, namespace, "", object)
    }

    pub fn get(kind: Kind, namespace: &str, name: &str) -> Request {
        Request::new(Verb::Get, kind, namespace, name, Value::Null)
    }

    /// `object` says its namespace and name.
    pub fn update(kind: Kind, object: Value) -> Request {
        let of = |field: &str| {
            object["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        Request::new(Verb::Update, kind, &of("namespace"), &of("name"), object)
    }

    /// As [`Request::update`], of the status alone.
    pub fn update_status(kind: Kind, object: Value) -> Request {
        Request {
            status: true,
            ..Request::update(kind, object)
        }
    }

    pub fn merge_patch(kind: Kind, namespace: &str, name: &str, patch: Value) -> Request {
        let verb = Verb::Patch(PatchType::Merge);
        Request::new(verb, kind, namespace, name, patch)
    }

    /// `options` are `DeleteOptions`, or `Null`.
    pub fn delete(kind: Kind, namespace: &str, name: &str, options: Value) -> Request {
        Request::new(Verb::Delete, kind, namespace, name, options)
    }

    /// What a kubelet sends when the containers of a deleted pod have ended.
    pub fn kubelet_delete(pod: &Value) -> Request {
        let of = |field: &str| {
            pod["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let options = serde_json::json!({
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": of("uid")},
        });
        Request::delete(Kind::Pod, &of("namespace"), &of("name"), options)
    }

    fn new(verb: Verb, kind: Kind, namespace: &str, name: &str, body: Value) -> Request {
        Request {
            verb,
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            status: false,
            query: BTreeMap::new(),
            metadata_only: false,
            body,
        }
    }

    /// Where etcd has its object; messages show it.
    pub fn storage_key(&self) -> String {
        let resource = self.kind.resource();
        let group = if resource.custom {
            format!("{}/", resource.group)
        } else {
            String::new()
        };
        let place = format!("{}/{}", self.namespace, self.name);
        format!("/registry/{group}{}/{place}", resource.plural)
    }

    /// Where its object is.
    pub fn key(&self) -> Key {
        Key::new(self.kind, &self.namespace, &self.name)
    }

    /// Takes an HTTP request apart.
    ///
    /// # Errors
    /// It asks for nothing that there is.
    pub fn parse(raw: Raw<'_>) -> Result<Request, Refusal> {
        let (kind, namespace, name, status) = target(raw.path).ok_or_else(Refusal::no_such_path)?;
        let query = query(raw.query);
        let watches = query
            .get("watch")
            .is_some_and(|value| value == "true" || value == "1");
        let verb = match (raw.method, name.is_empty()) {
            ("GET", true) if watches => Verb::Watch,
            ("GET", true) => Verb::List,
            ("GET", false) => Verb::Get,
            ("POST", true) => Verb::Create,
            ("PUT", false) => Verb::Update,
            ("PATCH", false) => Verb::Patch(patch_type(raw.content_type, kind.resource())?),
            ("DELETE", false) => Verb::Delete,
            ("DELETE", true) => Verb::DeleteCollection,
            _ => return Err(method_not_allowed()),
        };
        let body = match raw.body {
            [] => Value::Null,
            body => serde_json::from_slice(body)
                .map_err(|error| Refusal::bad_request(error.to_string()))?,
        };
        Ok(Request {
            verb,
            kind,
            namespace,
            name,
            status,
            query,
            metadata_only: raw.accept.contains("as=PartialObjectMetadata"),
            body,
        })
    }

    /// A parameter of the query; empty if it is not there.
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// What is done to what: `update workflows/status`.
    pub fn words(&self) -> String {
        let verb = match self.verb {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch(_) => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "delete all",
        };
        let status = if self.status { "/status" } else { "" };
        format!("{verb} {}{status}", self.kind.resource().plural)
    }

    /// One line for a trace: `update workflows/status default/hello`. The name of an Event carries the time of the
    /// machine, and is left out.
    pub fn line(&self) -> String {
        if self.kind == Kind::Event {
            return self.words();
        }
        let name = match self.name.as_str() {
            "" => self.body["metadata"]["name"].as_str().unwrap_or_default(),
            name => name,
        };
        format!("{} {}/{name}", self.words(), self.namespace)
    }
}

/// Kind, namespace, name, and whether it is about the status.
fn target(path: &str) -> Option<(Kind, String, String, bool)> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let prefix = match *parts.first()? {
        "api" => 2,
        "apis" => 3,
        _ => return None,
    };
    if parts.len() <= prefix {
        return None;
    }
    let rest = parts.split_off(prefix);
    let (group, version) = match parts.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return None,
    };
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => {
            (*namespace, (*plural, rest))
        }
        [plural, rest @ ..] => ("", (*plural, rest)),
        [] => return None,
    };
    let kind = Kind::ALL.into_iter().find(|kind| {
        let resource = kind.resource();
        (resource.group, resource.version, resource.plural) == (group, version, rest.0)
    })?;
    let (name, status) = match rest.1 {
        [] => ("", false),
        [name] => (*name, false),
        [name, "status"] if kind.resource().has_status => (*name, true),
        _ => return None,
    };
    let cluster_wide = namespace.is_empty();
    if kind.resource().namespaced == cluster_wide && !(cluster_wide && name.is_empty()) {
        return None;
    }
    Some((kind, namespace.to_owned(), name.to_owned(), status))
}

fn patch_type(content_type: &str, resource: &Resource) -> Result<PatchType, Refusal> {
    match content_type {
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" if !resource.custom => Ok(PatchType::Strategic),
        _ => Err(Refusal::unsupported_media_type()),
    }
}

fn method_not_allowed() -> Refusal {
    Refusal::new(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
}

fn query(text: &str) -> BTreeMap<String, String> {
    text.split('&')
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (!name.is_empty()).then(|| (decoded(name), decoded(value)))
        })
        .collect()
}

/// `application/x-www-form-urlencoded`, undone.
fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
