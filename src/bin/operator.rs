//! The operator.

use std::process::ExitCode;

use clap::Parser;
use compozy::logs;
use compozy::operator::{
    Error, issuer, process, release,
    settings::{Command, CommandLine},
};
use tracing::error;

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
    logs::start(line.settings.log_format, &line.settings.log_filter)?;
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
            Some(Command::NatsIssuer(options)) => issuer::write(&options),
        }
    })
}
