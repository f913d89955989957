//! `/metrics`, `/healthz` and `/readyz`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use super::metrics::Metrics;

/// What the probes look at.
#[derive(Clone)]
pub struct Health {
    /// Whether every watch has delivered its first list.
    pub ready: Arc<AtomicBool>,
    /// What to serve under `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Called before each scrape, to bring gauges up to date.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
}

/// Serves until the process ends.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(address: SocketAddr, health: Health) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, routes).await
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    if health.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ok")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the watches have not delivered their first lists",
        )
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    (health.refresh)();
    match health.metrics.encode() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
