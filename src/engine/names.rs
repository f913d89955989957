//! Names of children: deterministic, so that a stale cache meets AlreadyExists instead of making
//! a second child, and different for every run, so that a re-created workflow does not meet its
//! predecessor's.

use sha2::{Digest, Sha256};

/// The longest name of a task execution: a pod adds `-<attempt>` of up to four characters and
/// must stay a DNS label.
pub const MAX_TASK_EXECUTION_NAME: usize = 58;

const HASH_LENGTH: usize = 8;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The name of the task execution of `task` in the run `workflow` (an object's name) with `uid`, or
/// of the item `index` of it.
///
/// The hash keeps runs apart, task `a-b` of run `c` from task `b` of run `c-a`, and item 1 of task
/// `a` from task `a-1`.
pub fn task_execution_name(workflow: &str, uid: &str, task: &str, index: Option<u32>) -> String {
    let index = index.map(|index| index.to_string());
    let mut digest = Sha256::new();
    for part in [uid, task].into_iter().chain(index.as_deref()) {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let hash: String = digest
        .finalize()
        .iter()
        .take(HASH_LENGTH)
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect();
    let end = index.map_or_else(|| format!("-{hash}"), |index| format!("-{index}-{hash}"));
    let mut name = format!("{workflow}-{task}");
    name.truncate(MAX_TASK_EXECUTION_NAME - end.len());
    format!("{}{end}", name.trim_end_matches('-'))
}

/// The name of the pod of one attempt.
pub fn pod_name(task_execution: &str, attempt: u32) -> String {
    format!("{task_execution}-{attempt}")
}

/// The id of the call that one attempt makes: a UUID that follows from the task execution's UID, so
/// that whoever asks again gets the same one.
pub fn tool_exec_id(task_execution_uid: &str, attempt: u32) -> String {
    let mut digest = Sha256::new();
    digest.update(task_execution_uid.as_bytes());
    digest.update([0]);
    digest.update(attempt.to_string());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    // RFC 9562: version 8, whose content is ours to choose.
    let id = uuid::Builder::from_custom_bytes(bytes).into_uuid();
    id.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_of_the_same_name_have_different_children() {
        assert_ne!(
            task_execution_name("hello", "uid-1", "greet", None),
            task_execution_name("hello", "uid-2", "greet", None)
        );
    }

    #[test]
    fn the_readable_part_comes_first() {
        assert!(task_execution_name("hello", "uid", "greet", None).starts_with("hello-greet-"));
        let item = task_execution_name("hello", "uid", "greet", Some(12));
        assert!(item.starts_with("hello-greet-12-"), "{item}");
        let long = task_execution_name(&"w".repeat(63), "uid", "greet", Some(12));
        assert!(long.contains("w-12-"), "the index is not cut off: {long}");
    }

    /// Runs under way meet their children again after an upgrade.
    #[test]
    fn a_name_stays_what_it_was() {
        assert_eq!(
            task_execution_name("hello", "uid", "greet", None),
            "hello-greet-52h66iqd"
        );
    }

    /// A call under way is heard again after an upgrade.
    #[test]
    fn a_calls_id_stays_what_it_was() {
        assert_eq!(
            tool_exec_id("uid", 1),
            "315d4d15-9a02-85f7-8a3d-00384d510d37"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn every_child_name_is_a_dns_label_with_room_for_the_attempt(
            workflow in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
            task in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
            index in proptest::option::of(0u32..100_000),
            attempt in 1u32..200,
        ) {
            let name = task_execution_name(&workflow, "uid", &task, index);
            let pod = pod_name(&name, attempt);
            prop_assert!(name.len() <= MAX_TASK_EXECUTION_NAME);
            prop_assert!(pod.len() <= 63);
            prop_assert!(pod.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
        }

        #[test]
        fn every_call_has_a_uuid_of_its_own(uid in "[0-9a-f-]{36}", attempt in 1u32..200) {
            let id = tool_exec_id(&uid, attempt);
            let version_8 = regex::Regex::new("^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$").unwrap();
            prop_assert!(version_8.is_match(&id), "{}", id);
            prop_assert_ne!(id, tool_exec_id(&uid, attempt + 1));
        }

        #[test]
        fn different_tasks_have_different_names(
            a in ("[a-z]([-a-z0-9]{0,8}[a-z0-9])?", "[a-z]([-a-z0-9]{0,8}[a-z0-9])?", proptest::option::of(0u32..20)),
            b in ("[a-z]([-a-z0-9]{0,8}[a-z0-9])?", "[a-z]([-a-z0-9]{0,8}[a-z0-9])?", proptest::option::of(0u32..20)),
        ) {
            prop_assume!(a != b);
            prop_assert_ne!(
                task_execution_name(&a.0, &a.0, &a.1, a.2),
                task_execution_name(&b.0, &b.0, &b.1, b.2)
            );
        }
    }
}
