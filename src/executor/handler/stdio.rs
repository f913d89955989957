//! One process for all jobs: a line of JSON for each job on its standard input, one for each answer on its standard
//! output, in any order. It is started again when it ends.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Job;
use super::output::{self, Tail};
use super::process::Process;
use crate::api::ErrorInfo;
use crate::protocol::tool::MAX_OUTPUT_BYTES;

/// An answer is an output and little around it, or an error.
const MAX_LINE_BYTES: usize = 2 * MAX_OUTPUT_BYTES;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(10);
/// What a process that ended had written is there at once.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Outcome = Result<Value, ErrorInfo>;

/// A process that is kept running.
#[derive(Debug)]
pub struct Stdio {
    asks: mpsc::Sender<Ask>,
    abandoned: mpsc::UnboundedSender<String>,
}

/// A call on its way to the process.
#[derive(Debug)]
struct Ask {
    id: String,
    line: Vec<u8>,
    answer: oneshot::Sender<Outcome>,
}

/// A line that the process writes.
#[derive(Deserialize)]
struct Answer {
    id: String,
    output: Option<Value>,
    error: Option<ErrorInfo>,
}

impl Stdio {
    /// Starts `command`, a program and its arguments, and keeps it running until this is dropped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: Vec<String>) -> io::Result<Stdio> {
        let first = Process::start(&command, [])?;
        // One at a time: what waits can still be given up.
        let (asks, asked) = mpsc::channel(1);
        let (abandoned, given_up) = mpsc::unbounded_channel();
        let calls = Calls { asked, given_up };
        tokio::spawn(keep(command, first, calls));
        Ok(Stdio { asks, abandoned })
    }

    pub(super) async fn run(&self, job: &Job) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let id = job.id.clone();
        let line = line(job);
        let died = || output::error("HANDLER_DIED", "the handler has ended");
        let ask = Ask {
            id: id.clone(),
            line,
            answer,
        };
        if self.asks.send(ask).await.is_err() {
            return Err(died());
        }
        // Only from here on, and so no more of them than calls that run: those that wait while the process cannot be
        // started would become ever more.
        let mut abandon = Abandon {
            id: Some(id),
            to: &self.abandoned,
        };
        let outcome = answered.await.unwrap_or_else(|_| Err(died()));
        abandon.id = None;
        outcome
    }
}

/// Says that nobody waits for an answer any more, unless it came.
struct Abandon<'a> {
    id: Option<String>,
    to: &'a mpsc::UnboundedSender<String>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            // Nobody minds when the process is gone.
            let _ = self.to.send(id);
        }
    }
}

fn line(job: &Job) -> Vec<u8> {
    let mut fields = Map::new();
    fields.insert("id".to_owned(), job.id.clone().into());
    fields.insert("input".to_owned(), job.input.clone());
    fields.extend(job.fields.clone());
    let mut line = Value::Object(fields).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// What the process is asked, and what is not waited for any more.
struct Calls {
    asked: mpsc::Receiver<Ask>,
    given_up: mpsc::UnboundedReceiver<String>,
}

/// Runs the process, again and again, until nobody can ask any more.
async fn keep(command: Vec<String>, first: Process, mut calls: Calls) {
    let mut process = Ok(first);
    let mut pause = PAUSE_FIRST;
    loop {
        let began = Instant::now();
        let why = match process {
            Ok(process) => converse(process, &mut calls).await,
            Err(error) => format!("it cannot be started: {error}"),
        };
        if calls.asked.is_closed() && calls.asked.is_empty() {
            return info!("the handler is not needed any more");
        }
        if began.elapsed() > PAUSE_LONGEST {
            pause = PAUSE_FIRST;
        }
        warn!(why, again_in = ?pause, "the handler ended");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LONGEST);
        process = Process::start(&command, []);
    }
}

/// The calls that the process works on.
#[derive(Default)]
struct UnderWay(Mutex<HashMap<String, oneshot::Sender<Outcome>>>);

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Outcome>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, id: &str, outcome: Outcome) -> bool {
        let waiting = self.lock().remove(id);
        // One that gave up meanwhile does not mind.
        waiting.map(|waiting| waiting.send(outcome)).is_some()
    }
}

