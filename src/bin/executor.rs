//! The executor.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use compozy::executor::{
    Ended, Error,
    call::{self, Outcome},
    command_line::{self, Call, Command, CommandLine, HandlerFlags, Serve, ToolCommand},
    handler::{Exec, Handler, Http, Stdio},
    install, ready, serve,
    worker::Worker,
};
use compozy::logs;
use compozy::ports::{NatsCalls, NatsWorker};
use compozy::protocol::tool::ToolSubjects;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// The tool's own error.
const TOOL_ERROR: u8 = 3;
/// No answer.
const NO_ANSWER: u8 = 4;
/// What clap has for a wrong command line.
const WRONG_USE: u8 = 2;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let serves = |command: &ToolCommand| matches!(command, ToolCommand::Serve(_));
    let filter = match &line.command {
        Command::Worker(_) => "info,async_nats=warn",
        Command::Tool(command) if serves(command) => "info,async_nats=warn",
        Command::Tool(_) | Command::Install(_) => "warn",
    };
    let filter = line.log_filter.as_deref().unwrap_or(filter);
    if let Err(error) = logs::start(line.log_format, filter) {
        eprintln!("error: {error}");
        return ExitCode::from(WRONG_USE);
    }
    let done = match &line.command {
        Command::Tool(command) => run(async {
            match &**command {
                ToolCommand::Serve(serve) => serve_tool(serve).await,
                ToolCommand::Call(call) => call_tool(call).await,
            }
        }),
        Command::Worker(command) => run(work(command)),
        Command::Install(command) => install::install(&command.to).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            error!(%error, "the executor ends");
            ExitCode::FAILURE
        }
    }
}

fn run(work: impl Future<Output = Result<ExitCode, Error>>) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

async fn serve_tool(serve: &Serve) -> Result<ExitCode, Error> {
    let end = asked_to_end()?;
    let handler = handler(&serve.handler)?;
    let place = &serve.place;
    let calls = NatsCalls::connect(place.connection(), &place.nats_prefix).await?;
    if let Some(port) = serve.handler.ready_port {
        let calls = calls.clone();
        tokio::spawn(async move { ready::show(port, || calls.connected()).await });
    }
    Ok(exit_code(
        serve::serve(serve.service(), calls, handler, end).await?,
    ))
}

async fn work(flags: &command_line::Worker) -> Result<ExitCode, Error> {
    let end = asked_to_end()?;
    let handler = handler(&flags.handler)?;
    let (place, duty) = (&flags.place, flags.duty());
    let (prefix, namespace) = (&place.nats_prefix, &duty.namespace);
    let nats = NatsWorker::connect(place.connection(), prefix, namespace, &duty.pool).await?;
    let worker = Arc::new(Worker::new(duty, nats, handler));
    if let Some(port) = flags.handler.ready_port {
        let worker = Arc::clone(&worker);
        tokio::spawn(async move { ready::show(port, || worker.ready()).await });
    }
    Ok(exit_code(worker.work(end).await?))
}

fn handler(flags: &HandlerFlags) -> Result<Handler, Error> {
    Ok(match &flags.http {
        Some(url) => Handler::Http(Http::new(url)?),
        None if flags.stdio => Handler::Stdio(Stdio::start(flags.command.clone())?),
        None => Handler::Exec(Exec::new(flags.command.clone())),
    })
}

/// Waits for the signals that ask for an end; from here on they do nothing else.
fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => info!("SIGTERM: ending"),
            _ = interrupt.recv() => info!("SIGINT: ending"),
        }
    })
}

fn exit_code(ended: Ended) -> ExitCode {
    match ended {
        Ended::Finished => ExitCode::SUCCESS,
        Ended::CutOff => ExitCode::FAILURE,
    }
}

async fn call_tool(call: &Call) -> Result<ExitCode, Error> {
    let place = &call.place;
    let subjects = ToolSubjects::new(&place.nats_prefix);
    let execute = match call.execute(&subjects) {
        Ok(execute) => execute,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(WRONG_USE));
        }
    };
    let calls = NatsCalls::connect(place.connection(), &place.nats_prefix).await?;
    // Without a connection the call says so.
    let _ = tokio::time::timeout(call.timeout.get(), calls.flush()).await;
    let (text, code) = match call::call(&calls, &subjects, &execute).await {
        Outcome::Output(output) => (output.to_string(), ExitCode::SUCCESS),
        Outcome::ToolError(error) => (serde_json::to_string(&error)?, ExitCode::from(TOOL_ERROR)),
        Outcome::NoAnswer(error) => (serde_json::to_string(&error)?, ExitCode::from(NO_ANSWER)),
    };
    println!("{text}");
    Ok(code)
}
