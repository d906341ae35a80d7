//! The jobs as a graph: [`check`] looks at what was written, [`resolve`] at what rules have left of it.

use super::{MAX_NEEDS, NeedSpec};
use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::matrix::instance_name;
use crate::pipeline::plan::Need;
use crate::pipeline::suggest;
use crate::pipeline::tree::Span;
use std::collections::{HashMap, HashSet};

/// Names of jobs that all jobs together may get artifacts from: ten thousand jobs that each take those of ten thousand
/// others would not fit into memory.
const MAX_ARTIFACT_EDGES: usize = 2_000_000;

/// A job, `parallel` already expanded.
#[derive(Clone, Debug)]
pub struct GraphJob<'a> {
    /// Its own name: `test: [amd64]`.
    pub name: &'a str,
    /// The name it was written under: `test`.
    pub group: &'a str,
    /// Where it was written.
    pub span: Span,
    /// Its stage's place among the stages.
    pub stage: usize,
    /// `needs`; for [`resolve`] those of the rule that matched, when it has some.
    pub needs: Option<&'a [NeedSpec]>,
    /// `rules:needs` of each rule that has them; [`resolve`] does not look at it.
    pub rule_needs: Vec<&'a [NeedSpec]>,
    /// `dependencies`
    pub dependencies: Option<&'a [(String, Span)]>,
    /// The matrix's variables of this instance, for `$[[ matrix.NAME ]]`.
    pub matrix: &'a [(String, String)],
    /// It keeps artifacts, or reports: nobody gets any from other jobs.
    pub has_artifacts: bool,
}

/// What a job waits for, and whose artifacts it gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// `None`: all jobs of earlier stages.
    pub needs: Option<Vec<Need>>,
    /// By stage, then in the configuration's order.
    pub artifacts_from: Vec<String>,
}

/// Names to places in the list of jobs.
struct Index<'a> {
    names: HashMap<&'a str, usize>,
    groups: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Index<'a> {
    fn new(jobs: &'a [GraphJob<'a>]) -> Self {
        let mut index = Index { names: HashMap::with_capacity(jobs.len()), groups: HashMap::new() };
        for (at, job) in jobs.iter().enumerate() {
            index.names.insert(job.name, at);
            if job.name != job.group {
                index.groups.entry(job.group).or_default().push(at);
            }
        }
        index
    }

    /// The jobs of a name: one, or all instances of a parallel job.
    fn find(&self, name: &str) -> Option<Vec<usize>> {
        if let Some(instances) = self.groups.get(name) {
            return Some(instances.clone());
        }
        self.names.get(name).map(|at| vec![*at])
    }

    /// A name like this one, when there is one.
    fn alike(&self, name: &str) -> Option<String> {
        // A long list of names is not searched: the message is worth less than the time.
        if self.names.len() > 2000 {
            return None;
        }
        let mut names: Vec<&str> = self.names.keys().chain(self.groups.keys()).copied().collect();
        names.sort_unstable();
        suggest::among(name, names.into_iter())
    }
}

/// The names that a need means: of the instances its `parallel:matrix` names, else its own.
fn meant(need: &NeedSpec, job: &GraphJob<'_>, out: Option<&mut Diagnostics>) -> Vec<String> {
    let NeedSpec::Job { job: name, matrix, span, .. } = need else { return Vec::new() };
    let Some(rows) = matrix else { return vec![name.clone()] };
    let mut names = Vec::new();
    let mut unknown = None;
    for variables in rows.iter().flat_map(super::Row::product) {
        let filled: Vec<(String, String)> = variables
            .into_iter()
            .map(|(key, value)| {
                let value = fill_matrix(&value, job.matrix).unwrap_or_else(|missing| {
                    unknown.get_or_insert(missing);
                    String::new()
                });
                (key, value)
            })
            .collect();
        names.push(instance_name(name, &filled));
    }
    if let (Some(missing), Some(out)) = (unknown, out) {
        let path = format!("jobs:{}:needs", job.group);
        let text = format!("{} job: '{missing}' does not exist in the matrix", job.group);
        out.error(*span, path, text).hint("$[[ matrix.NAME ]] means the job's own parallel:matrix");
    }
    names
}

