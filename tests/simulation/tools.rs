//! Tools that tasks call: a model of NATS as far as calls go, and of whoever serves the tools. What
//! becomes of a call depends on seed, workflow, task and attempt alone.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use compozy::{
    ports::{BusError, CallNews, Calls},
    protocol::tool::ToolExecute,
};
use fastrand::Rng;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::Instant,
};

use crate::{
    api_server::{Kind, Request},
    bus::{Heard, SimBus},
    faults::Class,
    trace::fingerprint,
    world::{NAMESPACE, Order, Process, World},
};

/// The tool that every task calls which calls one.
pub const TOOL: &str = "charge";

/// How long an answer is waited for, in milliseconds.
pub const PATIENCE: u64 = 20_000;

/// Somebody looks so often, in milliseconds, whether the tool is still defined.
const CARE: u64 = 3_000;

/// One of so many calls is overslept, for so many milliseconds.
const OVERSLEEPS: u8 = 20;
const OVERSLEPT: std::ops::Range<u64> = 13_000..45_000;

/// What belongs to calls in a world.
#[derive(Default)]
pub struct Tools {
    /// Who listens where.
    listeners: BTreeMap<String, Vec<(Process, UnboundedSender<CallNews>)>>,
    /// The stream of answers.
    stored: BTreeMap<String, Vec<Bytes>>,
}

/// What whoever serves the tool does with a call.
enum Serving {
    Nobody,
    /// It takes the call and dies.
    Dies {
        started: bool,
    },
    Answers {
        started: bool,
        after: u64,
        body: Value,
        /// Who answers again does so in so many milliseconds.
        again: Option<u64>,
    },
}

impl Serving {
    fn draw(dice: &mut Rng) -> Serving {
        let started = dice.bool();
        let after = match dice.u8(..4) {
            0 => dice.u64(1000..2 * PATIENCE),
            _ => dice.u64(0..500),
        };
        let body = match dice.u8(..12) {
            0 => return Serving::Nobody,
            1 => return Serving::Dies { started },
            2 => json!("not what was agreed upon"),
            3 => json!({"status": "SUCCESS", "output": [1, 2]}),
            4..6 => json!({"status": "TOOL_ERROR",
                           "error": {"message": "no money", "code": "CARD_DECLINED"}}),
            _ => json!({"status": "SUCCESS", "output": {"n": dice.u32(..100)}}),
        };
        let again = match dice.u8(..8) {
            0 => Some(0),
            1 => Some(50),
            _ => None,
        };
        Serving::Answers {
            started,
            after,
            body,
            again,
        }
    }
}

impl World {
    /// Somebody defines the tool, and keeps it defined.
    pub fn keep_tool(&mut self) {
        if self.api.get(Kind::Tool, NAMESPACE, TOOL).is_none() {
            let timeout = format!("{}s", PATIENCE / 1000);
            let body = json!({"metadata": {"name": TOOL},
                              "spec": {"external": true, "timeout": timeout}});
            let _ = self.ask("user", &Request::create(Kind::Tool, NAMESPACE, body));
        }
        // Whoever waits for it is not at rest.
        if self.now() < self.scenario.quiet_at + 20 * CARE {
            self.later(CARE, World::keep_tool);
        }
    }

    /// The connections to NATS are there again: clients look for what they missed.
    pub fn reconnect(&mut self) {
        let replies: Vec<_> = self.tools.listeners.keys().cloned().collect();
        for reply in replies {
            self.hand_over(&reply, CallNews::Reconnected, 0);
        }
    }

    /// The store of NATS is empty.
    pub fn forget_answers(&mut self) {
        self.tools.stored.clear();
        self.laws.answers_lost();
    }

    fn listen(&mut self, process: Process, reply: String) -> UnboundedReceiver<CallNews> {
        self.may_oversleep(&reply);
        let (sender, receiver) = unbounded_channel();
        let listeners = self.tools.listeners.entry(reply).or_default();
        listeners.retain(|(_, known)| !known.is_closed());
        listeners.push((process, sender));
        receiver
    }

    /// Who is about to call stands still, for longer than its lease: nothing else happens often enough just then. With
    /// dice of its own, so that the other worlds stay what they are.
    fn may_oversleep(&mut self, reply: &str) {
        let mut dice = Rng::with_seed(fingerprint(&(self.scenario.seed(), reply, "oversleeps")));
        if self.faults.are_on() && dice.u8(..OVERSLEEPS) == 0 {
            self.orders.push(Order::Freeze(dice.u64(OVERSLEPT)));
            self.strike(Class::Frozen);
        }
    }

