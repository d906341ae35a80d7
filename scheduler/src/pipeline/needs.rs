//! `needs` and `dependencies`: which job waits for which, and whose artifacts it gets.

mod graph;

pub use graph::{GraphJob, Resolved, check, resolve};

use super::changes::strings;
use super::diagnostic::Diagnostics;
use super::matrix::{self, MAX_NAME, Row};
use super::tree::{Map, Node, Span};

/// Jobs one job may need; GitLab's default setting.
pub const MAX_NEEDS: usize = 50;
/// Needs of other projects and of other pipelines, each.
const MAX_CROSS_NEEDS: usize = 5;

/// One need as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum NeedSpec {
    /// A job of this pipeline.
    Job {
        /// Its name; of a parallel job all of its instances are meant, unless `matrix` or the name says which.
        job: String,
        /// Its artifacts are brought in.
        artifacts: bool,
        /// It may be missing.
        optional: bool,
        /// `parallel:matrix`: those instances.
        matrix: Option<Vec<Row>>,
        /// Where.
        span: Span,
    },
    /// A job of another pipeline of the project: `{pipeline: $ID, job: x}`. Needs a GitLab server.
    PipelineJob {
        /// That pipeline.
        pipeline: String,
        /// The job.
        job: String,
        /// Where.
        span: Span,
    },
    /// The status of another project's pipeline, in a trigger job. Needs a GitLab server.
    Pipeline {
        /// That project's path.
        project: String,
        /// Where.
        span: Span,
    },
    /// A job of another project. Needs a GitLab server.
    ProjectJob {
        /// That project's path.
        project: String,
        /// The job.
        job: String,
        /// Where.
        span: Span,
    },
}

impl NeedSpec {
    /// Where it was written.
    #[must_use]
    pub fn span(&self) -> Span {
        match self {
            NeedSpec::Job { span, .. }
            | NeedSpec::PipelineJob { span, .. }
            | NeedSpec::Pipeline { span, .. }
            | NeedSpec::ProjectJob { span, .. } => *span,
        }
    }
}

/// Reads `needs` of a job. `path` is the job's: `jobs:test`. `None` when it is null or wrong as a whole.
pub fn parse_needs(node: &Node, path: &str, is_trigger: bool, out: &mut Diagnostics) -> Option<Vec<NeedSpec>> {
    let at = format!("{path}:needs");
    let items: Vec<&Node> = match (node.as_seq(), node.as_map()) {
        (Some(items), _) => items.iter().collect(),
        (None, Some(map)) if !map.is_empty() => vec![node],
        _ if node.is_null() => return None,
        _ => {
            out.error(node.span, &at, format!("{at} config can only be a hash or an array")).hint(format!(
                "found {}; write [{}]",
                node.describe(),
                node.as_text().unwrap_or("job")
            ));
            return None;
        }
    };
    let needs: Vec<NeedSpec> = items.into_iter().filter_map(|item| parse_need(item, &at, is_trigger, out)).collect();
    let count = |of: fn(&NeedSpec) -> bool| needs.iter().filter(|n| of(n)).count();
    for (what, n) in [
        ("cross pipeline", count(|n| matches!(n, NeedSpec::PipelineJob { .. }))),
        ("cross project", count(|n| matches!(n, NeedSpec::ProjectJob { .. }))),
    ] {
        if n > MAX_CROSS_NEEDS {
            out.error(node.span, &at, format!("{at} config must be less than or equal to {MAX_CROSS_NEEDS}"))
                .hint(format!("{n} {what} needs"));
        }
    }
    Some(needs)
}

/// Reads `rules:needs`, which names jobs of this pipeline alone. `path` is the rule's.
pub fn parse_rule_needs(node: &Node, path: &str, out: &mut Diagnostics) -> Option<Vec<NeedSpec>> {
    let needs = parse_needs(node, path, false, out)?;
    for need in &needs {
        if !matches!(need, NeedSpec::Job { .. }) {
            out.error(need.span(), format!("{path}:needs"), format!("{path}:needs config uses invalid types of needs"))
                .hint("a rule's needs are jobs of this pipeline");
        }
    }
    Some(needs)
}

