//! `parallel`: one job of the configuration becomes several, named as GitLab names them.

use super::diagnostic::Diagnostics;
use super::tree::{Node, Span};

/// Jobs one `parallel` may make.
pub const MAX_INSTANCES: usize = 200;
/// Characters a job's name may have.
pub const MAX_NAME: usize = 255;

/// `parallel`.
#[derive(Clone, Debug, PartialEq)]
pub enum Parallel {
    /// `parallel: 5`
    Count(u32),
    /// `parallel: {matrix: […]}`
    Matrix(Vec<Row>),
}

/// One mapping of a matrix: the product of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Names and values, in the order written.
    pub keys: Vec<(String, Vec<String>)>,
    /// Where.
    pub span: Span,
}

/// One of the jobs that a parallel job becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// `test 1/3` or `test: [amd64, 12]`.
    pub name: String,
    /// The matrix's variables; they beat the job's.
    pub variables: Vec<(String, String)>,
    /// `CI_NODE_INDEX`, from 1.
    pub index: u32,
    /// `CI_NODE_TOTAL`.
    pub total: u32,
}

impl Row {
    /// How many jobs it makes.
    fn size(&self) -> usize {
        self.keys.iter().fold(1usize, |n, (_, values)| n.saturating_mul(values.len()))
    }

    /// The product, the first key varying slowest.
    #[must_use]
    pub fn product(&self) -> Vec<Vec<(String, String)>> {
        let mut all: Vec<Vec<(String, String)>> = vec![Vec::new()];
        for (key, values) in &self.keys {
            let mut next = Vec::with_capacity(all.len() * values.len());
            for start in &all {
                for value in values {
                    let mut one = start.clone();
                    one.push((key.clone(), value.clone()));
                    next.push(one);
                }
            }
            all = next;
        }
        all
    }
}

/// The name of a matrix job.
#[must_use]
pub fn instance_name(job: &str, variables: &[(String, String)]) -> String {
    let values: Vec<&str> = variables.iter().map(|(_, v)| v.as_str()).collect();
    format!("{job}: [{}]", values.join(", "))
}

/// `CI_JOB_GROUP_NAME` of any name: without ` 1/3` or `: […]`.
#[must_use]
pub fn group_name(name: &str) -> &str {
    if let Some(at) = name.strip_suffix(']').and_then(|n| n.rfind(": [")) {
        return &name[..at];
    }
    if let Some((group, numbers)) = name.rsplit_once(' ') {
        let is_number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if numbers.split_once('/').is_some_and(|(a, b)| is_number(a) && is_number(b)) {
            return group;
        }
    }
    name
}

/// Reads `parallel`. `path` is the job's: `jobs:test`. A trigger job takes a matrix alone.
pub fn parse(node: &Node, path: &str, is_trigger: bool, out: &mut Diagnostics) -> Option<Parallel> {
    let at = format!("{path}:parallel");
    if let Some(n) = node.as_int() {
        let problem = if is_trigger {
            Some("config cannot use \"parallel: <number>\".".to_string())
        } else if n < 1 {
            Some("config must be greater than or equal to 1".into())
        } else if n > MAX_INSTANCES as i64 {
            Some(format!("config must be less than or equal to {MAX_INSTANCES}"))
        } else {
            None
        };
        if let Some(problem) = problem {
            out.error(node.span, &at, format!("{at} {problem}"));
            return None;
        }
        return u32::try_from(n).ok().map(Parallel::Count);
    }
    let Some(map) = node.as_map() else {
        out.error(node.span, &at, format!("{at} should be an integer or a hash"))
            .hint(format!("found {}", node.describe()));
        return None;
    };
    let unknown: Vec<&str> = map.keys().map(AsRef::as_ref).filter(|k| *k != "matrix").collect();
    if !unknown.is_empty() {
        out.error(node.span, &at, format!("{at} config contains unknown keys: {}", unknown.join(", ")));
    }
    let Some(matrix) = map.get("matrix") else {
        out.error(node.span, &at, format!("{at} config missing required keys: matrix"));
        return None;
    };
    parse_rows(matrix, &format!("{at}:matrix"), out).map(Parallel::Matrix)
}

/// Reads the rows of a matrix, also of `needs:parallel:matrix`.
pub fn parse_rows(node: &Node, at: &str, out: &mut Diagnostics) -> Option<Vec<Row>> {
    let Some(items) = node.as_seq().filter(|items| items.iter().all(|i| i.as_map().is_some())) else {
        out.error(node.span, at, format!("{at} config should be an array of hashes"))
            .hint(format!("found {}; write for example matrix: [{{ARCH: [amd64, arm64]}}]", node.describe()));
        return None;
    };
    if items.is_empty() {
        out.error(node.span, at, format!("{at} config can't be blank"));
        return None;
    }
    let mut rows = Vec::new();
    let mut total = 0usize;
    for item in items {
        let mut row = Row { keys: Vec::new(), span: item.span };
        for (key, entry) in item.as_map().into_iter().flat_map(|m| m.iter()) {
            let values = match entry.value.as_seq() {
                Some(values) => values.iter().map(matrix_value).collect::<Option<Vec<_>>>().filter(|v| !v.is_empty()),
                None => matrix_value(&entry.value).map(|v| vec![v]),
            };
            let Some(values) = values else {
                let path = format!("{at}:variables");
                let text = format!("{path} config should be a hash of key value pairs, value can be an array");
                out.error(entry.value.span, path, text)
                    .hint(format!("{key} is {}; values are texts or numbers", entry.value.describe()));
                return None;
            };
            row.keys.push((key.to_string(), values));
        }
        if row.keys.is_empty() {
            let path = format!("{at}:variables");
            out.error(item.span, &path, format!("{path} config requires at least 1 items"));
            return None;
        }
        total = total.saturating_add(row.size());
        rows.push(row);
    }
    if total > MAX_INSTANCES {
        out.error(node.span, at, format!("{at} config generates too many jobs (maximum is {MAX_INSTANCES})"))
            .hint(format!("it makes {total}"));
        return None;
    }
    Some(rows)
}

fn matrix_value(node: &Node) -> Option<String> {
    match node.is_null() {
        true => None,
        false => node.scalar_text(),
    }
}

impl Parallel {
    /// The jobs that a job becomes.
    ///
    /// # Errors
    /// The name that two rows share, or that is too long.
    pub fn expand(&self, job: &str) -> Result<Vec<Instance>, String> {
        let instances: Vec<Instance> = match self {
            Parallel::Count(total) => (1..=*total)
                .map(|index| Instance {
                    name: format!("{job} {index}/{total}"),
                    variables: Vec::new(),
                    index,
                    total: *total,
                })
                .collect(),
            Parallel::Matrix(rows) => {
                let all: Vec<_> = rows.iter().flat_map(Row::product).collect();
                let total = u32::try_from(all.len()).unwrap_or(u32::MAX);
                (1..)
                    .zip(all)
                    .map(|(index, variables)| Instance {
                        name: instance_name(job, &variables),
                        variables,
                        index,
                        total,
                    })
                    .collect()
            }
        };
        let mut seen = std::collections::HashSet::new();
        for instance in &instances {
            if !seen.insert(&instance.name) {
                return Err(format!("two rows of its matrix make the same job `{}`", instance.name));
            }
            if instance.name.chars().count() > MAX_NAME {
                return Err(format!("its matrix makes a job whose name has more than {MAX_NAME} characters"));
            }
        }
        Ok(instances)
    }
}
