//! What can be wrong with an expression: when it is compiled, and when it is evaluated.

use std::fmt;

/// Where a fault lies: a path in the spec, an expression, both or neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    path: Option<String>,
    expression: Option<String>,
}

/// Longer expressions are cut in messages: a message must fit a condition and a log line.
const SHOWN_EXPRESSION: usize = 200;

impl Place {
    /// Writes `path: message, in ${{ expression }}`.
    fn write(&self, f: &mut fmt::Formatter<'_>, message: &str) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(message)?;
        match &self.expression {
            Some(expression) => write!(
                f,
                ", in ${{{{ {} }}}}",
                shorten(expression, SHOWN_EXPRESSION)
            ),
            None => Ok(()),
        }
    }
}

/// At most `max` characters of `text`, with a mark where it was cut.
pub(super) fn shorten(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

macro_rules! located_error {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            place: Place,
            message: String,
        }

        impl $name {
            pub(super) fn new(message: impl Into<String>) -> Self {
                Self { place: Place::default(), message: message.into() }
            }

            /// Names the expression at fault.
            pub(super) fn in_expression(mut self, source: &str) -> Self {
                self.place.expression.get_or_insert_with(|| source.trim().to_owned());
                self
            }

            /// Names the field that holds the expression, such as `spec.tasks[2].with.text`.
            #[must_use]
            pub fn at(mut self, path: &str) -> Self {
                self.place.path = Some(path.to_owned());
                self
            }

            /// The field that holds the expression, if it was named.
            pub fn path(&self) -> Option<&str> {
                self.place.path.as_deref()
            }

            /// The expression at fault, without its `${{` and `}}`.
            pub fn expression(&self) -> Option<&str> {
                self.place.expression.as_deref()
            }

            /// What is wrong, without the place.
            pub fn message(&self) -> &str {
                &self.message
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.place.write(f, &self.message)
            }
        }

        impl std::error::Error for $name {}
    };
}

located_error! {
    /// An expression that can never work: the workflow is invalid. It shows the path, the fault and
    /// the expression.
    CompileError
}

located_error! {
    /// An expression that does not work with the data at hand. It shows the path, the fault and the
    /// expression, and no data but a key that is missing: messages are read by more people than
    /// inputs are.
    EvaluationError
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_path_and_the_expression() {
        let error = CompileError::new("unknown name `x`")
            .in_expression(" x ")
            .at("spec.outputs.a");
        assert_eq!(
            error.to_string(),
            "spec.outputs.a: unknown name `x`, in ${{ x }}"
        );
        assert_eq!(error.path(), Some("spec.outputs.a"));
        assert_eq!(error.expression(), Some("x"));
        assert_eq!(error.message(), "unknown name `x`");
    }

    #[test]
    fn long_expressions_are_cut_between_characters() {
        let error = EvaluationError::new("bad").in_expression(&"é".repeat(1000));
        assert!(error.to_string().chars().count() < 230);
    }
}
