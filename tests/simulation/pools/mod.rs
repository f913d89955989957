//! Warm pools: a model of NATS as far as they need it, the workers, and the operator's way to both.

mod job;
mod port;
mod server;
mod trouble;
mod worker;

use std::collections::BTreeMap;

use compozy::{
    api::{ErrorCode, ErrorInfo},
    protocol::pool::{TaskExecute, TaskNews},
};
use fastrand::Rng;
use serde_json::json;

use self::{job::Job, port::Hearers, server::Server, worker::Worker};
use crate::trace::fingerprint;

/// The pools that there are.
pub const POOLS: [&str; 2] = ["image", "text"];

/// What belongs to pools in a world.
pub struct Pools {
    server: Server,
    hearers: Hearers,
    workers: Vec<Worker>,
    /// What workers work on, in the order in which they got it.
    jobs: BTreeMap<u64, Job>,
    serial: u64,
}

impl Pools {
    pub fn new(clustered: bool) -> Pools {
        Pools {
            server: Server::new(clustered),
            hearers: Hearers::default(),
            workers: Vec::new(),
            jobs: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Whether a worker works on something of this run, or on something behind which a command of it waits.
    pub fn work_on(&self, run: &str) -> bool {
        let mut jobs = self.jobs.values();
        jobs.any(|job| {
            let of_run = job.command.workflow_exec_id == run;
            of_run || self.server.has_queued(&job.at.pool, run)
        })
    }

    /// What is left of task executions that are there, or were in order until they went, for people.
    pub fn left(&self, taken: impl Fn(&str) -> bool) -> Vec<String> {
        // Who goes on with what it has lost may do so for ever, as may a handler whose task was taken away unseen.
        let jobs = self.jobs.values();
        let jobs = jobs.filter(|job| job.fences && !taken(&job.at.task_exec_id));
        let jobs = jobs.map(|job| format!("work on {}", job.at));
        self.server.left(&taken).into_iter().chain(jobs).collect()
    }
}

/// What a handler does.
struct Work {
    /// How long it takes, in milliseconds; none: until it is ended.
    after: Option<u64>,
    gives: TaskNews,
}

impl Work {
    /// What an attempt comes to, by the task and the attempt alone.
    fn draw(seed: u64, command: &TaskExecute) -> Work {
        if seed == 0 {
            return Work {
                after: Some(100),
                gives: TaskNews::Succeeded {
                    outputs: json!({"n": 1}),
                },
            };
        }
        let (run, task) = (&command.workflow_id, &command.task_id);
        let mut dice = Rng::with_seed(fingerprint(&(seed, run, task, command.attempt, "pool")));
        let after = match dice.u8(..20) {
            0 => None,
            1..6 => Some(dice.u64(2000..40_000)),
            6..12 => Some(dice.u64(100..2000)),
            _ => Some(dice.u64(1..100)),
        };
        let gives = match dice.u8(..12) {
            0 => TaskNews::Succeeded {
                outputs: json!([1, 2]),
            },
            1..4 => failed("no such word", "UNKNOWN_WORD"),
            _ => TaskNews::Succeeded {
                outputs: json!({"n": dice.u32(..100)}),
            },
        };
        match command.timeout_ms {
            Some(limit) if after.is_none_or(|after| after > limit) => Work {
                after: Some(limit),
                gives: failed(
                    "it ran longer than its timeout",
                    ErrorCode::Timeout.as_str(),
                ),
            },
            _ => Work { after, gives },
        }
    }
}

fn failed(message: &str, code: &str) -> TaskNews {
    TaskNews::Failed {
        error: ErrorInfo {
            message: message.to_owned(),
            code: code.to_owned(),
            details: None,
        },
    }
}
