//! Handlers: the ways in which somebody else's code does a job.

mod exec;
mod http;
mod job;
mod output;
mod process;
mod stdio;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::api::ErrorInfo;

pub use exec::Exec;
pub use http::Http;
pub use job::Job;
pub use stdio::Stdio;

/// Does jobs.
#[derive(Debug)]
pub enum Handler {
    /// A process for each job.
    Exec(Exec),
    /// One process for all jobs, a line for each.
    Stdio(Stdio),
    /// A request to a web server for each job.
    Http(Http),
}

impl Handler {
    /// Runs a job. Dropped before its end, it ends what runs: a process is killed with all that it started.
    ///
    /// # Errors
    /// The handler's own, or why there is no output.
    pub async fn run(&self, job: &Job) -> Result<Value, ErrorInfo> {
        match self {
            Handler::Exec(exec) => exec.run(job).await,
            Handler::Stdio(stdio) => stdio.run(job).await,
            Handler::Http(http) => http.run(job).await,
        }
    }
}
