//! The same random requests to the model and to a real API server: the same answers, the same
//! events.

use fastrand::Rng;
use futures::StreamExt;

use crate::{
    compare::Comparison,
    real::RealServer,
    sides::{Answers, Sides},
    steps::Step,
};

const SEQUENCES: u64 = 44;
const STEPS: usize = 130;
const AT_ONCE: usize = 6;

/// `API_SERVER_SEED` replays one sequence, and shows its steps.
#[tokio::test]
async fn the_model_answers_as_a_real_api_server() {
    let server = RealServer::start().await;
    let only: Option<u64> = std::env::var("API_SERVER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = only.map_or((0..SEQUENCES).collect::<Vec<_>>(), |seed| vec![seed]);
    let results: Vec<_> = futures::stream::iter(seeds)
        .map(|seed| run(&server, seed, only.is_some()))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let sent: usize = results
        .iter()
        .filter_map(|result| result.as_ref().ok())
        .sum();
    let differences: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    println!("{sent} requests, {} differences", differences.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(only.is_some() || sent >= 5000, "only {sent} requests");
}

/// One sequence; how many requests it had.
async fn run(server: &RealServer, seed: u64, shows: bool) -> Result<usize, String> {
    let mut rng = Rng::with_seed(seed);
    let mut sides = Sides::new(server);
    let mut comparison = Comparison::default();
    let namespace = format!("sequence-{seed}");
    let mut sent = 0;
    for step in Step::beginning(&namespace)
        .into_iter()
        .chain(std::iter::repeat_with(|| Step::draw(&mut rng, &namespace)))
    {
        if sent == STEPS {
            break;
        }
        let Some(answers) = sides.send(&step).await else {
            continue;
        };
        sent += 1;
        if shows {
            println!("{step:?}\n  {} {}", answers.real.0, answers.real.1);
        }
        if let Some(difference) = comparison.difference(&answers) {
            return Err(told(&difference, seed, sent, &step, &answers));
        }
    }
    let watches = Step::watches(&namespace);
    for (step, answers) in watches.iter().zip(sides.watch(&watches).await) {
        if let Some(difference) = comparison.difference(&answers) {
            return Err(told(&difference, seed, sent, step, &answers));
        }
    }
    Ok(sent + watches.len())
}

fn told(difference: &str, seed: u64, sent: usize, step: &Step, answers: &Answers) -> String {
    let Answers { model, real } = answers;
    format!(
        "{difference}\n  after {sent} requests, at {step:?}\n  model: {} {}\n  real:  {} {}\n  \
         replay: API_SERVER_SEED={seed} cargo test --test api_server answers -- --nocapture\n",
        model.0, model.1, real.0, real.1
    )
}
