//! Deletions, and what follows from them: garbage, and namespaces that end.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    ApiServer, Done,
    kinds::{Kind, Resource},
    metadata,
    pods::{self, Grace},
    read,
    refusal::Refusal,
    request::Request,
    selector::Selector,
};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

impl ApiServer {
    pub(super) fn delete(&mut self, now: Timestamp, request: &Request) -> Result<Done, Refusal> {
        let resource = request.kind.resource();
        let key = request.key();
        let Some(old) = self.store.get(&key).cloned() else {
            return Err(Refusal::not_found(resource, &request.name));
        };
        check_preconditions(resource, &request.name, &old, &request.body)?;
        if request.kind == Kind::Namespace {
            return Ok(self.delete_namespace(now, request, &old));
        }
        let asked = request.body["gracePeriodSeconds"].as_i64();
        let grace = if request.kind == Kind::Pod {
            pods::grace(&old, asked, now)
        } else {
            Grace::None
        };
        let (mut marked, gracefully) = match grace {
            Grace::Pending => return Ok(self.deleted(request, (*old).clone())),
            Grace::Marked(marked) => (marked, true),
            Grace::None => ((*old).clone(), false),
        };
        // Nothing depends on Events.
        if request.kind != Kind::Event {
            follow_policy(&mut marked, &request.body);
        }
        let held = !metadata::finalizers(&marked).is_empty();
        if !gracefully && !held {
            return self.delete_now(request, &old);
        }
        if held && grace_is_over(&marked) {
            metadata::mark_deleted(&mut marked, now);
        }
        if marked != *old {
            marked = (*self.store.put(key.clone(), marked)).clone();
        }
        if held || !grace_is_over(&marked) {
            return Ok(Done::new(200, marked));
        }
        self.store.remove(&key);
        marked["metadata"]["resourceVersion"] = self.store.revision().to_string().into();
        Ok(self.deleted(request, marked))
    }

    /// Removes an object as it is. One that had only finalizers of garbage collection is not
    /// removed if a resourceVersion was given: the real one forgets which.
    fn delete_now(&mut self, request: &Request, old: &Value) -> Result<Done, Refusal> {
        let guarded = !request.body["preconditions"]["resourceVersion"].is_null();
        if guarded && !metadata::finalizers(old).is_empty() {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: ResourceVersion in precondition: , ResourceVersion in object meta: {}",
                request.storage_key(),
                metadata::text(old, "resourceVersion")
            );
            let resource = request.kind.resource();
            return Err(Refusal::conflict(resource, &request.name, &why));
        }
        self.store.remove(&request.key());
        let mut gone = old.clone();
        gone["metadata"]["resourceVersion"] = self.store.revision().to_string().into();
        Ok(self.deleted(request, gone))
    }

    fn deleted(&self, request: &Request, object: Value) -> Done {
        let resource = request.kind.resource();
        if resource.returns_deleted {
            return Done::new(200, object);
        }
        let mut details = json!({
            "name": request.name,
            "kind": resource.plural,
            "uid": object["metadata"]["uid"],
        });
        if !resource.group.is_empty() {
            details["group"] = resource.group.into();
        }
        Done::new(
            200,
            json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": details,
            }),
        )
    }

    /// A namespace stays until it is empty.
    fn delete_namespace(&mut self, now: Timestamp, request: &Request, old: &Value) -> Done {
        if metadata::is_deleted(old) {
            return Done::new(200, old.clone());
        }
        let mut marked = old.clone();
        metadata::of(&mut marked).insert("deletionTimestamp".to_owned(), metadata::time(now));
        marked["status"]["phase"] = "Terminating".into();
        let stored = self.store.put(request.key(), marked);
        Done::new(200, (*stored).clone())
    }

    pub(super) fn delete_collection(
        &mut self,
        now: Timestamp,
        request: &Request,
    ) -> Result<Done, Refusal> {
        let list = read::list(&self.store, request)?;
        let selector = Selector::of(request)?;
        let names: Vec<_> = read::selected(self.store.objects(), request, &selector)
            .map(|(key, _)| key.clone())
            .collect();
        for key in names {
            let one = Request {
                namespace: key.namespace,
                name: key.name,
                ..request.clone()
            };
            self.delete(now, &one)?;
        }
        Ok(Done::new(200, list))
    }

    /// What the garbage collector would send now, each an ordinary request.
    pub fn garbage(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        for (key, object) in self.store.objects() {
            let owners = owners(object);
            let orphaned = !owners.is_empty() && !owners.iter().any(|uid| self.lives(uid));
            if orphaned && !metadata::is_deleted(object) {
                requests.push(deletion(key.kind, object));
            }
            let finalizers = metadata::finalizers(object);
            if metadata::is_deleted(object) && finalizers.contains(&FOREGROUND) {
                requests.extend(self.foreground_step(key.kind, object));
            } else if metadata::is_deleted(object) && finalizers.contains(&ORPHAN) {
                requests.extend(self.orphan_step(key.kind, object));
            }
        }
        requests
    }

    /// First the dependents go, then the owner is let go.
    fn foreground_step(&self, kind: Kind, owner: &Value) -> Vec<Request> {
        let dependents: Vec<_> = self.dependents(owner).collect();
        if dependents.is_empty() {
            return vec![without_finalizer(kind, owner, FOREGROUND)];
        }
        dependents
            .into_iter()
            .filter(|(_, dependent)| !metadata::is_deleted(dependent))
            .map(|(kind, dependent)| deletion(kind, dependent))
            .collect()
    }

    /// First the dependents forget their owner, then it is let go.
    fn orphan_step(&self, kind: Kind, owner: &Value) -> Vec<Request> {
        let uid = metadata::text(owner, "uid");
        let forgetting: Vec<_> = self
            .dependents(owner)
            .map(|(kind, dependent)| {
                let others: Vec<_> = dependent["metadata"]["ownerReferences"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|reference| reference["uid"] != uid)
                    .collect();
                metadata_patch(kind, dependent, "ownerReferences", json!(others))
            })
            .collect();
        if forgetting.is_empty() {
            vec![without_finalizer(kind, owner, ORPHAN)]
        } else {
            forgetting
        }
    }

    fn dependents<'a>(&'a self, owner: &'a Value) -> impl Iterator<Item = (Kind, &'a Value)> {
        let uid = metadata::text(owner, "uid");
        self.store
            .objects()
            .iter()
            .filter(move |(_, object)| owners(object).contains(&uid))
            .map(|(key, object)| (key.kind, object.as_ref()))
    }

    fn lives(&self, uid: &str) -> bool {
        let mut objects = self.store.objects().values();
        objects.any(|object| metadata::text(object, "uid") == uid)
    }

    /// What the namespace controller would send now.
    pub fn namespace_work(&self) -> Vec<Request> {
        let objects = self.store.objects();
        objects
            .iter()
            .filter(|(key, object)| self.ends(&key.namespace) && !metadata::is_deleted(object))
            .map(|(key, object)| deletion(key.kind, object))
            .collect()
    }

    /// Namespaces that end and are empty are gone after this.
    pub fn remove_empty_namespaces(&mut self) {
        let objects = self.store.objects();
        let empty: Vec<_> = objects
            .keys()
            .filter(|key| key.kind == Kind::Namespace && self.ends(&key.name))
            .filter(|key| !objects.keys().any(|other| other.namespace == key.name))
            .cloned()
            .collect();
        for key in empty {
            self.store.remove(&key);
        }
    }

    fn ends(&self, namespace: &str) -> bool {
        let found = self.get(Kind::Namespace, "", namespace);
        found.is_some_and(|namespace| metadata::is_deleted(namespace))
    }
}

