//! What is wrong with a field of a spec, and where it stands.

use std::fmt;

use crate::engine::expression::CompileError;

/// A field that cannot be accepted. The message says what is wrong and, where there is one, the
/// way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where the field stands, as in `spec.tasks[2].container.env[0].name`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    /// The error at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        FieldError {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for FieldError {}

impl From<CompileError> for FieldError {
    fn from(error: CompileError) -> Self {
        let at = |expression: &str| format!("{}, in ${{{{ {expression} }}}}", error.message());
        FieldError::new(
            error.path().unwrap_or("spec"),
            error
                .expression()
                .map_or_else(|| error.message().to_owned(), at),
        )
    }
}
