//! Creations and updates.

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Pod},
    events::v1::Event,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    ApiServer, Done, events,
    kinds::{Kind, Resource},
    metadata, patch, pods,
    refusal::{Cause, Refusal},
    request::{PatchType, Request},
    store::Key,
};

impl ApiServer {
    pub(super) fn create(&mut self, now: Timestamp, request: &Request) -> Result<Done, Refusal> {
        let resource = request.kind.resource();
        let mut object = self.decoded(request.kind, request.body.clone())?;
        metadata::place(&mut object, resource, &request.namespace, "")?;
        if !metadata::text(&object, "resourceVersion").is_empty() {
            return Err(Refusal::version_on_create());
        }
        self.name_it(&mut object);
        let name = metadata::text(&object, "name").to_owned();
        self.admit_to_namespace(resource, &name, &request.namespace)?;
        self.prepare_for_create(now, request.kind, &mut object);
        let mut causes = metadata::name_refused(&name);
        self.object_to(request.kind, &object, None, &mut causes);
        if !causes.is_empty() {
            return Err(Refusal::invalid(resource, &name, &causes));
        }
        let key = Key::new(request.kind, &request.namespace, &name);
        if let Some(found) = self.store.get(&key) {
            return Err(Refusal::already_exists(resource, &name, found));
        }
        let stored = self.store.put(key, object);
        Ok(Done::new(201, (*stored).clone()))
    }

    /// `generateName` becomes a name that nobody had before.
    fn name_it(&mut self, object: &mut Value) {
        let prefix = metadata::text(object, "generateName").to_owned();
        if metadata::text(object, "name").is_empty() && !prefix.is_empty() {
            let serial = self.next_serial();
            object["metadata"]["name"] = format!("{prefix}{serial:05x}").into();
        }
    }

    fn admit_to_namespace(
        &self,
        resource: &Resource,
        name: &str,
        namespace: &str,
    ) -> Result<(), Refusal> {
        if !resource.namespaced {
            return Ok(());
        }
        let key = Key::new(Kind::Namespace, "", namespace);
        match self.store.get(&key) {
            None => Err(Refusal::not_found(Kind::Namespace.resource(), namespace)),
            Some(found) if metadata::is_deleted(found) => {
                Err(Refusal::namespace_terminating(resource, name, namespace))
            }
            Some(_) => Ok(()),
        }
    }

