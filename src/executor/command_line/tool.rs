//! `tool`: serving tools and calling them.

use std::io::Read;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{HandlerFlags, Place, label};
use crate::api::{Duration, Time};
use crate::executor::serve::Service;
use crate::ports::{Clock, SystemClock};
use crate::protocol::tool::{ToolExecute, ToolSubjects};

const SERVE_HELP: &str = "\
Examples:
  A process for each call, the input as JSON on standard input, a JSON object on standard output:
    executor tool serve charge --namespace shop --exec -- ./charge.sh
  One process that reads a line of JSON for each call and writes one for each answer:
    executor tool serve charge --namespace shop --stdio -- python3 charge.py
  A web server beside it: the input is posted to it, the body of a 2xx answer is the output:
    executor tool serve charge --namespace shop --http http://localhost:8000/charge

The cluster needs a Tool of that name in that namespace, with `external: true`; tasks call it with `tool: {name: charge}`.
Any number of programs may serve a tool: each call goes to one of them.

It ends on SIGTERM: takes no more calls, finishes those under way, exits with 0, or with 1 if some were cut off.";

const CALL_HELP: &str = "\
Examples:
  executor tool call charge --namespace shop --input '{\"amount\": 5}'
  jq .order order.json | executor tool call charge --namespace shop --input - --timeout 5m

Exit codes:
  0  the tool answered; its output is printed
  3  the tool answered with an error of its own, which is printed
  4  no answer: nobody serves the tool, none in time, none that can be read, or NATS is away; why is printed
  2  the command line or the input is wrong";

/// What can be done with tools.
#[derive(Subcommand, Debug)]
pub enum ToolCommand {
    /// Takes the calls of a tool and lets a program, a process or a web server answer them.
    #[command(after_help = SERVE_HELP)]
    Serve(Serve),
    /// Calls a tool once and prints what it gives as JSON.
    #[command(after_help = CALL_HELP)]
    Call(Call),
}

/// How to serve a tool.
#[derive(Args, Debug)]
pub struct Serve {
    /// The tool's name.
    #[arg(value_parser = label)]
    pub name: String,
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// What answers.
    #[command(flatten)]
    pub handler: HandlerFlags,
    /// How many calls run at once; others wait. By default 1 with --stdio, else 8.
    #[arg(long, env = "COMPOZY_TOOL_CONCURRENCY", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: Option<u16>,
    /// How long calls under way may go on after SIGTERM. A pod's terminationGracePeriodSeconds has to be longer.
    #[arg(long, env = "COMPOZY_TOOL_GRACE", default_value = "25s")]
    pub grace: Duration,
}

impl Serve {
    /// What is served, and how.
    pub fn service(&self) -> Service {
        Service {
            namespace: self.place.namespace.clone(),
            tool: self.name.clone(),
            prefix: self.place.nats_prefix.clone(),
            concurrency: self.handler.at_once(self.concurrency),
            grace: self.grace.get(),
        }
    }
}

/// How to call a tool.
#[derive(Args, Debug)]
pub struct Call {
    /// The tool's name.
    #[arg(value_parser = label)]
    pub name: String,
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// The input as JSON; `-` reads it from standard input.
    #[arg(long, default_value = "{}")]
    pub input: String,
    /// How long to wait for the answer.
    #[arg(long, default_value = "30s")]
    pub timeout: Duration,
    /// The call's id. By default a new one; the same one again is the same call, and runs once.
    #[arg(long)]
    pub tool_exec_id: Option<String>,
    /// The calling workflow's name.
    #[arg(long, env = "COMPOZY_WORKFLOW", default_value = "by-hand")]
    pub workflow: String,
    /// The run's UID.
    #[arg(long, env = "COMPOZY_WORKFLOW_EXEC_ID", default_value = "by-hand")]
    pub workflow_exec_id: String,
    /// The calling task's name.
    #[arg(long, env = "COMPOZY_TASK", default_value = "by-hand")]
    pub task: String,
    /// The calling task execution's UID.
    #[arg(long, env = "COMPOZY_TASK_EXEC_ID", default_value = "by-hand")]
    pub task_exec_id: String,
    /// The calling task's attempt.
    #[arg(long, env = "COMPOZY_ATTEMPT", default_value_t = 1)]
    pub attempt: u32,
}

