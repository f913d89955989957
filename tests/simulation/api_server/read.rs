//! Reading: get and list.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    kinds::Resource,
    refusal::Refusal,
    request::Request,
    selector::Selector,
    store::{Key, Objects, Store},
};

/// One object.
///
/// # Errors
/// It is not there.
pub fn get(objects: &Objects, request: &Request) -> Result<Value, Refusal> {
    let key = Key::new(request.kind, &request.namespace, &request.name);
    match objects.get(&key) {
        Some(object) => Ok(shown(object, request.metadata_only)),
        None => Err(Refusal::not_found(request.kind.resource(), &request.name)),
    }
}

/// An object as it is shown: whole, or only its metadata.
pub fn shown(object: &Value, metadata_only: bool) -> Value {
    if metadata_only {
        json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"],
        })
    } else {
        object.clone()
    }
}

/// The objects that a list or a watch is about.
pub fn selected<'a>(
    objects: &'a Objects,
    request: &'a Request,
    selector: &'a Selector,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
    objects
        .range(Key::new(request.kind, &request.namespace, "")..)
        .take_while(|(key, _)| key.kind == request.kind)
        .filter(|(key, _)| request.namespace.is_empty() || key.namespace == request.namespace)
        .filter(|(_, object)| selector.matches(object))
}

/// A list, or a page of it. `objects` are those of `revision`.
///
/// # Errors
/// The selector or the page's token cannot be read, or the token is too old.
pub fn list(store: &Store, request: &Request) -> Result<Value, Refusal> {
    let page = Page::of(request)?;
    let (objects, revision) = match &page.after {
        None => return listed(store.objects(), store.revision(), request, &page),
        Some((revision, _)) => (
            store.objects_at(*revision).map_err(|_| {
                Refusal::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
                )
            })?,
            *revision,
        ),
    };
    listed(&objects, revision, request, &page)
}

/// The list of what was there at a revision.
///
/// # Errors
/// The selector or the page's token cannot be read.
pub fn list_of(objects: &Objects, revision: u64, request: &Request) -> Result<Value, Refusal> {
    listed(objects, revision, request, &Page::of(request)?)
}

fn listed(
    objects: &Objects,
    revision: u64,
    request: &Request,
    page: &Page,
) -> Result<Value, Refusal> {
    let selector = Selector::of(request)?;
    let resource = request.kind.resource();
    let mut found = selected(objects, request, &selector)
        .filter(|(key, _)| page.after.as_ref().is_none_or(|(_, last)| **key > *last))
        .peekable();
    let mut items = Vec::new();
    let mut last = None;
    while items.len() < page.size
        && let Some((key, object)) = found.next()
    {
        items.push(item(object, resource, request.metadata_only));
        last = Some(key);
    }
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if resource.custom && !request.metadata_only {
        metadata["continue"] = "".into();
    }
    if let Some(last) = last.filter(|_| found.peek().is_some()) {
        metadata["continue"] = format!("{revision}/{}/{}", last.namespace, last.name).into();
        // With a selector the rest would have to be looked at to be counted.
        if selector.is_empty() {
            metadata["remainingItemCount"] = found.count().into();
        }
    }
    let (kind, api_version) = if request.metadata_only {
        (
            "PartialObjectMetadata".to_owned(),
            "meta.k8s.io/v1".to_owned(),
        )
    } else {
        (resource.kind.to_owned(), resource.api_version())
    };
    // As the real one has it: no metadata is null, no objects are an empty list.
    let items = if items.is_empty() && request.metadata_only {
        Value::Null
    } else {
        items.into()
    };
    Ok(json!({
        "kind": format!("{kind}List"),
        "apiVersion": api_version,
        "metadata": metadata,
        "items": items,
    }))
}

/// Items of built-in kinds do not say what they are: the list does.
fn item(object: &Value, resource: &Resource, metadata_only: bool) -> Value {
    let mut item = shown(object, metadata_only);
    if !resource.custom
        && !metadata_only
        && let Value::Object(fields) = &mut item
    {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    item
}

struct Page {
    size: usize,
    /// The revision of the first page, and the last object of the page before.
    after: Option<(u64, Key)>,
}

impl Page {
    fn of(request: &Request) -> Result<Page, Refusal> {
        let size = match request.parameter("limit") {
            "" | "0" => usize::MAX,
            limit => limit.parse().map_err(|_| Refusal::bad_request("limit"))?,
        };
        let token = request.parameter("continue");
        let after = match token.splitn(3, '/').collect::<Vec<_>>().as_slice() {
            [""] => None,
            [revision, namespace, name] => {
                let revision = revision.parse().map_err(|_| unknown_token())?;
                Some((revision, Key::new(request.kind, namespace, name)))
            }
            _ => return Err(unknown_token()),
        };
        Ok(Page { size, after })
    }
}

fn unknown_token() -> Refusal {
    Refusal::bad_request("continue key is not valid")
}
