//! The whole operator on the model, undisturbed.

use std::{sync::Arc, time::Duration};

use clap::Parser;
use compozy::{
    operator::{
        settings::Settings,
        system::{Outside, System},
    },
    ports::Clock,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api_server::{ApiServer, Kind, Live, Request, undisturbed};

/// The time of day is tokio's time.
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.0.elapsed()).unwrap_or_default();
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(500_000) + elapsed
    }
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    settings: Settings,
}

/// Runs every pod for two seconds; all succeed with these outputs.
async fn kubelet(live: Arc<Live>, outputs: &str) {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        live.with(|server, now| {
            let pods: Vec<Value> = server
                .all(Kind::Pod)
                .map(|(_, pod)| (**pod).clone())
                .filter(|pod| pod["status"]["phase"] == "Pending")
                .collect();
            for mut pod in pods {
                pod["status"] = json!({
                    "phase": "Succeeded",
                    "containerStatuses": [{
                        "name": pod["spec"]["containers"][0]["name"],
                        "image": "busybox", "imageID": "busybox",
                        "ready": false, "restartCount": 0,
                        "state": {"terminated": {
                            "exitCode": 0, "reason": "Completed", "message": outputs,
                            "startedAt": now.to_string(), "finishedAt": now.to_string(),
                        }},
                    }],
                });
                server
                    .handle(now, &Request::update_status(Kind::Pod, pod))
                    .unwrap();
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn the_operator_runs_a_workflow_on_the_model() {
    let clock = Arc::new(PausedClock(tokio::time::Instant::now()));
    let server = ApiServer::new(0, &["default", "compozy-system"]);
    let live = Live::new(server, clock.clone());
    let hello = include_str!("../../examples/hello.yaml");
    let workflow: Value = serde_norway::from_str(hello).unwrap();
    let creation = Request::create(Kind::Workflow, "default", workflow);
    live.handle(&creation).unwrap();

    let system = System::new(
        Flags::parse_from(["operator"]).settings,
        Outside {
            client: undisturbed(live.clone()),
            bus: None,
            calls: None,
            pools: None,
            clock,
            identity: "one".to_owned(),
            caller: "one".to_owned(),
        },
    );
    let done = async {
        let mut revision = live.revision();
        loop {
            let run =
                live.with(|server, _| server.get(Kind::Workflow, "default", "hello").cloned());
            let run = run.unwrap();
            if run["status"]["phase"] == "Succeeded" && run["metadata"]["finalizers"].is_null() {
                return run;
            }
            revision.changed().await.unwrap();
        }
    };
    let run = tokio::select! {
        run = tokio::time::timeout(Duration::from_secs(60), done) => run.unwrap(),
        ended = system.unwrap().run(std::future::pending()) => panic!("ended: {ended:?}"),
        () = kubelet(live.clone(), r#"{"text":"hello"}"#) => unreachable!(),
    };
    assert_eq!(run["status"]["outputs"], json!({"said": "hello"}));
}
