//! The whole operator in a deterministic simulation: its real code, unmodified, on a paused clock,
//! against models of the API server, the kubelet and NATS, with everything going wrong that does.
//!
//! `make sim` runs many seeds; `CONTRIBUTING.md` says more.

// A test's helpers fail the test the same way as the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api_server;
mod bus;
mod cases;
#[path = "../corpus/mod.rs"]
mod corpus;
mod faults;
mod kubelet;
mod laws;
mod many;
mod namespace;
mod pools;
mod rest;
mod scenario;
mod seed;
mod systematic;
mod tools;
mod trace;
mod troubles;
mod wire;
mod world;

/// As in the operator itself; a third of a world's time goes to memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::ops::RangeInclusive;

use rstest::rstest;

use faults::Faults;
use scenario::Scenario;
use world::World;

/// A number that the environment gives.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// 4 for the run and 5 for each task; the first task's pod runs longer than a second, and so may the run's progress be
/// told. In a pool 3 for each task.
#[rstest]
#[case::with_pods(Scenario::hello(), 14..=18)]
#[case::in_a_pool(Scenario::hello_pool(), 10..=11)]
fn an_undisturbed_run_ends_well_with_the_writes_that_it_needs(
    #[case] scenario: Scenario,
    #[case] writes: RangeInclusive<u64>,
) {
    let outcome = seed::play(0, World::new(0, Faults::none(), scenario, 1));
    let trace = outcome.trace.join("\n");
    assert!(outcome.broken.is_empty(), "{:#?}\n{trace}", outcome.broken);
    let world = outcome.world.lock();
    let runs = world.all(api_server::Kind::Workflow);
    assert_eq!(runs[0].1["status"]["phase"], "Succeeded", "{trace}");
    let effects = outcome.effects;
    assert!(writes.contains(&effects), "{effects} writes\n{trace}");
}

#[test]
fn every_world_comes_to_rest_and_keeps_the_laws() {
    if let Some(seed) = given("SEED") {
        let outcome = seed::run(seed);
        println!("{}", outcome.trace.join("\n"));
        println!("fingerprint {:016x}", outcome.fingerprint);
        assert!(outcome.broken.is_empty(), "{:#?}", outcome.broken);
        return;
    }
    let from = given("FROM").unwrap_or(1);
    let count = given("SEEDS").unwrap_or(100);
    let seeds: Vec<u64> = (from..from + count).collect();
    let many = many::run(&seeds);
    println!("{}", many.table());
    assert!(many.broken.is_empty(), "{:#?}", many.broken);
    if count >= 1000 {
        assert!(
            many.unfired().is_empty(),
            "never fired: {:?}",
            many.unfired()
        );
    }
}

/// Seeds that once broke a law.
#[test]
fn what_was_broken_once_holds() {
    let text = include_str!("regressions.txt");
    let seeds: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split('#').next()?.trim().parse().ok())
        .collect();
    let many = many::run(&seeds);
    assert!(many.broken.is_empty(), "{:#?}", many.broken);
}

#[test]
fn the_same_seed_gives_the_same_trace_in_another_process() {
    // In the world of 13 Kubernetes Events are deleted with their namespace.
    for seed in [3, 13, 14, 15] {
        let here = seed::run(seed);
        let there = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "every_world_comes_to_rest_and_keeps_the_laws",
                "--nocapture",
            ])
            .env("SEED", seed.to_string())
            .output()
            .unwrap();
        let there = String::from_utf8_lossy(&there.stdout).into_owned();
        let told: Vec<&str> = there.lines().filter(|line| !line.is_empty()).collect();
        let differs = here
            .trace
            .iter()
            .find(|line| !told.contains(&line.as_str()));
        assert!(
            there.contains(&format!("fingerprint {:016x}", here.fingerprint)),
            "seed {seed} differs, first in {differs:?}"
        );
    }
}