fn grace_is_over(object: &Value) -> bool {
    metadata::grace(object).is_none_or(|seconds| seconds == 0)
}

/// The UIDs of an object's owners.
fn owners(object: &Value) -> Vec<&str> {
    let references = object["metadata"]["ownerReferences"].as_array();
    references
        .into_iter()
        .flatten()
        .filter_map(|reference| reference["uid"].as_str())
        .collect()
}

fn deletion(kind: Kind, object: &Value) -> Request {
    Request::delete(
        kind,
        metadata::text(object, "namespace"),
        metadata::text(object, "name"),
        json!({
            "preconditions": {"uid": object["metadata"]["uid"]},
            "propagationPolicy": "Background",
        }),
    )
}

fn without_finalizer(kind: Kind, object: &Value, name: &str) -> Request {
    let rest: Vec<_> = metadata::finalizers(object)
        .into_iter()
        .filter(|held| *held != name)
        .collect();
    metadata_patch(kind, object, "finalizers", json!(rest))
}

fn metadata_patch(kind: Kind, object: &Value, field: &str, value: Value) -> Request {
    Request::merge_patch(
        kind,
        metadata::text(object, "namespace"),
        metadata::text(object, "name"),
        json!({"metadata": {
            "resourceVersion": object["metadata"]["resourceVersion"],
            field: value,
        }}),
    )
}

/// Foreground and orphan deletion are finalizers that the garbage collector takes off.
fn follow_policy(object: &mut Value, options: &Value) {
    let wanted = match options["propagationPolicy"].as_str() {
        Some("Foreground") => FOREGROUND,
        Some("Orphan") => ORPHAN,
        Some("Background") => "",
        _ => return,
    };
    let mut finalizers: Vec<_> = metadata::finalizers(object)
        .into_iter()
        .filter(|name| ![FOREGROUND, ORPHAN].contains(name))
        .map(str::to_owned)
        .collect();
    if !wanted.is_empty() {
        finalizers.push(wanted.to_owned());
    }
    let fields = metadata::of(object);
    if finalizers.is_empty() {
        fields.remove("finalizers");
    } else {
        fields.insert("finalizers".to_owned(), json!(finalizers));
    }
}

fn check_preconditions(
    resource: &Resource,
    name: &str,
    object: &Value,
    options: &Value,
) -> Result<(), Refusal> {
    let wanted = &options["preconditions"];
    let named = [
        (
            "uid",
            "UID",
            "The object might have been deleted and then recreated",
        ),
        (
            "resourceVersion",
            "ResourceVersion",
            "The object might have been modified",
        ),
    ];
    for (field, called, guess) in named {
        let found = metadata::text(object, field);
        if let Some(wanted) = wanted[field].as_str().filter(|wanted| *wanted != found) {
            let why = format!(
                "the {called} in the precondition ({wanted}) does not match the {called} in record ({found}). {guess}"
            );
            return Err(Refusal::precondition_failed(resource, name, &why));
        }
    }
    Ok(())
}