fn parse_need(node: &Node, at: &str, is_trigger: bool, out: &mut Diagnostics) -> Option<NeedSpec> {
    let path = format!("{at}:need");
    if let Some(job) = node.as_str() {
        let job = name(node, job, &path, out)?;
        return Some(NeedSpec::Job { job, artifacts: true, optional: false, matrix: None, span: node.span });
    }
    let Some(map) = node.as_map().filter(|m| !m.is_empty()) else {
        out.error(node.span, &path, format!("{path} has an unsupported type"))
            .hint(format!("found {}; a need is a job's name or {{job: name}}", node.describe()));
        return None;
    };
    let (kind, keys): (&str, &[&str]) = if map.contains("project") {
        ("project", &["project", "ref", "job", "artifacts"])
    } else if map.contains("pipeline") {
        ("pipeline", &["pipeline", "job", "artifacts", "optional"])
    } else {
        ("job", &["job", "artifacts", "optional", "parallel"])
    };
    let unknown: Vec<&str> = map.keys().map(AsRef::as_ref).filter(|k| !keys.contains(k)).collect();
    if !unknown.is_empty() {
        out.error(node.span, &path, format!("{path} config contains unknown keys: {}", unknown.join(", ")))
            .hint(format!("such a need has: {}", keys.join(", ")));
        return None;
    }
    let mut text = |key: &str, required: bool| -> Option<Option<String>> {
        match map.present(key) {
            Some(value) => match value.as_str().filter(|t| !t.trim().is_empty()) {
                Some(text) => name(value, text, &path, out).map(Some),
                None => {
                    out.error(value.span, &path, format!("{path} {key} should be a string"))
                        .hint(format!("found {}", value.describe()));
                    None
                }
            },
            None if required => {
                out.error(node.span, &path, format!("{path} {key} can't be blank"));
                None
            }
            None => Some(None),
        }
    };
    let span = node.span;
    match kind {
        "project" => {
            let project = text("project", true)??;
            let job = text("job", true)??;
            text("ref", true)??;
            Some(NeedSpec::ProjectJob { project, job, span })
        }
        "pipeline" => {
            let pipeline = text("pipeline", true)??;
            match text("job", false)? {
                Some(job) => Some(NeedSpec::PipelineJob { pipeline, job, span }),
                None if is_trigger => Some(NeedSpec::Pipeline { project: pipeline, span }),
                None => {
                    out.error(span, at, format!("{at} config uses invalid types: bridge"))
                        .hint("without `job` it means another pipeline's status, which a trigger job alone can need");
                    None
                }
            }
        }
        _ => {
            let job = text("job", true)??;
            let artifacts = flag(map, "artifacts", true, &path, out)?;
            let optional = flag(map, "optional", false, &path, out)?;
            let matrix = match map.present("parallel") {
                None => None,
                Some(parallel) => match matrix::parse(parallel, &path, true, out)? {
                    matrix::Parallel::Matrix(rows) => Some(rows),
                    matrix::Parallel::Count(_) => return None,
                },
            };
            Some(NeedSpec::Job { job, artifacts, optional, matrix, span })
        }
    }
}

fn flag(map: &Map, key: &str, default: bool, path: &str, out: &mut Diagnostics) -> Option<bool> {
    match map.present(key) {
        None => Some(default),
        Some(node) => {
            let value = node.as_bool();
            if value.is_none() {
                out.error(node.span, path, format!("{path} {key} should be a boolean value"))
                    .hint(format!("found {}", node.describe()));
            }
            value
        }
    }
}

fn name(node: &Node, text: &str, path: &str, out: &mut Diagnostics) -> Option<String> {
    if text.chars().count() > MAX_NAME {
        let short: String = text.chars().take(40).collect();
        out.error(node.span, path, format!("need `{short}…` name is too long (maximum is {MAX_NAME} characters)"));
        return None;
    }
    Some(text.into())
}

/// Reads `dependencies`, which must be among `needs` when the job has some. `path` is the job's.
pub fn parse_dependencies(
    node: &Node,
    path: &str,
    needs: Option<&[NeedSpec]>,
    out: &mut Diagnostics,
) -> Option<Vec<(String, Span)>> {
    if node.is_null() {
        return None;
    }
    let Some(texts) = strings(node) else {
        out.error(
            node.span,
            format!("{path}:dependencies"),
            format!("{path} dependencies should be an array of strings"),
        )
        .hint(format!("found {}", node.describe()));
        return None;
    };
    if let Some(needs) = needs.filter(|n| !n.is_empty()) {
        let needed = |name: &str| needs.iter().any(|n| matches!(n, NeedSpec::Job { job, .. } if job == name));
        let missing: Vec<&str> = texts.iter().map(|(t, _)| *t).filter(|t| !needed(t)).collect();
        if !missing.is_empty() {
            let text = format!("{path} dependencies the {} should be part of needs", missing.join(", "));
            out.error(node.span, format!("{path}:dependencies"), text);
        }
    }
    Some(texts.into_iter().map(|(t, span)| (t.to_string(), span)).collect())
}
