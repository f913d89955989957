//! How every call is made: within the lease, so many at once, in time, counted.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::error::{Asked, CallError, Failure};
use crate::operator::{fence::Fence, metrics::Metrics};

/// A call that takes longer is given up; what it did will be seen by the watch.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Calls under way at once.
const MAX_IN_FLIGHT: usize = 64;

/// Makes calls.
pub(super) struct Calls {
    metrics: Arc<Metrics>,
    fence: Fence,
    in_flight: Semaphore,
}

impl Calls {
    pub(super) fn new(metrics: Arc<Metrics>, fence: Fence) -> Calls {
        Calls {
            metrics,
            fence,
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
        }
    }

    /// Makes one call. The fence is looked at last: between that and the request is nothing that
    /// waits, and no request outlives it.
    pub(super) async fn call<T>(
        &self,
        asked: Asked,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        // The semaphore is never closed; should it be, the call is only unbounded.
        let _permit = self.in_flight.acquire().await.ok();
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
        let code = match &result {
            Ok(_) => 200,
            Err(error) => error.code().unwrap_or(0),
        };
        self.metrics.count_call(verb, resource, code);
        result
    }
}
