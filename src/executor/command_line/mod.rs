//! The command line of the executor. Nearly every flag is an environment variable too.

mod tool;
mod worker;

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::logs::LogFormat;
use crate::ports::{ConnectionOptions, NatsFlags};

pub use tool::{Call, Serve, ToolCommand};
pub use worker::Worker;

/// Runs beside the code that does the work: runs tasks of a pool, serves tools to workflows, and calls them.
#[derive(Parser, Debug)]
#[command(name = "executor", version, about)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines look.
    #[arg(
        long,
        env = "COMPOZY_LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true
    )]
    pub log_format: LogFormat,
    /// Which log lines to write, as tracing's EnvFilter has it. By default info, and for a call warn.
    #[arg(long, env = "COMPOZY_LOG_FILTER", global = true)]
    pub log_filter: Option<String>,
}

/// What the executor can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Tools: what tasks call over NATS.
    #[command(subcommand)]
    Tool(Box<ToolCommand>),
    /// Takes the tasks of a pool and lets a program, a process or a web server run them.
    #[command(after_help = worker::HELP)]
    Worker(Box<Worker>),
    /// Copies this program to a file, such as in a volume that another container mounts.
    Install(Install),
}

/// Where to install.
#[derive(Args, Debug)]
pub struct Install {
    /// The file to write; its directory must be there.
    pub to: PathBuf,
}

/// In which namespace, and where NATS is.
#[derive(Args, Debug)]
pub struct Place {
    /// The namespace, which is the tasks' too.
    #[arg(long, env = "COMPOZY_NAMESPACE", value_parser = label)]
    pub namespace: String,
    /// Where NATS is: one or more addresses, separated by commas.
    #[arg(
        long = "nats",
        alias = "nats-url",
        env = "COMPOZY_NATS_URL",
        default_value = "nats://localhost:4222"
    )]
    pub nats_url: String,
    /// The first token of every subject.
    #[arg(long, env = "COMPOZY_NATS_PREFIX", default_value = "compozy")]
    pub nats_prefix: String,
    /// Who this is to NATS.
    #[command(flatten)]
    pub nats_flags: NatsFlags,
    /// Where NATS sends acknowledgements; a user with permissions of its own may have another one.
    #[arg(
        long,
        env = "COMPOZY_NATS_INBOX_PREFIX",
        default_value = "_INBOX_executor"
    )]
    pub nats_inbox_prefix: String,
}

impl Place {
    /// How to reach NATS.
    pub fn connection(&self) -> ConnectionOptions {
        ConnectionOptions {
            inbox_prefix: self.nats_inbox_prefix.clone(),
            ..self.nats_flags.connection("executor", &self.nats_url)
        }
    }
}

/// What does the work.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("handler").required(true).args(["exec", "stdio", "http"])))]
pub struct HandlerFlags {
    /// Run the command once for each call or task.
    #[arg(long, requires = "handler_command")]
    pub exec: bool,
    /// Keep the command running and give it a line for each call or task.
    #[arg(long, requires = "handler_command")]
    pub stdio: bool,
    /// Post each call or task to this URL, such as http://localhost:8000/charge.
    #[arg(long, value_name = "URL", conflicts_with = "handler_command")]
    pub http: Option<String>,
    /// A port to accept connections at as long as calls or tasks are taken, for a probe.
    #[arg(long, env = "COMPOZY_READY_PORT")]
    pub ready_port: Option<u16>,
    /// The program to run and its arguments, after `--`. No shell reads them.
    #[arg(last = true, id = "handler_command", value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl HandlerFlags {
    /// How many calls or tasks run at once: as many as `given`, or as the handler is likely to be made for.
    fn at_once(&self, given: Option<u16>) -> usize {
        let default = if self.stdio { 1 } else { 8 };
        given.unwrap_or(default).into()
    }
}

/// A name that can be part of a subject, as Kubernetes has it.
fn label(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = (1..=63).contains(&text.len()) && text.chars().all(allowed);
    match fits && !text.starts_with('-') && !text.ends_with('-') {
        true => Ok(text.to_owned()),
        false => Err("at most 63 lower-case letters, digits and '-'".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }
}