impl Call {
    /// The message to send.
    ///
    /// # Errors
    /// The input is no JSON.
    pub fn execute(&self, subjects: &ToolSubjects) -> Result<ToolExecute, String> {
        let id = self.tool_exec_id.clone().unwrap_or_else(uuid);
        let namespace = self.place.namespace.clone();
        Ok(ToolExecute {
            tool_id: self.name.clone(),
            input_args: self.input()?,
            reply_to_subject: subjects.result(&namespace, &self.task_exec_id, &id),
            tool_exec_id: id,
            deadline: Time(SystemClock.now()).after(self.timeout.get()),
            namespace,
            workflow_id: self.workflow.clone(),
            workflow_exec_id: self.workflow_exec_id.clone(),
            task_id: self.task.clone(),
            task_exec_id: self.task_exec_id.clone(),
            attempt: self.attempt,
        })
    }

    fn input(&self) -> Result<Value, String> {
        let mut text = self.input.clone();
        if text == "-" {
            text.clear();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| format!("standard input: {error}"))?;
        }
        serde_json::from_str(&text).map_err(|error| format!("the input is not JSON: {error}"))
    }
}

/// A random UUID.
fn uuid() -> String {
    let random = fastrand::u128(..).to_be_bytes();
    uuid::Builder::from_random_bytes(random)
        .into_uuid()
        .to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::executor::command_line::{Command, CommandLine};

    fn parse(words: &str) -> Result<ToolCommand, clap::Error> {
        let words = format!("executor tool {words}");
        match CommandLine::try_parse_from(words.split_whitespace())?.command {
            Command::Tool(command) => Ok(*command),
            _ => unreachable!(),
        }
    }

    fn served(words: &str) -> Serve {
        match parse(&format!("serve charge --namespace shop {words}")).unwrap() {
            ToolCommand::Serve(serve) => serve,
            ToolCommand::Call(_) => unreachable!(),
        }
    }

    #[test]
    fn a_tool_has_one_handler() {
        let exec = served("--exec -- ./charge.sh --fast");
        assert_eq!(exec.handler.command, ["./charge.sh", "--fast"]);
        assert_eq!(exec.service().concurrency, 8);
        assert_eq!(
            served("--stdio -- python3 charge.py").service().concurrency,
            1
        );
        let http = served("--http http://localhost/ --concurrency 3");
        assert_eq!(http.service().concurrency, 3);
        for refused in [
            "",
            "--exec",
            "-- ./charge.sh",
            "--exec --stdio -- ./charge.sh",
            "--http http://localhost/ -- ./charge.sh",
            "--http http://localhost/ --concurrency 0",
        ] {
            let words = format!("serve charge --namespace shop {refused}");
            assert!(parse(&words).is_err(), "{refused}");
        }
        assert!(parse("serve a.b --namespace shop --exec -- x").is_err());
        assert!(parse("serve charge --namespace * --exec -- x").is_err());
    }

    #[test]
    fn a_call_is_a_message_with_an_id_of_its_own() {
        let ToolCommand::Call(call) =
            parse("call charge --namespace shop --input {\"n\":1}").unwrap()
        else {
            unreachable!()
        };
        let subjects = ToolSubjects::new("compozy");
        let (one, other) = (
            call.execute(&subjects).unwrap(),
            call.execute(&subjects).unwrap(),
        );
        assert_ne!(one.tool_exec_id, other.tool_exec_id);
        assert_eq!(one.tool_exec_id.len(), 36);
        assert_eq!(&one.tool_exec_id[14..15], "4");
        assert!(subjects.is_result(&one.reply_to_subject, "shop", &one.tool_exec_id));
        let ToolCommand::Call(call) =
            parse("call charge --namespace shop --input nothing").unwrap()
        else {
            unreachable!()
        };
        assert!(call.execute(&subjects).is_err());
    }
}
