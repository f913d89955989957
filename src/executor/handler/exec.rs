//! A process for each job: the input on its standard input, the output on its standard output.

use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::Job;
use super::output::{self, Tail};
use super::process::Process;
use crate::api::ErrorInfo;

/// What a process that ended had written is there at once; a stranger that it left behind may hold the pipe for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A program and its arguments, run once for each job.
#[derive(Debug)]
pub struct Exec {
    command: Vec<String>,
}

/// How a program tells an error of its own.
#[derive(Deserialize)]
struct Failed {
    error: ErrorInfo,
}

impl Exec {
    /// Runs `command`, a program and its arguments.
    pub fn new(command: Vec<String>) -> Exec {
        Exec { command }
    }

    pub(super) async fn run(&self, job: &Job) -> Result<Value, ErrorInfo> {
        let context = job.context.iter();
        let environment = context.map(|(name, value)| (format!("COMPOZY_{name}"), value.clone()));
        let process = Process::start(&self.command, environment).map_err(|error| {
            let program = self.command.first().map_or("", String::as_str);
            let message = format!("{program} cannot be started: {error}");
            output::error("HANDLER_NOT_STARTED", message)
        })?;
        let (mut said, mut tail) = (Vec::new(), Tail::default());
        let input = job.input.to_string();
        let status = talk(process, input.as_bytes(), &mut said, &mut tail).await?;
        if status.success() {
            return output::parse(&said);
        }
        Err(match serde_json::from_slice::<Failed>(&said) {
            Ok(failed) => output::own_error(failed.error),
            Err(_) => failure(status, &tail),
        })
    }
}

/// Writes the input, reads what is said, and waits for the end.
async fn talk(
    process: Process,
    input: &[u8],
    said: &mut Vec<u8>,
    tail: &mut Tail,
) -> Result<ExitStatus, ErrorInfo> {
    let Process {
        mut stdin,
        mut stdout,
        mut stderr,
        mut exit,
    } = process;
    let write = async move {
        // A program that does not read its input is none the worse.
        let _ = stdin.write_all(input).await;
        Ok(())
    };
    let listen = async {
        output::pass_on(&mut stderr, tail).await;
        Ok(())
    };
    let mut hear = pin!(async {
        tokio::try_join!(write, output::read(&mut stdout, said), listen).map(|_| ())
    });
    let status = tokio::select! {
        biased;
        heard = &mut hear => {
            heard?;
            exit.status().await
        }
        status = exit.status() => {
            // What is not there by then, nobody says any more.
            if let Ok(heard) = tokio::time::timeout(LAST_WORDS, &mut hear).await {
                heard?;
            }
            status
        }
    };
    status.map_err(|error| output::error("HANDLER_DIED", error.to_string()))
}

/// What went wrong with a process that says nothing of it on its standard output.
fn failure(status: ExitStatus, tail: &Tail) -> ErrorInfo {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => format!("EXIT_{code}"),
        (None, signal) => format!("SIGNAL_{}", signal.unwrap_or_default()),
    };
    let message = match tail.text() {
        text if text.is_empty() => status.to_string(),
        text => text,
    };
    output::error(code, message)
}
