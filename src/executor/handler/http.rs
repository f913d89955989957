//! A request to a web server for each job: the input is the body, and so is the output.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response, Uri, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Job, output};
use crate::api::ErrorInfo;
use crate::executor::Error;
use crate::protocol::tool::MAX_OUTPUT_BYTES;

/// A web server, asked once for each job, over a connection of its own.
#[derive(Debug)]
pub struct Http {
    uri: Uri,
    /// Host and port.
    authority: String,
}

impl Http {
    /// Posts to `url`.
    ///
    /// # Errors
    /// It is no URL that can be posted to.
    pub fn new(url: &str) -> Result<Http, String> {
        let refused = |why: String| format!("{url:?}: {why}");
        let uri: Uri = url.parse().map_err(|error| refused(format!("{error}")))?;
        if uri.scheme_str() != Some("http") {
            let why = "only http:// is spoken, to a server beside the executor";
            return Err(refused(why.to_owned()));
        }
        let host = uri.host().ok_or_else(|| refused("no host".to_owned()))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Http { uri, authority })
    }

    pub(super) async fn run(&self, job: &Job) -> Result<Value, ErrorInfo> {
        // Ends with the job.
        let mut connections = JoinSet::new();
        let answer = self.post(job, &mut connections).await.map_err(|error| {
            let message = format!("{} does not answer: {error}", self.uri);
            output::error("HANDLER_UNREACHABLE", message)
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_OUTPUT_BYTES);
        let body = body.collect().await;
        if status.is_success() {
            return match body {
                Ok(body) => output::parse(&body.to_bytes()),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                    Err(output::too_large())
                }
                Err(error) => Err(output::error("HANDLER_DIED", error.to_string())),
            };
        }
        let said = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
        let message = match output::message(&said) {
            text if text.is_empty() => format!("{} answered {status}", self.uri),
            text => text,
        };
        let code = format!("HTTP_{}", status.as_u16());
        Err(output::error(code, message))
    }

    async fn post(
        &self,
        job: &Job,
        connections: &mut JoinSet<hyper::Result<()>>,
    ) -> Result<Response<Incoming>, Error> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::post(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        for (name, value) in &job.context {
            request = request.header(
                format!("compozy-{}", name.replace('_', "-").to_lowercase()),
                value,
            );
        }
        let request = request.body(Full::new(Bytes::from(job.input.to_string())))?;
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        connections.spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}
