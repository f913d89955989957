//! The operator.

use std::process::ExitCode;

use clap::Parser;
use compozy::operator::{
    Error, process, release,
    settings::{Command, CommandLine, LogFormat, Settings},
};
use tracing::error;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let result = start(line);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the operator ends");
            ExitCode::FAILURE
        }
    }
}

fn start(line: CommandLine) -> Result<(), Error> {
    log(&line.settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match line.command {
            None => process::run(line.settings).await,
            Some(Command::ReleaseFinalizers(options)) => {
                let client = kube::Client::try_default().await?;
                release::release_finalizers(client, &options).await
            }
        }
    })
}

fn log(settings: &Settings) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&settings.log_filter)
        .map_err(|error| format!("--log-filter: {error}"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .init(),
        LogFormat::Text => lines.init(),
    }
    Ok(())
}
