//! What Prometheus reads: jobs waiting, running and ended, nodes and their pressure, the store's batches.

use crate::driver::{Counts, Driver};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// Projects named in labels; the rest are counted together, so that a page stays bounded.
const MAX_PROJECTS: usize = 200;
/// Nodes named in labels.
const MAX_NODES: usize = 500;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    project: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

type NodeGauge = Family<NodeLabels, Gauge<f64, AtomicU64>>;

/// `GET /metrics`.
pub fn router(driver: Driver) -> Router {
    Router::new().route("/metrics", get(page)).with_state(driver)
}

async fn page(State(driver): State<Driver>) -> Response {
    let counts = match driver.counts().await {
        Ok(counts) => counts,
        Err(denied) => return (StatusCode::SERVICE_UNAVAILABLE, denied.to_string()).into_response(),
    };
    match text(&counts) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The page.
///
/// # Errors
/// Never in practice: a text cannot be written to a string.
pub fn text(counts: &Counts) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("slipway");
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(number(value));
        registry.register(name, help, gauge);
    };
    gauge(&mut registry, "jobs_waiting", "Jobs that wait for a node", counts.waiting);
    gauge(&mut registry, "jobs_running", "Jobs that a node has", counts.running);
    gauge(&mut registry, "pipelines_active", "Pipelines that are not over", counts.pipelines);
    let online = counts.nodes.iter().filter(|n| n.online).count();
    gauge(&mut registry, "nodes_online", "Nodes with a session", online);
    let counter = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter(&mut registry, "commits", "Batches written to the store", counts.commits);
    counter(&mut registry, "commands", "Commands decided", counts.commands);
    let ended: Family<JobLabels, Counter> = Family::default();
    let mut projects: Vec<&str> = counts.ended.iter().map(|(p, ..)| p.as_str()).collect();
    projects.sort_unstable();
    projects.dedup();
    projects.truncate(MAX_PROJECTS);
    for (project, status, n) in &counts.ended {
        let named = projects.binary_search(&project.as_str()).is_ok();
        let project = if named { project.clone() } else { "(others)".to_owned() };
        ended.get_or_create(&JobLabels { project, status }).inc_by(*n);
    }
    registry.register("jobs_ended", "Jobs that ended since the start", ended);
    nodes(&mut registry, counts);
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}

fn nodes(registry: &mut Registry, counts: &Counts) {
    let families: [(&str, &str, NodeGauge); 6] = [
        ("node_jobs", "Jobs of the node", NodeGauge::default()),
        ("node_io_wait_ratio", "Share of CPU time idle with I/O outstanding", NodeGauge::default()),
        ("node_disk_queue_depth", "Average requests in the queue of the cache's device", NodeGauge::default()),
        ("node_memory_available_bytes", "Memory that could be had without swapping", NodeGauge::default()),
        ("node_disk_free_bytes", "Free bytes under the cache root", NodeGauge::default()),
        ("node_cache_bytes", "Bytes of the layer store", NodeGauge::default()),
    ];
    for node in counts.nodes.iter().filter(|n| n.online).take(MAX_NODES) {
        let values = [
            node.jobs.len() as f64,
            node.pressure.io_wait,
            node.pressure.disk.as_ref().map_or(0.0, |d| d.queue_depth),
            node.pressure.memory_available_bytes as f64,
            node.pressure.disk_free_bytes as f64,
            node.cache_bytes as f64,
        ];
        for ((_, _, family), value) in families.iter().zip(values) {
            family.get_or_create(&NodeLabels { node: node.name.clone() }).set(value);
        }
    }
    for (name, help, family) in families {
        registry.register(name, help, family);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_names_jobs_by_project_and_ends_as_openmetrics_wants() {
        let counts = Counts {
            waiting: 3,
            ended: vec![("team/app".into(), "success", 7), ("team/app".into(), "failed", 1)],
            commits: 9,
            ..Counts::default()
        };
        let text = text(&counts).unwrap();
        assert!(text.contains("slipway_jobs_waiting 3\n"), "{text}");
        assert!(text.contains("slipway_jobs_ended_total{project=\"team/app\",status=\"success\"} 7\n"), "{text}");
        assert!(text.contains("slipway_commits_total 9\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn many_projects_are_counted_together() {
        let ended = (0..MAX_PROJECTS + 50).map(|n| (format!("p{n:04}"), "success", 1)).collect();
        let text = text(&Counts { ended, ..Counts::default() }).unwrap();
        assert!(text.contains("project=\"(others)\",status=\"success\"} 50\n"), "{text}");
    }
}
