//! A call that did not do what was asked.

use std::time::Duration;

/// What was asked of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What to do.
    pub verb: &'static str,
    /// With which resource.
    pub resource: &'static str,
    /// With which object.
    pub name: String,
}

/// A call that did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{} {} {}: {failure}", asked.verb, asked.resource, asked.name)]
pub struct CallError {
    asked: Asked,
    failure: Failure,
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// This process may not write any more: nothing was sent.
    #[error("not sent, because the lease may have run out")]
    Fenced,
    /// The API server did not answer in time: what was asked may have been done.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The API server refused or could not be reached.
    #[error("{}", said(.0))]
    Refused(Box<kube::Error>),
}

/// What an API server answers that does not serve the resource: of its objects it says nothing.
const NOT_SERVED: &str = "the server could not find the requested resource";

/// An object, or none if the API server says that there is none of that name.
pub(super) fn found<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

impl CallError {
    pub(super) fn new(asked: Asked, failure: Failure) -> CallError {
        CallError { asked, failure }
    }

    /// What the API server answered, if it did.
    fn answer(&self) -> Option<&kube::core::Status> {
        match &self.failure {
            Failure::Refused(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Failure::Timeout(_) | Failure::Fenced => None,
        }
    }

    /// The HTTP status, if the API server answered.
    pub fn code(&self) -> Option<u16> {
        self.answer().map(|status| status.code)
    }

    /// What the API server said, in its own words.
    pub fn said(&self) -> String {
        match &self.failure {
            Failure::Refused(error) => said(error),
            _ => self.to_string(),
        }
    }

    /// The reason of the API server's answer, such as `AlreadyExists`.
    pub fn reason(&self) -> &str {
        self.answer().map_or("", |status| status.reason.as_str())
    }

    /// Whether nothing was sent because this process no longer leads.
    pub fn is_fenced(&self) -> bool {
        matches!(self.failure, Failure::Fenced)
    }

    /// Whether what was asked may have been done, or may be done yet: there was no answer, or one of
    /// a server that does not know itself.
    pub fn may_be_done(&self) -> bool {
        !self.is_fenced() && self.code().is_none_or(|code| code >= 500)
    }

    /// Whether it is no news: all calls fare so, and that is logged once.
    pub fn is_expected(&self) -> bool {
        self.is_fenced() || self.is_throttled()
    }

    /// Whether the API server has too much to do: all calls slow down together.
    pub fn is_throttled(&self) -> bool {
        match self.code() {
            Some(429) => true,
            Some(503) => self.retry_after().is_some(),
            _ => false,
        }
    }

    /// How long the API server asks to wait. (Of the header of the same name kube tells nothing;
    /// the answers of flow control have only that, and it says one second.)
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let seconds = self.answer()?.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// Whether the object was not there. (An API server that does not serve the resource says
    /// 404 too, but not so.)
    pub fn is_not_found(&self) -> bool {
        let unserved = |status: &kube::core::Status| status.message == NOT_SERVED;
        self.code() == Some(404)
            && self.reason() == "NotFound"
            && !self.answer().is_some_and(unserved)
    }

    /// Whether an object of that name was there already.
    pub fn is_already_exists(&self) -> bool {
        self.code() == Some(409) && self.reason() == "AlreadyExists"
    }

    /// Whether somebody else wrote first: the watch will bring the newer version.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409) && self.reason() != "AlreadyExists"
    }

    /// Whether asking again cannot help: the API server understood and said no.
    pub fn is_final_refusal(&self) -> bool {
        matches!(self.code(), Some(400 | 403 | 413 | 422))
    }
}

/// kube writes the whole `Status` behind its message, which says everything twice.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
