//! A model of the Kubernetes API server: what we assume of it, as a program.
//!
//! [`ApiServer`] is plain data: [`ApiServer::handle`] takes a [`Request`] and the time and gives an
//! answer at once. It has no clock, no chance and no tasks, and iterates in order only, so the same
//! requests give the same answers, byte for byte. `tests/api_server` compares it with a real
//! kube-apiserver.
//!
//! Faults are not in it. Whoever simulates stands between the client and the model:
//!
//! - [`client`] makes a `kube::Client` of any async function from [`Request`] to [`Reply`]. That
//!   function may refuse ([`refused`]), wait, call [`Live::handle`] and lose the answer
//!   (`Err(Lost)`), or never return. [`undisturbed`] is such a client to which nothing happens, and
//!   the pattern to begin with.
//! - A list may be answered as it was: [`ApiServer::list_at`].
//! - A [`Watch`] is a place in the history. [`ApiServer::next_event`] gives one event after the
//!   other, [`stream`] carries them to the client: hold them back, repeat them, drop one, end the
//!   stream or break it (`Err(Lost)`). [`Live::follow`] carries them as they come.
//! - [`ApiServer::compact`] forgets history: older watches end with 410, older pages of lists too.
//! - [`ApiServer::serve`] takes a kind out of service, as if its CRD were not installed.
//!
//! What other parts of Kubernetes do is asked for step by step: [`ApiServer::garbage`] and
//! [`ApiServer::namespace_work`] say what the garbage collector and the namespace controller would
//! send now, to be handled whenever the simulation likes;
//! [`ApiServer::remove_empty_namespaces`] ends namespaces. A kubelet is its owner's own: it writes
//! with [`Request::update_status`] and, when a pod with a `deletionTimestamp` has ended, sends
//! [`Request::kubelet_delete`].
//!
//! To look at the state: [`ApiServer::get`], [`ApiServer::all`], [`ApiServer::changes_after`].
//!
//! Not modelled: `managedFields`, server-side apply, JSON patches, streaming lists, discovery,
//! authorization, defaults of other kinds than pods.

// Each test program uses its part.
#![allow(dead_code, unused_imports)]

mod client;
mod delete;
mod events;
mod kinds;
mod metadata;
mod patch;
mod pods;
mod read;
mod refusal;
mod request;
mod rules;
mod schema;
mod selector;
mod store;
mod validation;
mod watch;
mod write;

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use serde_json::{Value, json};

pub use client::{Live, Lost, Reply, client, refused, stream, undisturbed, whole};
pub use kinds::{Kind, Resource};
pub use refusal::{Cause, Refusal, Refused};
pub use request::{PatchType, Raw, Request, Verb};
pub use store::{Change, Key};
pub use watch::{Event, Watch};

use schema::Schemas;
use store::Store;

/// The API server and what it has stored.
#[derive(Clone)]
pub struct ApiServer {
    store: Store,
    schemas: Arc<Schemas>,
    withheld: BTreeSet<Kind>,
    serial: u64,
}

/// What a request got.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // there is one at a time
pub enum Answer {
    Done(Done),
    /// A watch, which has told nothing yet.
    Watch(Watch),
}

/// An answer in one piece.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub code: u16,
    pub body: Value,
}

impl Done {
    fn new(code: u16, body: Value) -> Done {
        Done { code, body }
    }
}

impl ApiServer {
    /// An API server with our CRDs and these namespaces. UIDs and generated names count up from
    /// `serial`.
    pub fn new(serial: u64, namespaces: &[&str]) -> ApiServer {
        let mut server = ApiServer {
            store: Store::default(),
            schemas: Schemas::ours(),
            withheld: BTreeSet::new(),
            serial,
        };
        for name in namespaces {
            let body = json!({"metadata": {"name": name}});
            let request = Request::create(Kind::Namespace, "", body);
            // Only a name that is given twice or is none would be refused.
            let _ = server.handle(Timestamp::UNIX_EPOCH, &request);
        }
        server
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The `Status` of a request that was not done.
    pub fn handle(&mut self, now: Timestamp, request: &Request) -> Result<Answer, Refusal> {
        if self.withheld.contains(&request.kind) {
            return Err(Refusal::no_such_path());
        }
        let mut done = match request.verb {
            Verb::Get => Done::new(200, read::get(self.store.objects(), request)?),
            Verb::List => Done::new(200, read::list(&self.store, request)?),
            Verb::Watch => return Watch::open(&self.store, request).map(Answer::Watch),
            Verb::Create => self.create(now, request)?,
            Verb::Update => self.update(now, request)?,
            Verb::Patch(how) => self.patch(request, how)?,
            Verb::Delete => self.delete(now, request)?,
            Verb::DeleteCollection => self.delete_collection(now, request)?,
        };
        let is_object = done.body["kind"] == request.kind.resource().kind;
        if request.metadata_only && request.verb.writes() && is_object {
            done.body = read::shown(&done.body, true);
        }
        Ok(Answer::Done(done))
    }

    /// A list as it was at a revision, as a cache that is behind answers it.
    ///
    /// # Errors
    /// The selector is none, or that revision is forgotten.
    pub fn list_at(&self, revision: u64, request: &Request) -> Result<Done, Refusal> {
        let objects = self.store.objects_at(revision)?;
        let list = read::list_of(&objects, revision, request)?;
        Ok(Done::new(200, list))
    }

    /// The next event of a watch, if there is one by now.
    pub fn next_event(&self, watch: &mut Watch) -> Option<Event> {
        watch.next(&self.store)
    }

    /// The revision of the last write.
    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    /// Forgets the history up to a revision.
    pub fn compact(&mut self, revision: u64) {
        self.store.compact(revision);
    }

    /// Takes a kind into service or out of it. What is stored stays.
    pub fn serve(&mut self, kind: Kind, served: bool) {
        if served {
            self.withheld.remove(&kind);
        } else {
            self.withheld.insert(kind);
        }
    }

    /// An object as it is stored.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.store.get(&Key::new(kind, namespace, name))
    }

    /// All objects of a kind, by namespace and name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let objects = self.store.objects().range(Key::new(kind, "", "")..);
        objects.take_while(move |(key, _)| key.kind == kind)
    }

    /// The writes after a revision, the oldest first, as far as they are kept.
    pub fn changes_after(&self, revision: u64) -> &[Change] {
        self.store.changes_after(revision)
    }

    /// Stores an object as it is, unchecked: for what an older or a newer version left behind.
    pub fn store_unchecked(&mut self, key: Key, object: Value) {
        self.store.put(key, object);
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn next_uid(&mut self) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.next_serial())
    }
}
