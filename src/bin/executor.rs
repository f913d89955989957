//! The executor.

use std::process::ExitCode;

use clap::Parser;
use compozy::executor::{
    Error,
    call::{self, Outcome},
    command_line::{Call, Command, CommandLine, Serve, ToolCommand},
    handler::{Exec, Handler, Http, Stdio},
    install, ready,
    serve::{self, Ended},
};
use compozy::{logs, ports::NatsCalls, protocol::tool::ToolSubjects};
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
        Command::Tool(command) if serves(command) => "info,async_nats=warn",
        Command::Tool(_) | Command::Install(_) => "warn",
    };
    let filter = line.log_filter.as_deref().unwrap_or(filter);
    if let Err(error) = logs::start(line.log_format, filter) {
        eprintln!("error: {error}");
        return ExitCode::from(WRONG_USE);
    }
    let done = match &line.command {
        Command::Tool(command) => run(command),
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

fn run(command: &ToolCommand) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            ToolCommand::Serve(serve) => serve_tool(serve).await,
            ToolCommand::Call(call) => call_tool(call).await,
        }
    })
}

async fn serve_tool(serve: &Serve) -> Result<ExitCode, Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let handler = match &serve.http {
        Some(url) => Handler::Http(Http::new(url)?),
        None if serve.stdio => Handler::Stdio(Stdio::start(serve.command.clone())?),
        None => Handler::Exec(Exec::new(serve.command.clone())),
    };
    let place = &serve.place;
    let calls = NatsCalls::connect(place.connection(), &place.nats_prefix).await?;
    let end = async {
        tokio::select! {
            biased;
            _ = terminate.recv() => info!("SIGTERM: ending"),
            _ = interrupt.recv() => info!("SIGINT: ending"),
        }
    };
    if let Some(port) = serve.ready_port {
        let calls = calls.clone();
        tokio::spawn(async move { ready::show(port, &calls).await });
    }
    Ok(
        match serve::serve(serve.service(), calls, handler, end).await? {
            Ended::Finished => ExitCode::SUCCESS,
            Ended::CutOff => ExitCode::FAILURE,
        },
    )
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
