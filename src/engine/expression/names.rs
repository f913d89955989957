//! Names near a misspelt one.

/// ` (did you mean …?)` with the candidate nearest to `name`, or nothing if none is near.
pub(super) fn suggestion<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|&(distance, candidate)| {
            distance <= 2 && distance < candidate.len().min(name.len())
        })
        .min()
        .map(|(_, candidate)| format!(" (did you mean `{candidate}`?)"))
        .unwrap_or_default()
}

/// How many letters must be added, removed or replaced; a difference in case counts nothing.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("task", " (did you mean `tasks`?)")]
    #[case("Inputs", " (did you mean `inputs`?)")]
    #[case("workflwo", " (did you mean `workflow`?)")]
    #[case("env", "")]
    #[case("x", "")]
    fn only_near_names_are_suggested(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(suggestion(name, ["inputs", "tasks", "workflow"]), expected);
    }
}
