//! The tasks as a graph: names resolved, cycles refused.

use std::collections::HashMap;

use crate::{api::Task, engine::field_error::FieldError};

/// Who waits for whom, by position in `spec.tasks`.
#[derive(Debug)]
pub struct Graph {
    /// Position of each task by its name.
    pub positions: HashMap<String, usize>,
    /// For each task the ones that it waits for.
    pub dependencies: Vec<Vec<usize>>,
    /// For each task the ones that wait for it.
    pub dependents: Vec<Vec<usize>>,
}

/// Resolves `dependsOn`.
///
/// # Errors
/// Duplicate or unknown names, and cycles.
pub fn resolve(tasks: &[Task]) -> Result<Graph, Vec<FieldError>> {
    let positions = positions(tasks)?;
    let mut dependencies = vec![Vec::new(); tasks.len()];
    let mut dependents = vec![Vec::new(); tasks.len()];
    let mut errors = Vec::new();
    for (position, task) in tasks.iter().enumerate() {
        for (entry, name) in task.depends_on.iter().enumerate() {
            let path = format!("spec.tasks[{position}].dependsOn[{entry}]");
            match positions.get(name) {
                None => errors.push(FieldError::new(path, format!("there is no task {name:?}"))),
                Some(&other) if other == position => {
                    errors.push(FieldError::new(
                        path,
                        format!("task {name:?} cannot wait for itself"),
                    ));
                }
                // Naming a task twice is harmless.
                Some(other) if dependencies[position].contains(other) => {}
                Some(&other) => {
                    dependencies[position].push(other);
                    dependents[other].push(position);
                }
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let graph = Graph {
        positions,
        dependencies,
        dependents,
    };
    match graph.find_cycle() {
        None => Ok(graph),
        Some(cycle) => {
            let names: Vec<_> = cycle
                .iter()
                .map(|&position| tasks[position].name.as_str())
                .collect();
            let message = format!("these tasks wait for each other: {}", names.join(" → "));
            Err(vec![FieldError::new(
                format!("spec.tasks[{}].dependsOn", cycle[0]),
                message,
            )])
        }
    }
}

fn positions(tasks: &[Task]) -> Result<HashMap<String, usize>, Vec<FieldError>> {
    let mut positions = HashMap::with_capacity(tasks.len());
    let mut errors = Vec::new();
    for (position, task) in tasks.iter().enumerate() {
        if let Some(first) = positions.insert(task.name.clone(), position) {
            errors.push(FieldError::new(
                format!("spec.tasks[{position}].name"),
                format!("{:?} is already the name of spec.tasks[{first}]; each task needs a name of its own", task.name),
            ));
        }
    }
    if errors.is_empty() {
        Ok(positions)
    } else {
        Err(errors)
    }
}

impl Graph {
    /// An error if `name`, used in an expression of the task at `position`, is not a task that is
    /// sure to have ended by then.
    pub fn check_reference(&self, position: usize, name: &str, path: &str) -> Option<FieldError> {
        if let Some(error) = self.check_known(name, path) {
            return Some(error);
        }
        let &other = self.positions.get(name)?;
        if other == position {
            let message = format!(
                "uses tasks.{name}, which is the task itself: nothing is known of it before it ends"
            );
            return Some(FieldError::new(path, message));
        }
        (!self.is_ancestor(other, position)).then(|| {
            FieldError::new(
                path,
                format!("uses tasks.{name}, but does not depend on it: add {name:?} to dependsOn"),
            )
        })
    }

    /// An error if there is no task `name`.
    pub fn check_known(&self, name: &str, path: &str) -> Option<FieldError> {
        (!self.positions.contains_key(name)).then(|| {
            FieldError::new(
                path,
                format!("uses tasks.{name}, but there is no task {name:?}"),
            )
        })
    }

    /// Whether `descendant` waits for `ancestor`, directly or through others.
    fn is_ancestor(&self, ancestor: usize, descendant: usize) -> bool {
        // The usual case costs one look.
        if self.dependencies[descendant].contains(&ancestor) {
            return true;
        }
        let mut seen = vec![false; self.dependencies.len()];
        let mut open = self.dependencies[descendant].clone();
        while let Some(task) = open.pop() {
            if task == ancestor {
                return true;
            }
            if !std::mem::replace(&mut seen[task], true) {
                open.extend(&self.dependencies[task]);
            }
        }
        false
    }

    /// Takes away tasks that wait for nothing, until none is left; what stays holds a cycle.
    fn find_cycle(&self) -> Option<Vec<usize>> {
        let mut blockers: Vec<usize> = self.dependencies.iter().map(Vec::len).collect();
        let mut free: Vec<usize> = (0..blockers.len())
            .filter(|&task| blockers[task] == 0)
            .collect();
        while let Some(task) = free.pop() {
            for &dependent in &self.dependents[task] {
                blockers[dependent] -= 1;
                if blockers[dependent] == 0 {
                    free.push(dependent);
                }
            }
        }
        let start = blockers.iter().position(|&open| open > 0)?;
        Some(self.walk_cycle(start, &blockers))
    }

    /// Follows dependencies that stayed until a task comes up twice.
    fn walk_cycle(&self, start: usize, blockers: &[usize]) -> Vec<usize> {
        let mut path = vec![start];
        loop {
            let here = path[path.len() - 1];
            let Some(&next) = self.dependencies[here]
                .iter()
                .find(|&&task| blockers[task] > 0)
            else {
                return path;
            };
            if let Some(begin) = path.iter().position(|&task| task == next) {
                let mut cycle = path.split_off(begin);
                cycle.push(next);
                return cycle;
            }
            path.push(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tasks(edges: &[(&str, &[&str])]) -> Vec<Task> {
        edges
            .iter()
            .map(|(name, after)| Task {
                name: (*name).to_owned(),
                depends_on: after.iter().map(|name| (*name).to_owned()).collect(),
                ..Task::default()
            })
            .collect()
    }

    fn first_error(edges: &[(&str, &[&str])]) -> String {
        resolve(&tasks(edges)).unwrap_err()[0].to_string()
    }

    #[test]
    fn a_cycle_is_named_task_by_task() {
        let error = first_error(&[("a", &["c"]), ("b", &["a"]), ("c", &["b"]), ("d", &["a"])]);
        assert_eq!(
            error,
            "spec.tasks[0].dependsOn: these tasks wait for each other: a → c → b → a"
        );
    }

    #[test]
    fn unknown_duplicate_and_own_names_are_refused_where_they_stand() {
        assert_eq!(
            first_error(&[("a", &["x"])]),
            "spec.tasks[0].dependsOn[0]: there is no task \"x\""
        );
        assert!(first_error(&[("a", &[]), ("a", &[])]).starts_with("spec.tasks[1].name: "));
        assert!(first_error(&[("a", &["a"])]).contains("cannot wait for itself"));
    }

    #[test]
    fn an_expression_may_use_ancestors_only() {
        let graph = resolve(&tasks(&[
            ("a", &[]),
            ("b", &["a"]),
            ("c", &["b"]),
            ("d", &[]),
        ]))
        .unwrap();
        assert!(graph.check_reference(2, "a", "p").is_none());
        let error = graph.check_reference(2, "c", "p").unwrap().to_string();
        assert!(
            error.starts_with("p: uses tasks.c, which is the task itself"),
            "{error}"
        );
        let error = graph.check_reference(2, "d", "p").unwrap().to_string();
        assert_eq!(
            error,
            "p: uses tasks.d, but does not depend on it: add \"d\" to dependsOn"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn edges_that_point_backwards_never_make_a_cycle(edges in proptest::collection::vec((0usize..30, 0usize..30), 0..80)) {
            let mut tasks: Vec<Task> = (0..30).map(|n| Task { name: format!("t{n}"), ..Task::default() }).collect();
            for (a, b) in edges {
                if a != b {
                    tasks[a.max(b)].depends_on.push(format!("t{}", a.min(b)));
                }
            }
            prop_assert!(resolve(&tasks).is_ok());
        }

        #[test]
        fn a_found_cycle_is_one(edges in proptest::collection::vec((0usize..8, 0usize..8), 0..30)) {
            let mut tasks: Vec<Task> = (0..8).map(|n| Task { name: format!("t{n}"), ..Task::default() }).collect();
            for (a, b) in edges {
                if a != b {
                    tasks[a].depends_on.push(format!("t{b}"));
                }
            }
            if let Err(errors) = resolve(&tasks) {
                let message = &errors[0].message;
                let names: Vec<_> = message.split(": ").nth(1).unwrap().split(" → ").collect();
                prop_assert_eq!(names.first(), names.last());
                for pair in names.windows(2) {
                    let task = tasks.iter().find(|task| task.name == pair[0]).unwrap();
                    prop_assert!(task.depends_on.iter().any(|name| name == pair[1]));
                }
            }
        }
    }
}
