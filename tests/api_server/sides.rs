//! Both servers, asked the same. Each has its own UIDs, revisions and times; a side remembers what
//! it was told, so that a later request can be made of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    api_server::{Answer, ApiServer, Raw, Request},
    real::RealServer,
    steps::Step,
};

/// What one side was told of its objects: every version, the oldest first.
#[derive(Default)]
pub struct Memory {
    versions: BTreeMap<String, Vec<Value>>,
    /// Where the last list goes on.
    pub next_page: Option<String>,
    /// The revision of the first answer.
    pub start: Option<String>,
}

impl Memory {
    /// The version of an object so many before the newest.
    pub fn version(&self, path: &str, age: usize) -> Option<&Value> {
        let versions = self.versions.get(path)?;
        versions.get(versions.len().checked_sub(age + 1)?)
    }

    fn learn(&mut self, collection: &str, body: &Value) {
        let version = body["metadata"]["resourceVersion"].as_str();
        if self.start.is_none() {
            self.start = version.map(str::to_owned);
        }
        let next = body["metadata"]["continue"].as_str();
        if body["items"].is_array() {
            self.next_page = next.filter(|token| !token.is_empty()).map(str::to_owned);
        }
        if body["metadata"]["uid"].is_null() || body["kind"] == "PartialObjectMetadata" {
            return;
        }
        if let Some(name) = body["metadata"]["name"].as_str() {
            let versions = self
                .versions
                .entry(format!("{collection}/{name}"))
                .or_default();
            // Who wrote what is the servers' own: an older version of it would be a change.
            let mut version = body.clone();
            if let Some(metadata) = version["metadata"].as_object_mut() {
                metadata.remove("managedFields");
            }
            versions.push(version);
        }
    }
}

/// The answers of both sides.
pub struct Answers {
    pub model: (u16, Value),
    pub real: (u16, Value),
}

/// The two sides of one sequence of requests.
pub struct Sides<'a> {
    real: &'a RealServer,
    model: ApiServer,
    model_memory: Memory,
    real_memory: Memory,
}

impl<'a> Sides<'a> {
    pub fn new(real: &'a RealServer) -> Sides<'a> {
        let mut model = ApiServer::new(0, &["default", "kube-system"]);
        // A real server does not remember its beginnings.
        model.compact(model.revision());
        Sides {
            real,
            model,
            model_memory: Memory::default(),
            real_memory: Memory::default(),
        }
    }

    /// Sends a step to both; none if it cannot be made of what is known.
    pub async fn send(&mut self, step: &Step) -> Option<Answers> {
        let to_model = step.request(&self.model_memory)?;
        let to_real = step.request(&self.real_memory)?;
        let model = ask(&mut self.model, &to_model);
        let real = self.real.send(to_real).await;
        let collection = step.collection();
        self.model_memory.learn(&collection, &model.1);
        self.real_memory.learn(&collection, &real.1);
        Some(Answers { model, real })
    }

    /// Everything that happened, as watches tell it: side by side, for each takes a second.
    pub async fn watch(&mut self, steps: &[Step]) -> Vec<Answers> {
        let requests = |memory: &Memory| -> Vec<_> {
            let requests = steps.iter().filter_map(|step| step.request(memory));
            requests.collect()
        };
        let to_real = requests(&self.real_memory);
        let real = futures::future::join_all(to_real.into_iter().map(|one| self.real.send(one)));
        let to_model = requests(&self.model_memory);
        let model = to_model.iter().map(|request| ask(&mut self.model, request));
        let model: Vec<_> = model.collect();
        let pairs = model.into_iter().zip(real.await);
        pairs.map(|(model, real)| Answers { model, real }).collect()
    }
}

fn ask(model: &mut ApiServer, request: &http::Request<Vec<u8>>) -> (u16, Value) {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    };
    let parsed = Request::parse(Raw {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or(""),
        accept: header("accept"),
        content_type: header("content-type"),
        body: request.body(),
    });
    match parsed.and_then(|request| model.handle(Timestamp::UNIX_EPOCH, &request)) {
        Ok(Answer::Done(done)) => (done.code, done.body),
        Ok(Answer::Watch(mut watch)) => {
            let events = std::iter::from_fn(|| model.next_event(&mut watch));
            (200, events.map(|event| event.json()).collect())
        }
        Err(refusal) => (refusal.code(), refusal.body().clone()),
    }
}
