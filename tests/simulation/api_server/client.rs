//! kube's own client on top of the model: the operator talks HTTP and notices nothing.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::{Body, Bytes};
use compozy::ports::Clock;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

use super::{Answer, ApiServer, Event, Raw, Refusal, Request, Watch};

/// How often an idle watch says how far it is.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// The connection broke: nobody knows what was done.
#[derive(Debug, thiserror::Error)]
#[error("connection reset by peer")]
pub struct Lost;

/// An HTTP response.
pub type Reply = http::Response<Body>;

/// A response with one JSON document.
pub fn whole(code: u16, body: &Value) -> Reply {
    reply(code, Body::from(body.to_string()))
}

/// A response that refuses.
pub fn refused(refusal: &Refusal) -> Reply {
    whole(refusal.code(), refusal.body())
}

/// A response that goes on: a watch. `Err` breaks the connection off.
pub fn stream(events: impl Stream<Item = Result<Event, Lost>> + Send + 'static) -> Reply {
    let lines = events.map(|event| event.map(|event| Bytes::from(event.line())));
    reply(200, Body::from_stream(lines))
}

fn reply(code: u16, body: Body) -> Reply {
    let mut reply = http::Response::new(body);
    *reply.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let json = http::HeaderValue::from_static("application/json");
    reply.headers_mut().insert(http::header::CONTENT_TYPE, json);
    reply
}

/// A client whose requests are answered by `serve`. What happens to a request on its way there and
/// back is up to `serve`: [`undisturbed`] lets everything through.
pub fn client<F, Served>(serve: F) -> kube::Client
where
    F: Fn(Request) -> Served + Clone + Send + 'static,
    Served: Future<Output = Result<Reply, Lost>> + Send + 'static,
{
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let serve = serve.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.map_err(|_| Lost)?;
            match Request::parse(raw(&head, &body)) {
                Ok(request) => serve(request).await,
                Err(refusal) => Ok(refused(&refusal)),
            }
        }
    });
    kube::Client::new(service, "default")
}

fn raw<'a>(head: &'a http::request::Parts, body: &'a [u8]) -> Raw<'a> {
    let header = |name| {
        let value = head.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    };
    Raw {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or(""),
        accept: header(http::header::ACCEPT),
        content_type: header(http::header::CONTENT_TYPE),
        body,
    }
}

/// A client to which nothing bad happens.
pub fn undisturbed(live: Arc<Live>) -> kube::Client {
    client(move |request| {
        let live = live.clone();
        async move {
            Ok(match live.handle(&request) {
                Ok(Answer::Done(done)) => whole(done.code, &done.body),
                Ok(Answer::Watch(watch)) => stream(live.follow(watch).map(Ok)),
                Err(refusal) => refused(&refusal),
            })
        }
    })
}

/// The model as many use it at once, with a clock, and with word of every write.
pub struct Live {
    server: Mutex<ApiServer>,
    clock: Arc<dyn Clock>,
    revision: watch::Sender<u64>,
}

impl Live {
    pub fn new(server: ApiServer, clock: Arc<dyn Clock>) -> Arc<Live> {
        let revision = watch::Sender::new(server.revision());
        Arc::new(Live {
            server: Mutex::new(server),
            clock,
            revision,
        })
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The API server says no.
    pub fn handle(&self, request: &Request) -> Result<Answer, Refusal> {
        self.with(|server, now| server.handle(now, request))
    }

    /// Does something with the model; whoever follows a watch hears of what was written.
    pub fn with<T>(&self, act: impl FnOnce(&mut ApiServer, Timestamp) -> T) -> T {
        let mut server = self.lock();
        let result = act(&mut server, self.clock.now());
        let revision = server.revision();
        drop(server);
        self.revision.send_if_modified(|known| {
            let changed = *known != revision;
            *known = revision;
            changed
        });
        result
    }

    /// The revision of the last write, to wait for the next.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// The events of a watch as they come, with bookmarks, until its time is over.
    pub fn follow(self: &Arc<Self>, watch: Watch) -> impl Stream<Item = Event> + Send + use<> {
        let end = tokio::time::Instant::now() + watch.timeout();
        let place = Place {
            revision: self.revision(),
            live: self.clone(),
            watch,
            end,
        };
        futures::stream::unfold(place, |mut place| async move {
            let event = place.next().await?;
            Some((event, place))
        })
    }

    fn lock(&self) -> MutexGuard<'_, ApiServer> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one follower is.
struct Place {
    live: Arc<Live>,
    revision: watch::Receiver<u64>,
    watch: Watch,
    end: tokio::time::Instant,
}

impl Place {
    async fn next(&mut self) -> Option<Event> {
        loop {
            self.revision.mark_unchanged();
            let event = self.live.lock().next_event(&mut self.watch);
            if event.is_some() || self.watch.is_over() {
                return event;
            }
            tokio::select! {
                biased;
                changed = self.revision.changed() => changed.ok()?,
                () = tokio::time::sleep_until(self.end) => return None,
                () = tokio::time::sleep(BOOKMARKS) => {
                    if let Some(bookmark) = self.watch.bookmark() {
                        return Some(bookmark);
                    }
                }
            }
        }
    }
}
