//! Text on its way through the kubelet, which replaces `$(NAME)` in `command`, `args` and
//! `env.value`.
//!
//! To the kubelet `$$` is a `$`, `$(NAME)` the value of a variable, and any other `$` itself. What
//! the user wrote is meant for it; a result is not, and must arrive as it is, or somebody's input
//! could read `$(DB_PASSWORD)`.

/// `result` with every `$` doubled.
pub(super) fn escape(result: &str) -> String {
    result.replace('$', "$$")
}

/// `literal` as it must stand before a result: a `$` at its end that would join the result is
/// doubled.
pub(super) fn before_result(literal: &str) -> String {
    match end(literal) {
        End::Dollar => format!("{literal}$"),
        End::Plain | End::Reference => literal.to_owned(),
    }
}

/// Whether what follows `literal` would stand inside its `$(`.
pub(super) fn opens_reference(literal: &str) -> bool {
    end(literal) == End::Reference
}

/// How a literal ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With nothing that concerns what follows.
    Plain,
    /// With a `$` of its own, which would join what follows.
    Dollar,
    /// Inside `$(`.
    Reference,
}

/// Reads `literal` as the kubelet does.
fn end(literal: &str) -> End {
    let mut rest = literal;
    while let Some(dollar) = rest.find('$') {
        rest = &rest[dollar + 1..];
        match rest.chars().next() {
            None => return End::Dollar,
            Some('(') => match rest.find(')') {
                Some(close) => rest = &rest[close + 1..],
                None => return End::Reference,
            },
            Some(next) => rest = &rest[next.len_utf8()..],
        }
    }
    End::Plain
}

/// What to do about an expression inside `$(`.
pub(super) const INSIDE_REFERENCE: &str = "an expression inside `$(…)`, which the kubelet would \
     read as the name of a variable; write `$$(` if it is meant for a shell, or better, hand the \
     value over in `env` and use that";

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("", End::Plain)]
    #[case("plain", End::Plain)]
    #[case("$", End::Dollar)]
    #[case("a $$", End::Plain)]
    #[case("a $$$", End::Dollar)]
    #[case("$(", End::Reference)]
    #[case("$(A", End::Reference)]
    #[case("$(A) $(B", End::Reference)]
    #[case("$(A)", End::Plain)]
    #[case("$$(A", End::Plain)]
    #[case("$é$", End::Dollar)]
    #[case("$x(", End::Plain)]
    fn the_end_of_a_literal(#[case] literal: &str, #[case] expected: End) {
        assert_eq!(end(literal), expected);
    }
}
