//! The cases of the corpus on the pure engine.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    corpus::{self, Case, check},
    played::World,
};

/// What of a case is not as it expects, a line each.
fn contradictions(case: &Case, forgetful: bool) -> Vec<String> {
    // A case that breaks a law must not hide what others do.
    let played = catch_unwind(AssertUnwindSafe(|| World::new(case, forgetful).play()));
    let found = match played {
        Ok(seen) => check::contradictions(case, &seen),
        Err(_) => vec!["came to no end, see above".to_owned()],
    };
    found
        .iter()
        .map(|line| format!("{} ({}): {line}", case.name, case.expect.shows))
        .collect()
}

fn assert_as_expected(forgetful: bool) {
    let cases = corpus::cases();
    let found: Vec<_> = cases
        .iter()
        .flat_map(|case| contradictions(case, forgetful))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_case_ends_as_it_expects() {
    assert_as_expected(false);
}

#[test]
fn so_does_every_case_with_an_operator_that_begins_anew_before_each_decision() {
    assert_as_expected(true);
}
