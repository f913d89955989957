//! How every call is made: within the lease, so many at once, in time, counted.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    error::{Asked, CallError, Failure},
    pace::Pace,
};
use crate::operator::{fence::Fence, metrics::Metrics};

/// A call that takes longer is given up; what it did will be seen by the watch.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Pods being created at once. Each is work for scheduler and nodes too, and the calls for what
/// runs already must find a turn beside them.
const PODS_AT_ONCE: usize = 32;

/// Makes calls.
pub(super) struct Calls {
    metrics: Arc<Metrics>,
    fence: Fence,
    pace: Pace,
    pods: Semaphore,
}

impl Calls {
    pub(super) fn new(metrics: Arc<Metrics>, fence: Fence) -> Calls {
        Calls {
            pace: Pace::new(metrics.clone()),
            metrics,
            fence,
            pods: Semaphore::new(PODS_AT_ONCE),
        }
    }

    /// Makes one call. The fence is looked at last: between that and the request is nothing that
    /// waits, and no request outlives it.
    pub(super) async fn call<T>(
        &self,
        asked: Asked,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        let creates_pod = asked.verb == "create" && asked.resource == "pods";
        // Semaphores here are never closed; should one be, the call is only unbounded.
        let _pod = if creates_pod {
            self.pods.acquire().await.ok()
        } else {
            None
        };
        let _turn = self.pace.turn().await;
        let Some(left) = self.fence.left() else {
            return Err(CallError::new(asked, Failure::Fenced));
        };
        let (verb, resource) = (asked.verb, asked.resource);
        let bound = left.min(CALL_TIMEOUT);
        let result = match tokio::time::timeout(bound, request).await {
            Err(_) => Err(CallError::new(asked, Failure::Timeout(bound))),
            Ok(Err(error)) => Err(CallError::new(asked, Failure::Refused(Box::new(error)))),
            Ok(Ok(value)) => Ok(value),
        };
        self.take_in(verb, resource, result.as_ref().err());
        result
    }

    fn take_in(&self, verb: &'static str, resource: &'static str, error: Option<&CallError>) {
        let code = error.map_or(Some(200), CallError::code);
        self.metrics
            .count_call(verb, resource, code.unwrap_or_default());
        match error {
            Some(error) if error.is_throttled() => self.pace.refused(error.retry_after()),
            _ if code.is_some() => self.pace.answered(),
            // No answer says nothing about how much the API server has to do.
            _ => {}
        }
    }
}