    /// A command reaches NATS.
    fn take_command(&mut self, process: Process, subject: &str, reply: &str, payload: &Bytes) {
        let Ok(command) = serde_json::from_slice::<ToolExecute>(payload) else {
            let what = format!("calls are commands: {subject}");
            return self.laws.broken.push(what);
        };
        self.say("nats", &format!("{subject} {}", command.tool_exec_id));
        self.laws.called(&command, &process.identity());
        let key = (
            self.scenario.seed(),
            &command.workflow_id,
            &command.task_id,
            command.attempt,
        );
        let serving = Serving::draw(&mut Rng::with_seed(fingerprint(&key)));
        let id = command.tool_exec_id;
        let (started, answers) = match serving {
            Serving::Nobody => return self.hand_over(reply, CallNews::NoResponders, 0),
            Serving::Dies { started } => (started, Vec::new()),
            Serving::Answers {
                started,
                after,
                body,
                again,
            } => {
                // Who answers again may have thought of something else.
                let mut other = body.clone();
                if let Some(n) = other["output"]["n"].as_u64() {
                    other["output"]["n"] = json!(n + 1);
                }
                let again = again.map(|again| (after + again, other));
                (started, [(after, body)].into_iter().chain(again).collect())
            }
        };
        if started {
            self.answer_call(reply, &id, json!({"status": "STARTED"}), 0);
        }
        for (after, body) in answers {
            self.answer_call(reply, &id, body, after);
        }
    }

    /// Whoever serves the tool answers in so many milliseconds, or when NATS is there again.
    fn answer_call(&mut self, reply: &str, id: &str, mut body: Value, wait: u64) {
        let (reply, id) = (reply.to_owned(), id.to_owned());
        self.later(wait, move |world| {
            if world.bus.away {
                return world.answer_call(&reply, &id, body, 700);
            }
            if body.is_object() {
                body["tool_exec_id"] = json!(id);
            }
            world.say("tool", &format!("{id} {}", body["status"]));
            let now = world.time();
            world.laws.answered(&id, &body, now);
            let answer = Bytes::from(body.to_string());
            let stored = world.tools.stored.entry(reply.clone()).or_default();
            stored.push(answer.clone());
            if !world.faults.strikes(Class::ToolAnswerMissed, 0.2) {
                world.hand_over(&reply, CallNews::Message(answer), 1);
            }
        });
    }

    /// Whoever listens there hears it.
    fn hand_over(&mut self, reply: &str, news: CallNews, wait: u64) {
        let reply = reply.to_owned();
        self.later(wait, move |world| {
            let listeners = world.tools.listeners.get(&reply);
            for (process, listener) in listeners.cloned().unwrap_or_default() {
                if world.lives(process) && !world.bus.away {
                    let heard = listener.send(news.clone()).is_ok();
                    if let (CallNews::Message(message), true) = (&news, heard) {
                        world.laws.answer_heard(message);
                    }
                }
            }
        });
    }
}

impl SimBus {
    /// What the laws say to a call that is sent now.
    fn about_to_call(&self, subject: &str) {
        let mut world = self.world();
        if world.lives(self.process()) {
            let identity = self.process().identity();
            world.laws.trusts(&identity, subject, Instant::now());
        }
    }
}

#[async_trait]
impl Calls for SimBus {
    async fn listen(&self, reply: &str) -> Result<BoxStream<'static, CallNews>, BusError> {
        let (process, reply) = (self.process(), reply.to_owned());
        let heard = self.ask(move |world| world.listen(process, reply)).await;
        let receiver = heard.answer()?;
        let news = stream::unfold(receiver, |mut receiver| async move {
            let news = receiver.recv().await?;
            Some((news, receiver))
        });
        Ok(news.boxed())
    }

    async fn send(&self, subject: &str, reply: &str, payload: Bytes) -> Result<(), BusError> {
        let process = self.process();
        self.about_to_call(subject);
        let (subject, reply) = (subject.to_owned(), reply.to_owned());
        let deed = move |world: &mut World| world.take_command(process, &subject, &reply, &payload);
        match self.ask(deed).await {
            // It was handed over; whether it arrives nobody says.
            Heard::Nothing => Ok(()),
            heard => heard.answer(),
        }
    }

    async fn stored(&self, reply: &str) -> Result<Vec<Bytes>, BusError> {
        let reply = reply.to_owned();
        let deed =
            move |world: &mut World| world.tools.stored.get(&reply).cloned().unwrap_or_default();
        self.ask(deed).await.answer()
    }
}
