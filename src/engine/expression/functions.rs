//! The functions and macros an expression may call.

use super::names::suggestion;

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStyle {
    /// `string(x)`
    Global,
    /// `x.contains(y)`
    Member,
    /// Either way.
    Both,
}

/// The functions an expression may call: CEL's standard ones, as far as the `cel` crate has them.
/// None of them reads a clock, the environment or the network.
pub const FUNCTIONS: [(&str, CallStyle); 25] = [
    ("bool", CallStyle::Global),
    ("bytes", CallStyle::Global),
    ("contains", CallStyle::Member),
    ("double", CallStyle::Global),
    ("duration", CallStyle::Global),
    ("dyn", CallStyle::Global),
    ("endsWith", CallStyle::Member),
    ("getDate", CallStyle::Member),
    ("getDayOfMonth", CallStyle::Member),
    ("getDayOfWeek", CallStyle::Member),
    ("getDayOfYear", CallStyle::Member),
    ("getFullYear", CallStyle::Member),
    ("getHours", CallStyle::Member),
    ("getMilliseconds", CallStyle::Member),
    ("getMinutes", CallStyle::Member),
    ("getMonth", CallStyle::Member),
    ("getSeconds", CallStyle::Member),
    ("int", CallStyle::Global),
    ("matches", CallStyle::Both),
    ("size", CallStyle::Both),
    ("startsWith", CallStyle::Member),
    ("string", CallStyle::Global),
    ("timestamp", CallStyle::Global),
    ("type", CallStyle::Global),
    ("uint", CallStyle::Global),
];

/// The macros an expression may use, each with how it is written.
pub const MACROS: [(&str, &str); 7] = [
    ("all", "list.all(x, condition)"),
    ("exists", "list.exists(x, condition)"),
    ("existsOne", "list.existsOne(x, condition)"),
    ("exists_one", "list.exists_one(x, condition)"),
    ("filter", "list.filter(x, condition)"),
    ("has", "has(value.field)"),
    ("map", "list.map(x, expression)"),
];

/// Says what is wrong with a call of `name`, as a method or not, if anything is.
pub(super) fn check_call(name: &str, as_member: bool) -> Result<(), String> {
    if is_operator(name) {
        return Ok(());
    }
    // The parser replaces a macro that is used as it must be: one that is still there is not.
    if let Some((_, usage)) = MACROS.iter().find(|(known, _)| *known == name) {
        return Err(format!("`{name}` is written {usage}"));
    }
    match FUNCTIONS.iter().find(|(known, _)| *known == name) {
        Some((_, CallStyle::Global)) if as_member => {
            Err(format!("`{name}` is called {name}(x), not x.{name}()"))
        }
        Some((_, CallStyle::Member)) if !as_member => {
            Err(format!("`{name}` is called x.{name}(…), not {name}(x, …)"))
        }
        Some(_) => Ok(()),
        None => {
            let known = FUNCTIONS.iter().map(|(name, _)| *name);
            let known = known.chain(MACROS.iter().map(|(name, _)| *name));
            Err(format!(
                "unknown function `{name}`{}",
                suggestion(name, known)
            ))
        }
    }
}

/// Operators are functions to the parser, with names such as `_+_` and `@in` that nobody can write.
fn is_operator(name: &str) -> bool {
    name.contains(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("size", true, Ok(()))]
    #[case("size", false, Ok(()))]
    #[case("_+_", false, Ok(()))]
    #[case("@in", false, Ok(()))]
    #[case("string", true, Err("`string` is called string(x), not x.string()"))]
    #[case(
        "contains",
        false,
        Err("`contains` is called x.contains(…), not contains(x, …)")
    )]
    #[case("map", true, Err("`map` is written list.map(x, expression)"))]
    #[case(
        "startswith",
        true,
        Err("unknown function `startswith` (did you mean `startsWith`?)")
    )]
    #[case("now", false, Err("unknown function `now`"))]
    fn a_call_is_checked(
        #[case] name: &str,
        #[case] as_member: bool,
        #[case] expected: Result<(), &str>,
    ) {
        assert_eq!(check_call(name, as_member), expected.map_err(str::to_owned));
    }
}
