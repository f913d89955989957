//! Checks the names in a syntax tree, and collects what they refer to.

use super::functions::check_call;
use super::names::suggestion;
use super::pattern;
use super::references::{References, TaskFields};
use cel::IdedExpr;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr, operators,
};

/// The names an expression can start from.
const ROOTS: [&str; 5] = ["inputs", "tasks", "workflow", "item", "index"];

/// Those of them that no variable may hide.
const RESERVED: [&str; 3] = ["inputs", "tasks", "workflow"];

const WORKFLOW_FIELDS: [&str; 3] = ["name", "namespace", "uid"];

/// The types that can be compared with `type(x)`.
const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// What `expression` refers to, or what is wrong with a name in it.
pub(super) fn check(expression: &IdedExpr) -> Result<References, String> {
    let mut checker = Checker::default();
    checker.expression(expression)?;
    Ok(checker.references)
}

#[derive(Default)]
struct Checker<'e> {
    references: References,
    /// The variables of the comprehensions around the current node.
    variables: Vec<&'e str>,
}

impl<'e> Checker<'e> {
    fn expression(&mut self, expression: &'e IdedExpr) -> Result<(), String> {
        match &expression.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.select(expression, select),
            Expr::Call(call) => self.call(expression, call),
            Expr::List(list) => list
                .elements
                .iter()
                .try_for_each(|element| self.expression(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key)?;
                    self.expression(&entry.value)
                }
                EntryExpr::StructField(_) => Err("a map entry without a key".to_owned()),
            }),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(message) => Err(format!(
                "`{}{{…}}` is a message, and there are none here; a map is written \
                 {{'key': value}}",
                message.type_name
            )),
            Expr::Unspecified => Err("an incomplete expression".to_owned()),
        }
    }

    fn name(&mut self, name: &str) -> Result<(), String> {
        // The parser's own names for what a comprehension accumulates: nobody can write them.
        if self.variables.contains(&name) || name.starts_with('@') {
            return Ok(());
        }
        match name {
            "inputs" => self.references.add_input(None),
            "workflow" => self.references.workflow = true,
            "item" => self.references.item = true,
            "index" => self.references.index = true,
            "tasks" => {
                return Err(
                    "`tasks` can only be used with a name written out, as in tasks.build or tasks[\"build-it\"]: \
                     which tasks an expression depends on must be known before it runs"
                        .to_owned(),
                );
            }
            _ if TYPES.contains(&name) => {}
            _ => return Err(self.unknown(name)),
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> String {
        let suggestion = suggestion(
            name,
            ROOTS.into_iter().chain(self.variables.iter().copied()),
        );
        format!(
            "unknown name `{name}`{suggestion}; known are inputs, tasks, workflow, and under forEach item and index"
        )
    }

    fn select(&mut self, expression: &'e IdedExpr, select: &'e SelectExpr) -> Result<(), String> {
        if self.is_root(&select.operand, "workflow")
            && !WORKFLOW_FIELDS.contains(&select.field.as_str())
        {
            return Err(format!(
                "`workflow` has no field `{}`{}; it has name, namespace and uid",
                select.field,
                suggestion(&select.field, WORKFLOW_FIELDS)
            ));
        }
        if self.known_field(&select.operand, &select.field)? {
            return Ok(());
        }
        if let Some(task) = self.task_of(expression) {
            // `has(tasks.x)` needs the task and none of its fields.
            self.whole_task(task, !select.test);
            return Ok(());
        }
        self.expression(&select.operand)
    }

    /// Notes the use of a field of `inputs`, of a task or of a task's outputs. Whether it was one.
    fn known_field(&mut self, operand: &'e IdedExpr, field: &str) -> Result<bool, String> {
        if self.is_root(operand, "inputs") {
            self.references.add_input(Some(field));
        } else if let Some(task) = self.outputs_of(operand) {
            self.task_field(task, "outputs", Some(field))?;
        } else if let Some(task) = self.task_of(operand) {
            self.task_field(task, field, None)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn whole_task(&mut self, task: &str, with_fields: bool) {
        let fields = if with_fields {
            TaskFields::ALL
        } else {
            TaskFields::default()
        };
        self.references.add_task(task, fields);
        if with_fields {
            self.references.add_outputs(task, None);
        }
    }

    fn call(&mut self, expression: &'e IdedExpr, call: &'e CallExpr) -> Result<(), String> {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::INDEX, [operand, index]) => return self.index(expression, operand, index),
            (operators::SUBSTRACT, [left, right]) => self.no_dash_in_a_name(left, right)?,
            _ => {}
        }
        if let Some(target) = &call.target {
            self.expression(target)?;
        }
        check_call(&call.func_name, call.target.is_some())?;
        if call.func_name == "matches"
            && let Some(pattern) = call.args.last().and_then(string_literal)
        {
            pattern::check(pattern)?;
        }
        call.args
            .iter()
            .try_for_each(|argument| self.expression(argument))
    }

    fn index(
        &mut self,
        expression: &'e IdedExpr,
        operand: &'e IdedExpr,
        index: &'e IdedExpr,
    ) -> Result<(), String> {
        if let Some(field) = string_literal(index)
            && self.known_field(operand, field)?
        {
            return Ok(());
        }
        if let Some(task) = self.task_of(operand).or_else(|| self.task_of(expression)) {
            self.whole_task(task, true);
        } else {
            self.expression(operand)?;
        }
        self.expression(index)
    }

    /// `tasks.a-b` is a subtraction to the parser.
    fn no_dash_in_a_name(&self, left: &'e IdedExpr, right: &'e IdedExpr) -> Result<(), String> {
        match (self.task_of(left), root(right)) {
            (Some(task), Some(rest)) => Err(format!(
                "`tasks.{task}-{rest}` is read as a subtraction; a name with a dash is written \
                 tasks[\"{task}-{rest}\"]"
            )),
            _ => Ok(()),
        }
    }

    fn comprehension(&mut self, comprehension: &'e ComprehensionExpr) -> Result<(), String> {
        self.expression(&comprehension.iter_range)?;
        let variable = comprehension.iter_var.as_str();
        if RESERVED.contains(&variable) || variable.starts_with('.') {
            return Err(format!("`{variable}` cannot be the name of a variable"));
        }
        self.variables.push(variable);
        let parts = [
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ];
        let checked = parts.into_iter().try_for_each(|part| self.expression(part));
        self.variables.pop();
        checked
    }

    /// The task that `expression` stands for, if it is `tasks.x` or `tasks["x"]`.
    fn task_of(&self, expression: &'e IdedExpr) -> Option<&'e str> {
        match &expression.expr {
            Expr::Select(select) if self.is_root(&select.operand, "tasks") => Some(&select.field),
            Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
                [operand, index] if self.is_root(operand, "tasks") => string_literal(index),
                _ => None,
            },
            _ => None,
        }
    }

    /// The task whose outputs `expression` stands for.
    fn outputs_of(&self, expression: &'e IdedExpr) -> Option<&'e str> {
        let (operand, field) = match &expression.expr {
            Expr::Select(select) if !select.test => (&*select.operand, select.field.as_str()),
            Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
                [operand, index] => (operand, string_literal(index)?),
                _ => return None,
            },
            _ => return None,
        };
        self.task_of(operand).filter(|_| field == "outputs")
    }

    /// Notes the use of a field of a task; of `outputs`, this key or all.
    fn task_field(&mut self, task: &str, field: &str, key: Option<&str>) -> Result<(), String> {
        let Some(fields) = TaskFields::named(field) else {
            return Err(format!(
                "a task has no field `{field}`{}; it has phase, outputs, error and attempts, and its \
                 results are in tasks.{task}.outputs",
                suggestion(field, TaskFields::NAMES)
            ));
        };
        self.references.add_task(task, fields);
        if fields.outputs {
            self.references.add_outputs(task, key);
        }
        Ok(())
    }

    fn is_root(&self, expression: &IdedExpr, name: &str) -> bool {
        matches!(&expression.expr, Expr::Ident(ident) if ident == name)
    }
}

fn string_literal(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// The first name of `a`, `a.b`, `a.b.c`.
fn root(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Ident(name) => Some(name),
        Expr::Select(select) => root(&select.operand),
        _ => None,
    }
}