/// Passes calls and answers on until the process ends, or has to. Says why it did.
async fn converse(process: Process, calls: &mut Calls) -> String {
    let Process {
        stdin,
        stdout,
        mut stderr,
        mut exit,
    } = process;
    let under_way = UnderWay::default();
    let mut tail = Tail::default();
    let why = {
        let mut hear = pin!(async {
            let listen = async {
                output::pass_on(&mut stderr, &mut tail).await;
                std::future::pending().await
            };
            tokio::select! {
                biased;
                heard = listen => heard,
                heard = hear(stdout, &under_way) => heard,
            }
        });
        tokio::select! {
            biased;
            // First: what would be written from now on would be lost.
            () = overdue(&mut calls.given_up, &under_way) => {
                "it was killed: it worked on something that nobody waits for any more".to_owned()
            }
            heard = &mut hear => match heard {
                Err(why) => why,
                Ok(()) => match tokio::time::timeout(LAST_WORDS, exit.status()).await {
                    Ok(status) => ended(status),
                    Err(_) => "it closed its standard output".to_owned(),
                },
            },
            why = ask(stdin, &mut calls.asked, &under_way) => why,
            status = exit.status() => {
                let _ = tokio::time::timeout(LAST_WORDS, &mut hear).await;
                ended(status)
            }
        }
    };
    let message = match tail.text() {
        text if text.is_empty() => format!("the handler ended during the call: {why}"),
        text => format!("the handler ended during the call: {why}; it said last: {text}"),
    };
    let mut waiting = under_way.lock();
    for (_, waiting) in waiting.drain() {
        let _ = waiting.send(Err(output::error("HANDLER_DIED", message.as_str())));
    }
    why
}

fn ended(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("it ended: {status}"),
        Err(error) => format!("it cannot be waited for: {error}"),
    }
}

/// Writes the calls.
async fn ask(
    mut stdin: pipe::Sender,
    asked: &mut mpsc::Receiver<Ask>,
    under_way: &UnderWay,
) -> String {
    while let Some(ask) = asked.recv().await {
        if ask.answer.is_closed() {
            continue;
        }
        under_way.lock().insert(ask.id, ask.answer);
        if let Err(error) = stdin.write_all(&ask.line).await {
            return format!("it takes no input: {error}");
        }
    }
    "nobody asks any more".to_owned()
}

/// Reads the answers until there are no more.
async fn hear(stdout: pipe::Receiver, under_way: &UnderWay) -> Result<(), String> {
    let mut stdout = BufReader::new(stdout);
    loop {
        let line = match next_line(&mut stdout).await {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) => return Err(format!("its standard output cannot be read: {error}")),
        };
        let Ok(answer) = serde_json::from_slice::<Answer>(&line) else {
            let line = output::beginning(&line, 200);
            warn!(
                line,
                "a line on the handler's standard output is no answer; what is for people belongs on standard error"
            );
            continue;
        };
        let outcome = match (answer.error, answer.output) {
            (Some(error), _) => Err(output::own_error(error)),
            (None, output) => output::check(output.unwrap_or_default()),
        };
        if !under_way.end(&answer.id, outcome) {
            warn!(
                answer.id,
                "the handler answers a call that nobody made or that is over"
            );
        }
    }
}

async fn next_line(source: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let piece = source.fill_buf().await?;
        if piece.is_empty() {
            return Ok(None);
        }
        let end = piece.iter().position(|byte| *byte == b'\n');
        let length = end.unwrap_or(piece.len());
        line.extend_from_slice(&piece[..length]);
        source.consume(end.map_or(length, |end| end + 1));
        if end.is_some() {
            return Ok(Some(line));
        }
        if line.len() > MAX_LINE_BYTES {
            let limit = MAX_LINE_BYTES / 1024;
            return Err(io::Error::other(format!(
                "a line is longer than {limit} KiB"
            )));
        }
    }
}

/// Waits for a call that is under way and that nobody waits for any more.
async fn overdue(given_up: &mut mpsc::UnboundedReceiver<String>, under_way: &UnderWay) {
    while let Some(id) = given_up.recv().await {
        let waiting = under_way.lock();
        if waiting.get(&id).is_some_and(oneshot::Sender::is_closed) {
            return;
        }
    }
    std::future::pending().await
}
