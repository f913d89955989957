//! The house rules of `ARCHITECTURE.md` that can be read off the sources.

// A test's helpers fail the test the same way as the test itself.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Rooms that decide and describe: everything they need is an argument.
const PURE: [&str; 4] = ["src/api", "src/engine", "src/events", "src/protocol"];

/// What would let time, chance, the network or another task in.
const IMPURE: [&str; 12] = [
    "tokio",
    "async_nats",
    "kube::Client",
    "kube::Api",
    "kube::client",
    "kube::runtime",
    "SystemTime",
    "Instant::now",
    "Timestamp::now",
    "fastrand",
    "std::fs",
    "std::net",
];

/// Larger files want to be two.
const MAX_LINES: usize = 500;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// The lines of a file that are code and no test of it.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn decisions_know_no_time_no_chance_and_no_network() {
    let mut found = Vec::new();
    for path in PURE
        .iter()
        .flat_map(|room| sources(Path::new(room)))
        .filter(|path| !is_test(path))
    {
        for line in code(&path) {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(*word)) {
                found.push(format!("{}: {word} in {}", path.display(), line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn decisions_know_nothing_of_the_operator() {
    let mut found = Vec::new();
    for path in PURE.iter().flat_map(|room| sources(Path::new(room))) {
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("crate::operator")
            || text.contains("crate::ports") && path.starts_with("src/engine")
        {
            found.push(path.display().to_string());
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn executors_and_ports_know_nothing_of_the_operator() {
    for path in sources(Path::new("src/executor"))
        .into_iter()
        .chain(sources(Path::new("src/ports")))
    {
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("crate::operator"), "{}", path.display());
    }
}

#[test]
fn every_select_says_in_which_order_it_looks() {
    // Without `biased` tokio draws the order from a generator that nobody can seed, and a run of
    // the simulation could not be repeated.
    let mut found = Vec::new();
    for path in sources(Path::new("src")) {
        let lines = code(&path);
        for pair in lines.windows(2) {
            if pair[0].contains("select! {") && pair[1].trim() != "biased;" {
                found.push(format!("{}: {}", path.display(), pair[0].trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_file_has_outgrown_one_idea() {
    let long: Vec<_> = sources(Path::new("src"))
        .into_iter()
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}
