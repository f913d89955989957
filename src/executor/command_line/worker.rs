//! `worker`: working for a pool.

use clap::Args;

use super::{HandlerFlags, Place, label};
use crate::api::Duration;
use crate::executor::worker::Duty;

pub(super) const HELP: &str = "\
Examples:
  A process for each task, its `with` as JSON on standard input, a JSON object on standard output, the outputs:
    executor worker texts --namespace shop --exec -- ./count-words.sh
  One process that reads a line of JSON for each task and writes one for each result, so it keeps what it has loaded:
    executor worker texts --namespace shop --stdio -- python3 count_words.py
  A web server beside it: the task's `with` is posted to it, the body of a 2xx answer is the outputs:
    executor worker texts --namespace shop --http http://localhost:8000/count

The task, in a workflow of that namespace:
  - name: count
    pool: {name: texts, handler: words}
    with: {text: to be or not to be}

What runs it is told which task it is: with --exec as COMPOZY_HANDLER (from the task's `pool`), COMPOZY_TASK,
COMPOZY_WORKFLOW, COMPOZY_ATTEMPT, COMPOZY_IDEMPOTENCY_KEY (the same for all attempts) and so on, with --stdio in the line,
with --http in headers such as Compozy-Handler.
The task of a worker that is lost is tried again elsewhere, although part of it may be done: the key tells that it is the same.
With --stdio a task that takes too long or is cancelled ends the process, and with it the other tasks that it works on.

Any number of workers may work for a pool: each task goes to one of them, and none has more than it has slots.

It ends on SIGTERM: takes no more tasks, finishes those under way, exits with 0. What still runs after --grace is killed
and handed back: another worker runs it. Then it exits with 1.";

/// How to work for a pool.
#[derive(Args, Debug)]
pub struct Worker {
    /// The pool's name.
    #[arg(value_parser = label)]
    pub name: String,
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// What runs the tasks.
    #[command(flatten)]
    pub handler: HandlerFlags,
    /// How many tasks run at once; others stay in the queue. By default 1 with --stdio, else 8.
    #[arg(long, env = "COMPOZY_SLOTS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub slots: Option<u16>,
    /// How long tasks under way may go on after SIGTERM. A pod's terminationGracePeriodSeconds has to be 10 seconds longer.
    #[arg(long, env = "COMPOZY_GRACE", default_value = "25s")]
    pub grace: Duration,
    /// What the worker calls itself in reports, such as its pod's name. By default the host's name.
    #[arg(long, env = "COMPOZY_WORKER", value_name = "NAME")]
    pub worker_name: Option<String>,
}

impl Worker {
    /// Which pool is worked for, and how.
    pub fn duty(&self) -> Duty {
        Duty {
            namespace: self.place.namespace.clone(),
            pool: self.name.clone(),
            worker: self.worker_name.clone().unwrap_or_else(some_name),
            slots: self.handler.at_once(self.slots),
            grace: self.grace.get(),
        }
    }
}

/// The host's name, which in a pod is the pod's; where there is none, one that nobody else has.
fn some_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => format!("worker-{:08x}", fastrand::u32(..)),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::executor::command_line::{Command, CommandLine};

    fn parse(words: &str) -> Result<Duty, clap::Error> {
        let words = format!("executor worker texts --namespace shop {words}");
        match CommandLine::try_parse_from(words.split_whitespace())?.command {
            Command::Worker(worker) => Ok(worker.duty()),
            _ => unreachable!(),
        }
    }

    #[test]
    fn a_worker_has_one_handler_and_slots_that_fit_it() {
        let duty = parse("--exec -- ./count.sh --fast").unwrap();
        assert_eq!(
            (duty.namespace.as_str(), duty.pool.as_str()),
            ("shop", "texts")
        );
        assert_eq!(duty.slots, 8);
        assert!(!duty.worker.is_empty());
        assert_eq!(parse("--stdio -- python3 count.py").unwrap().slots, 1);
        let duty = parse("--http http://localhost/ --slots 3 --worker-name w1 --grace 1m").unwrap();
        assert_eq!((duty.slots, duty.worker.as_str()), (3, "w1"));
        assert_eq!(duty.grace.as_secs(), 60);
        for refused in [
            "",
            "--exec",
            "--exec --stdio -- ./count.sh",
            "--exec --slots 0 -- ./count.sh",
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }
}