    fn prepare_for_create(&mut self, now: Timestamp, kind: Kind, object: &mut Value) {
        let uid = self.next_uid();
        let fields = metadata::of(object);
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
        ] {
            fields.remove(field);
        }
        fields.insert("uid".to_owned(), uid.into());
        fields.insert("creationTimestamp".to_owned(), metadata::time(now));
        match kind {
            Kind::Workflow | Kind::TaskExecution | Kind::Tool => {
                fields.insert("generation".to_owned(), 1.into());
                if let Value::Object(object) = object {
                    object.remove("status");
                }
            }
            Kind::Pod => {
                fields.insert("generation".to_owned(), 1.into());
                object["status"] = json!({"phase": "Pending", "qosClass": pods::quality(object)});
            }
            Kind::Namespace => {
                let name = metadata::text(object, "name").to_owned();
                object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
                object["spec"] = json!({"finalizers": ["kubernetes"]});
                object["status"] = json!({"phase": "Active"});
            }
            Kind::ConfigMap | Kind::Lease | Kind::Event => {}
        }
    }

    pub(super) fn update(&mut self, now: Timestamp, request: &Request) -> Result<Done, Refusal> {
        let resource = request.kind.resource();
        let mut new = self.decoded(request.kind, request.body.clone())?;
        metadata::place(&mut new, resource, &request.namespace, &request.name)?;
        let old = self.store.get(&request.key()).cloned();
        if old.is_none() && (!resource.create_on_update || request.status) {
            return Err(Refusal::not_found(resource, &request.name));
        }
        let uid = metadata::text(&new, "uid");
        let found = old.as_ref().map_or("", |old| metadata::text(old, "uid"));
        if !uid.is_empty() && uid != found {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {found}",
                request.storage_key()
            );
            return Err(Refusal::conflict(resource, &request.name, &why));
        }
        let Some(old) = old else {
            let mut creation = request.clone();
            metadata::of(&mut creation.body).remove("resourceVersion");
            return self.create(now, &creation);
        };
        self.replace(request, &old, new)
    }

    pub(super) fn patch(&mut self, request: &Request, how: PatchType) -> Result<Done, Refusal> {
        let resource = request.kind.resource();
        let Some(old) = self.store.get(&request.key()).cloned() else {
            return Err(Refusal::not_found(resource, &request.name));
        };
        if !request.body.is_object() {
            return Err(Refusal::bad_request("a patch must be an object"));
        }
        let mut new = (*old).clone();
        match how {
            PatchType::Merge => patch::merge(&mut new, &request.body),
            PatchType::Strategic => patch::strategic(&mut new, &request.body),
        }
        let mut new = self
            .decoded(request.kind, new)
            .map_err(|wrong| Refusal::patch_unfit(&wrong))?;
        metadata::place(&mut new, resource, &request.namespace, &request.name)?;
        self.replace(request, &old, new)
    }

    /// Writes `new` over `old`, or removes it if it only waited for its last finalizer.
    fn replace(&mut self, request: &Request, old: &Value, mut new: Value) -> Result<Done, Refusal> {
        let resource = request.kind.resource();
        if metadata::text(&new, "resourceVersion").is_empty() {
            if !resource.unconditional_update {
                return Err(Refusal::version_missing(resource, &request.name));
            }
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        }
        let version = &old["metadata"]["resourceVersion"];
        if new["metadata"]["resourceVersion"] != *version {
            return Err(Refusal::modified(resource, &request.name));
        }
        let new = prepare_for_update(request, old, new);
        let mut causes = metadata::changes_refused(&new, old);
        self.object_to(request.kind, &new, Some(old), &mut causes);
        if !causes.is_empty() {
            return Err(Refusal::invalid(resource, &request.name, &causes));
        }
        let key = request.key();
        let only_held = metadata::is_deleted(old) && metadata::grace(old).unwrap_or(0) == 0;
        if only_held && metadata::finalizers(&new).is_empty() && request.kind != Kind::Namespace {
            self.store.remove(&key);
            return Ok(Done::new(200, new));
        }
        // A write that changes nothing is none.
        if new == *old {
            return Ok(Done::new(200, new));
        }
        let stored = self.store.put(key, new);
        Ok(Done::new(200, (*stored).clone()))
    }

    /// An object as a client wrote it, in the form in which it is kept.
    fn decoded(&self, kind: Kind, mut object: Value) -> Result<Value, Refusal> {
        if !object.is_object() {
            return Err(Refusal::bad_request("the body is no object"));
        }
        let resource = kind.resource();
        if resource.custom {
            for (field, wanted) in [
                ("kind", resource.kind),
                ("apiVersion", &resource.api_version()),
            ] {
                if object[field] != *wanted {
                    return Err(Refusal::bad_request(format!(
                        "the object provided is unrecognized (must be of type {}): {field} is {}, not {wanted}",
                        resource.kind, object[field]
                    )));
                }
            }
        }
        metadata::decoded(&mut object)?;
        let mut object = match kind {
            Kind::Pod => typed::<Pod>(object)?,
            Kind::ConfigMap => typed::<ConfigMap>(object)?,
            Kind::Lease => typed::<Lease>(object)?,
            Kind::Event => typed::<Event>(object)?,
            Kind::Namespace => typed::<Namespace>(object)?,
            Kind::Workflow | Kind::TaskExecution | Kind::Tool => {
                self.schemas.prune(kind, &mut object);
                object
            }
        };
        if kind == Kind::Pod {
            pods::fill_in(&mut object);
        }
        Ok(object)
    }

    /// Adds what is wrong with an object that is to be kept.
    fn object_to(&self, kind: Kind, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        match (kind, old) {
            (Kind::Workflow | Kind::TaskExecution | Kind::Tool, old) => {
                self.schemas.objections(kind, new, old, causes);
            }
            (Kind::Pod, Some(old)) => causes.extend(pods::objections(new, old)),
            (Kind::Event, old) => causes.extend(events::objections(new, old)),
            _ => {}
        }
    }
}

/// What the type does not know is dropped.
fn typed<T: Serialize + DeserializeOwned>(object: Value) -> Result<Value, Refusal> {
    serde_json::from_value::<T>(object)
        .and_then(serde_json::to_value)
        .map_err(|error| Refusal::bad_request(error.to_string()))
}

/// The new object as it may be: each path writes its own part, and the generation counts changes
/// of the spec.
fn prepare_for_update(request: &Request, old: &Value, new: Value) -> Value {
    let resource = request.kind.resource();
    let mut new = match (request.status, resource.custom) {
        (true, true) => with_part(old.clone(), "status", &new),
        (true, false) => {
            let owners = old["metadata"].get("ownerReferences");
            let mut new = with_part(new, "spec", old);
            set(metadata::of(&mut new), "ownerReferences", owners);
            if request.kind == Kind::Pod {
                new["status"]["qosClass"] = old["status"]["qosClass"].clone();
            }
            new
        }
        (false, _) if resource.has_status => with_part(new, "status", old),
        (false, _) => new,
    };
    metadata::carry_over(&mut new, old);
    if !request.status && without_metadata_and_status(&new) != without_metadata_and_status(old) {
        metadata::raise_generation(&mut new);
    }
    new
}

/// One part of an object, or its absence, taken from another.
fn with_part(mut object: Value, part: &str, from: &Value) -> Value {
    if let Value::Object(fields) = &mut object {
        set(fields, part, from.get(part));
    }
    object
}

fn set(fields: &mut serde_json::Map<String, Value>, name: &str, value: Option<&Value>) {
    match value {
        None => fields.remove(name),
        Some(value) => fields.insert(name.to_owned(), value.clone()),
    };
}

fn without_metadata_and_status(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !["metadata", "status"].contains(&name.as_str()))
        .collect()
}
