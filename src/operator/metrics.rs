//! What the operator counts, for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Labels of an API call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    resource: &'static str,
    verb: &'static str,
    code: u16,
}

/// Labels of a reconciliation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: &'static str,
    result: &'static str,
}

/// A label for what there is one of per kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// A label for how a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    phase: &'static str,
}

/// Finer where the goal is: a median of 30 ms and a 99th percentile of 150 ms.
const STEP_GAP_BUCKETS: [f64; 15] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    writes: Family<Call, Counter>,
    reads: Family<Call, Counter>,
    reconciles: Family<Reconcile, Counter>,
    invalid_objects: Family<Kind, Counter>,
    queue_depth: Family<Kind, Gauge>,
    task_duration: Family<Ended, Histogram>,
    step_gap: Histogram,
    leader: Gauge,
    lease_transitions: Gauge,
    renew_failures: Counter,
    call_limit: Gauge,
    throttled: Counter,
    dropped_warnings: Counter,
    let_go: Counter,
    resident: Gauge<u64, AtomicU64>,
}

impl Metrics {
    /// All metrics at zero. `extend` may register more under the same prefix.
    pub fn new(extend: impl FnOnce(&mut Registry)) -> Metrics {
        let mut registry = Registry::with_prefix("compozy");
        let metrics = Metrics {
            writes: Family::default(),
            reads: Family::default(),
            reconciles: Family::default(),
            invalid_objects: Family::default(),
            queue_depth: Family::default(),
            task_duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.1, 2.0, 18))
            }),
            step_gap: Histogram::new(STEP_GAP_BUCKETS),
            leader: Gauge::default(),
            lease_transitions: Gauge::default(),
            renew_failures: Counter::default(),
            call_limit: Gauge::default(),
            throttled: Counter::default(),
            dropped_warnings: Counter::default(),
            let_go: Counter::default(),
            resident: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "api_writes",
            "Writes to the API server by resource, verb and HTTP status (0: none)",
            metrics.writes.clone(),
        );
        registry.register(
            "api_reads",
            "Single reads from the API server by resource, verb and HTTP status (0: none)",
            metrics.reads.clone(),
        );
        registry.register(
            "reconciles",
            "Reconciliations by kind and result",
            metrics.reconciles.clone(),
        );
        registry.register(
            "invalid_objects",
            "Stored objects that could not be parsed",
            metrics.invalid_objects.clone(),
        );
        registry.register(
            "queue_depth",
            "Keys that are due and wait",
            metrics.queue_depth.clone(),
        );
        registry.register(
            "task_duration_seconds",
            "From a task's first start to its end",
            metrics.task_duration.clone(),
        );
        registry.register(
            "step_gap_seconds",
            "From a pod seen finished to the create call of the next step's pod answered",
            metrics.step_gap.clone(),
        );
        registry.register(
            "leader",
            "1 while this process holds the lease",
            metrics.leader.clone(),
        );
        registry.register(
            "lease_transitions",
            "How often the lease has changed hands, as the lease itself says",
            metrics.lease_transitions.clone(),
        );
        registry.register(
            "lease_renew_failures",
            "Renewals of the lease that failed",
            metrics.renew_failures.clone(),
        );
        registry.register(
            "api_call_limit",
            "Calls to the API server that may be under way at once; fewer after it said that it has too much to do",
            metrics.call_limit.clone(),
        );
        registry.register(
            "api_throttled",
            "Calls that the API server refused because it has too much to do",
            metrics.throttled.clone(),
        );
        registry.register(
            "kubernetes_events_dropped",
            "Kubernetes Events that were not written because too many waited",
            metrics.dropped_warnings.clone(),
        );
        registry.register(
            "events_let_go",
            "Deleted objects let go with events that never reached NATS",
            metrics.let_go.clone(),
        );
        registry.register(
            "resident_memory_bytes",
            "Resident memory of the process",
            metrics.resident.clone(),
        );
        extend(&mut registry);
        Metrics {
            registry,
            ..metrics
        }
    }

    /// Counts a call to the API server.
    pub fn count_call(&self, verb: &'static str, resource: &'static str, code: u16) {
        let family = if verb == "get" {
            &self.reads
        } else {
            &self.writes
        };
        family
            .get_or_create(&Call {
                resource,
                verb,
                code,
            })
            .inc();
    }

    /// Counts a reconciliation.
    pub fn count_reconcile(&self, kind: &'static str, ok: bool) {
        let result = if ok { "ok" } else { "error" };
        self.reconciles
            .get_or_create(&Reconcile { kind, result })
            .inc();
    }

    /// Counts a stored object that could not be parsed.
    pub fn count_invalid(&self, kind: &'static str) {
        self.invalid_objects.get_or_create(&Kind { kind }).inc();
    }

    /// Shows how many calls to the API server may be under way at once.
    pub fn show_call_limit(&self, limit: usize) {
        self.call_limit
            .set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Counts a call that the API server refused because it has too much to do.
    pub fn count_throttled(&self) {
        self.throttled.inc();
    }

    /// Counts a Kubernetes Event that was not written because too many waited.
    pub fn count_dropped_warning(&self) {
        self.dropped_warnings.inc();
    }

    /// Counts a deleted object that was let go unmirrored.
    pub fn count_let_go(&self) {
        self.let_go.inc();
    }

    /// Shows how many keys of a kind wait.
    pub fn show_queue(&self, kind: &'static str, depth: usize) {
        self.queue_depth
            .get_or_create(&Kind { kind })
            .set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// Shows whether this process holds the lease.
    pub fn show_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Shows how often the lease has changed hands.
    pub fn show_lease_transitions(&self, count: i32) {
        self.lease_transitions.set(count.into());
    }

    /// Counts a renewal of the lease that failed.
    pub fn count_renew_failure(&self) {
        self.renew_failures.inc();
    }

    /// Takes in how long a task ran.
    pub fn observe_task(&self, phase: &'static str, seconds: f64) {
        self.task_duration
            .get_or_create(&Ended { phase })
            .observe(seconds);
    }

    /// Takes in how long one step took to follow another.
    pub fn observe_step_gap(&self, seconds: f64) {
        self.step_gap.observe(seconds);
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// Only if a metric cannot be written as text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        self.resident.set(resident_bytes());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The process's resident memory; 0 where the kernel does not tell.
fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        * PAGE
}