/// Fills in `$[[ matrix.NAME ]]`; the name that is not there otherwise.
fn fill_matrix(text: &str, variables: &[(String, String)]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("$[[") {
        let Some(end) = rest[start..].find("]]").map(|n| start + n) else { break };
        let inside = rest[start + 3..end].trim();
        let Some(name) = inside.strip_prefix("matrix.") else { break };
        let value = variables.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        out.push_str(&rest[..start]);
        out.push_str(value.ok_or_else(|| name.to_string())?);
        rest = &rest[end + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Looks at every job's needs and dependencies as they were written: whether the jobs exist, in this or an earlier
/// stage, once each, in no circle.
pub fn check(jobs: &[GraphJob<'_>], out: &mut Diagnostics) {
    let index = Index::new(jobs);
    let mut edges: Vec<Vec<usize>> = vec![Vec::new(); jobs.len()];
    // What one instance of a parallel job does wrong, all do.
    let mut said: HashSet<String> = HashSet::new();
    for (at, job) in jobs.iter().enumerate() {
        if let Some(needs) = job.needs {
            edges[at] = check_needs(job, needs, jobs, &index, &mut said, out);
        }
        for needs in &job.rule_needs {
            check_needs(job, needs, jobs, &index, &mut said, out);
        }
        for (name, span) in job.dependencies.unwrap_or_default() {
            let path = format!("jobs:{}:dependencies", job.group);
            let Some(found) = index.find(name) else {
                if said.insert(format!("{} {name}", job.group)) {
                    let error = out.error(*span, path, format!("{} job: undefined dependency: {name}", job.name));
                    if let Some(alike) = index.alike(name) {
                        error.hint(alike);
                    }
                }
                continue;
            };
            let needed = job
                .needs
                .is_some_and(|needs| needs.iter().any(|n| matches!(n, NeedSpec::Job { job, .. } if job == name)));
            let later = found.iter().any(|d| match needed {
                true => jobs[*d].stage > job.stage,
                false => jobs[*d].stage >= job.stage,
            });
            if later && said.insert(format!("{} later {name}", job.group)) {
                let text = format!("{} job: dependency {name} is not defined in current or prior stages", job.name);
                out.error(*span, path, text).hint("artifacts come from jobs of earlier stages, or from needs");
            }
        }
    }
    if let Some(circle) = find_circle(&edges) {
        say_circle(&circle, jobs, out);
    }
}

fn check_needs(
    job: &GraphJob<'_>,
    needs: &[NeedSpec],
    jobs: &[GraphJob<'_>],
    index: &Index<'_>,
    said: &mut HashSet<String>,
    out: &mut Diagnostics,
) -> Vec<usize> {
    let path = format!("jobs:{}:needs", job.group);
    let mut found: Vec<usize> = Vec::new();
    let mut twice: Vec<&str> = Vec::new();
    let mut seen: HashSet<usize> = HashSet::new();
    for need in needs {
        let NeedSpec::Job { optional, span, .. } = need else { continue };
        let first = said.insert(format!("{} {span:?}", job.group));
        for name in meant(need, job, first.then_some(&mut *out)) {
            let Some(places) = index.find(&name) else {
                if !optional && first {
                    let error = out.error(*span, &path, format!("{} job: undefined need: {name}", job.name));
                    if let Some(alike) = index.alike(&name) {
                        error.hint(alike);
                    }
                }
                continue;
            };
            if places.iter().any(|p| jobs[*p].stage > job.stage) && first {
                let text = format!("{} job: need {name} is not defined in current or prior stages", job.name);
                out.error(*span, &path, text).hint(format!("{name} is in a later stage than {}", job.name));
            }
            for place in places {
                if !seen.insert(place) {
                    twice.push(jobs[place].name);
                }
                found.push(place);
            }
        }
        // Too many by far: the rest is not looked at.
        if found.len() > 100 * MAX_NEEDS {
            break;
        }
    }
    let span = needs.first().map_or(job.span, NeedSpec::span);
    if !twice.is_empty() && said.insert(format!("{} twice {span:?}", job.group)) {
        twice.dedup();
        let text = format!("{} has the following needs duplicated: {}.", job.name, twice.join(", "));
        out.error(span, &path, text);
    }
    if found.len() > MAX_NEEDS && said.insert(format!("{} many {span:?}", job.group)) {
        let n = found.len();
        let text = format!(
            "{}: one job can only need {MAX_NEEDS} others, but you have listed {n}. See needs keyword documentation for \
             more details",
            job.name
        );
        out.error(span, &path, text).hint("a job without needs waits for all jobs of earlier stages");
    }
    found
}

/// A circle of needs, each followed by one it needs; the first of the list leads.
fn find_circle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    for start in 0..edges.len() {
        if marks[start] != Mark::New {
            continue;
        }
        // The path walked, with the next need to look at: no recursion, so that a long chain needs no stack.
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        marks[start] = Mark::Open;
        while let Some((at, next)) = path.last_mut() {
            let Some(needed) = edges[*at].get(*next).copied() else {
                marks[*at] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            match marks[needed] {
                Mark::Done => {}
                Mark::New => {
                    marks[needed] = Mark::Open;
                    path.push((needed, 0));
                }
                Mark::Open => {
                    let from = path.iter().position(|(n, _)| *n == needed).unwrap_or(0);
                    return Some(path[from..].iter().map(|(n, _)| *n).collect());
                }
            }
        }
    }
    None
}

fn say_circle(circle: &[usize], jobs: &[GraphJob<'_>], out: &mut Diagnostics) {
    let names: Vec<&str> = circle.iter().map(|c| jobs[*c].name).collect();
    let first = &jobs[circle[0]];
    let span = first.needs.and_then(|n| n.first()).map_or(first.span, NeedSpec::span);
    let path = format!("jobs:{}:needs", first.group);
    let shown = &names[..names.len().min(12)];
    let what = match names.as_slice() {
        [own] => format!("self-dependency: {own}"),
        _ => format!("topological sort failed: {shown:?}"),
    };
    let mut chain = shown.join(" needs ");
    if shown.len() < names.len() {
        chain.push_str(" needs …");
    }
    out.error(span, path, format!("The pipeline has circular dependencies: {what}"))
        .hint(format!("{chain} needs {}", names[0]));
}

/// What each job of the pipeline waits for and whose artifacts it gets, in the order given. The jobs are those that rules
/// left, with the needs of the rules that matched. Errors are said when a need was left out, or when there is a circle.
pub fn resolve(jobs: &[GraphJob<'_>], out: &mut Diagnostics) -> Vec<Resolved> {
    let index = Index::new(jobs);
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|at| jobs[*at].stage);
    // Jobs with artifacts, by stage; a job of stage n gets those of the first `before[n]`.
    let keepers: Vec<usize> = order.iter().copied().filter(|at| jobs[*at].has_artifacts).collect();
    let mut rank = vec![0; jobs.len()];
    for (place, at) in order.iter().enumerate() {
        rank[*at] = place;
    }
    let mut edges: Vec<Vec<usize>> = Vec::with_capacity(jobs.len());
    let mut resolved = Vec::with_capacity(jobs.len());
    let mut artifact_edges = 0usize;
    for job in jobs {
        let needed = job.needs.map(|needs| resolve_needs(job, needs, jobs, &index, out));
        let wanted: Option<HashSet<usize>> =
            job.dependencies.map(|names| names.iter().filter_map(|(name, _)| index.find(name)).flatten().collect());
        let mut from: Vec<usize> = match &needed {
            Some(needed) => needed.iter().filter(|(_, artifacts)| *artifacts).map(|(at, _)| *at).collect(),
            None => keepers.iter().copied().take_while(|at| jobs[*at].stage < job.stage).collect(),
        };
        from.retain(|at| jobs[*at].has_artifacts && wanted.as_ref().is_none_or(|w| w.contains(at)));
        from.sort_unstable_by_key(|at| rank[*at]);
        artifact_edges += from.len();
        if artifact_edges > MAX_ARTIFACT_EDGES {
            let text = format!("the jobs get artifacts from more than {MAX_ARTIFACT_EDGES} jobs altogether");
            out.error(job.span, format!("jobs:{}", job.group), text)
                .hint("say with `dependencies` or `needs` whose artifacts a job gets");
            return Vec::new();
        }
        edges.push(needed.iter().flatten().map(|(at, _)| *at).collect());
        resolved.push(Resolved {
            needs: needed.map(|needed| {
                needed.into_iter().map(|(at, artifacts)| Need { job: jobs[at].name.into(), artifacts }).collect()
            }),
            artifacts_from: from.into_iter().map(|at| jobs[at].name.to_string()).collect(),
        });
    }
    // Needs of rules can make a circle that the jobs' own do not.
    if let Some(circle) = find_circle(&edges) {
        say_circle(&circle, jobs, out);
    }
    resolved
}

/// The places of the needed jobs that are in the pipeline, each once, and whether their artifacts are wanted.
fn resolve_needs(
    job: &GraphJob<'_>,
    needs: &[NeedSpec],
    jobs: &[GraphJob<'_>],
    index: &Index<'_>,
    out: &mut Diagnostics,
) -> Vec<(usize, bool)> {
    let mut found: Vec<(usize, bool)> = Vec::new();
    for need in needs {
        let NeedSpec::Job { artifacts, optional, span, .. } = need else { continue };
        for name in meant(need, job, None) {
            match index.find(&name) {
                Some(places) => {
                    for place in places {
                        if jobs[place].stage <= job.stage && found.iter().all(|(at, _)| *at != place) {
                            found.push((place, *artifacts));
                        }
                    }
                }
                None if *optional => {}
                None => {
                    let text = format!(
                        "'{}' job needs '{name}' job, but '{name}' does not exist in the pipeline. This might be because \
                         of the only, except, or rules keywords. To need a job that sometimes does not exist in the \
                         pipeline, use needs:optional.",
                        job.name
                    );
                    out.error(*span, format!("jobs:{}:needs", job.group), text);
                }
            }
        }
    }
    found
}
