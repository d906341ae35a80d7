//! `changes` and `exists`: patterns against the paths of a commit.

use super::diagnostic::Diagnostics;
use super::expression::Scope;
use super::fetch::Fetch;
use super::regex;
use super::tree::{Node, Span};
use slipway_spec::expand::{Undefined, expand_for_server, has_reference};
use slipway_spec::glob::RubyGlob;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Patterns one clause may have.
pub const MAX_PATTERNS: usize = 50;
/// Path times pattern comparisons after which a clause holds without looking further; GitLab's number.
pub const MAX_COMPARISONS: usize = 50_000;
/// The same for all clauses of a configuration, our own: ten thousand jobs may ask for fifty thousand each.
const MAX_COMPARISONS_OF_ALL: usize = 20_000_000;

/// What a pipeline's commit changed and holds. Implemented over git in `git_tree`, over lists in tests.
pub trait Commit {
    /// The paths changed by the push or merge request, or since the merge base with `compare_to`. `None` when there is
    /// nothing to compare with: a new branch, a tag, a schedule; then `changes` holds.
    ///
    /// # Errors
    /// When `compare_to` names no commit.
    fn changed(&self, compare_to: Option<&str>) -> ChangedPaths;

    /// All files of the commit.
    fn files(&self) -> Arc<Files>;

    /// Asked before so many paths are compared with patterns: whether they may be. False when the jobs of a configuration
    /// have compared too much already; the clause then holds without looking.
    fn may_compare(&self, paths_times_patterns: usize) -> bool {
        paths_times_patterns <= MAX_COMPARISONS
    }
}

/// `compare_to` names no commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no branch, tag or commit")]
pub struct UnknownRef(
    /// The name.
    pub String,
);

/// The files of a commit.
#[derive(Clone, Debug, Default)]
pub struct Files {
    sorted: Vec<String>,
}

impl Files {
    /// From paths relative to the root, in any order.
    #[must_use]
    pub fn new(mut paths: Vec<String>) -> Self {
        paths.sort_unstable();
        Files { sorted: paths }
    }

    /// Whether there is a file of this path.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        self.sorted.binary_search_by(|p| p.as_str().cmp(path)).is_ok()
    }

    /// Whether there is a file below this folder, which ends in `/`.
    #[must_use]
    pub fn contains_folder(&self, folder: &str) -> bool {
        let at = self.sorted.partition_point(|p| p.as_str() < folder);
        self.sorted.get(at).is_some_and(|p| p.starts_with(folder))
    }

    /// All of them, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.sorted.iter().map(String::as_str)
    }
}

/// A commit about which nothing is known: everything may have changed, nothing is known to exist.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCommit;

impl Commit for NoCommit {
    fn changed(&self, _: Option<&str>) -> ChangedPaths {
        Ok(None)
    }

    fn files(&self) -> Arc<Files> {
        Arc::default()
    }
}

/// A commit given as lists.
#[derive(Clone, Debug, Default)]
pub struct ListedCommit {
    /// What [`Commit::changed`] gives.
    pub changed: Option<Arc<[String]>>,
    /// What [`Commit::files`] gives.
    pub files: Arc<Files>,
}

impl Commit for ListedCommit {
    fn changed(&self, _: Option<&str>) -> ChangedPaths {
        Ok(self.changed.clone())
    }

    fn files(&self) -> Arc<Files> {
        Arc::clone(&self.files)
    }
}

/// A commit as a [`Fetch`] tells of it, each question asked once.
pub struct FetchedCommit<'f> {
    fetch: &'f dyn Fetch,
    files: OnceCell<Arc<Files>>,
    changed: RefCell<HashMap<Option<String>, ChangedPaths>>,
    compared: Cell<usize>,
}

/// What [`Commit::changed`] answers.
pub type ChangedPaths = Result<Option<Arc<[String]>>, UnknownRef>;

impl<'f> FetchedCommit<'f> {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(fetch: &'f dyn Fetch) -> Self {
        FetchedCommit { fetch, files: OnceCell::new(), changed: RefCell::default(), compared: Cell::new(0) }
    }
}

impl Commit for FetchedCommit<'_> {
    fn changed(&self, compare_to: Option<&str>) -> ChangedPaths {
        let key = compare_to.map(str::to_string);
        if let Some(known) = self.changed.borrow().get(&key) {
            return known.clone();
        }
        let answer = match self.fetch.changes(compare_to) {
            Ok(paths) => Ok(paths.map(Into::into)),
            Err(_) => Err(UnknownRef(key.clone().unwrap_or_default())),
        };
        self.changed.borrow_mut().insert(key, answer.clone());
        answer
    }

    fn may_compare(&self, paths_times_patterns: usize) -> bool {
        let all = self.compared.get().saturating_add(paths_times_patterns);
        if paths_times_patterns > MAX_COMPARISONS || all > MAX_COMPARISONS_OF_ALL {
            return false;
        }
        self.compared.set(all);
        true
    }

    /// A commit that cannot be looked at has no files.
    fn files(&self) -> Arc<Files> {
        Arc::clone(self.files.get_or_init(|| Arc::new(Files::new(self.fetch.paths(None).unwrap_or_default()))))
    }
}

/// The patterns of a clause.
#[derive(Clone, Debug)]
pub struct Patterns {
    items: Vec<Pattern>,
    regexp: Option<regex::Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// `None` when the text refers to variables.
    glob: Option<RubyGlob>,
}

/// `changes`.
#[derive(Clone, Debug)]
pub struct Changes {
    /// What is looked for.
    pub patterns: Patterns,
    /// The ref whose merge base is compared with.
    pub compare_to: Option<String>,
}

/// `exists`.
#[derive(Clone, Debug)]
pub struct Exists {
    /// What is looked for.
    pub patterns: Patterns,
    /// Looked for in another project, which only a GitLab server can do.
    pub project: Option<String>,
}

/// Whether a clause holds, and why, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether.
    pub holds: bool,
    /// Why.
    pub why: String,
}

impl Finding {
    /// It holds.
    pub(super) fn yes(why: impl Into<String>) -> Self {
        Finding { holds: true, why: why.into() }
    }

    /// It does not.
    pub(super) fn no(why: impl Into<String>) -> Self {
        Finding { holds: false, why: why.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Changes {
    /// Whether the commit changed something that matches.
    ///
    /// # Errors
    /// When `compare_to` names no commit.
    pub fn evaluate(&self, commit: &dyn Commit, scope: &dyn Scope) -> Result<Finding, UnknownRef> {
        let compare_to = self.compare_to.as_deref().map(|r| expanded(r, scope));
        let Some(changed) = commit.changed(compare_to.as_deref())? else {
            return Ok(Finding::yes("changes holds, as there is nothing to compare with"));
        };
        if !commit.may_compare(changed.len().saturating_mul(self.patterns.len())) {
            return Ok(Finding::yes(format!(
                "changes holds, as {} changed files are too many to look at",
                changed.len()
            )));
        }
        Ok(match self.patterns.first_match(changed.iter().map(String::as_str), scope) {
            Some((path, pattern)) => Finding::yes(format!("{path} changed, which matches {pattern}")),
            None => Finding::no(match changed.len() {
                0 => "nothing changed".into(),
                1 => format!("the one changed file does not match {}", self.patterns),
                n => format!("none of {n} changed files matches {}", self.patterns),
            }),
        })
    }
}

impl Exists {
    /// Whether the commit has a file that matches.
    #[must_use]
    pub fn evaluate(&self, commit: &dyn Commit, scope: &dyn Scope) -> Finding {
        if let Some(project) = &self.project {
            return Finding::no(format!("exists looks in the project {project}, which needs a GitLab server"));
        }
        let files = commit.files();
        // Most patterns are paths: no need to compare them with every file.
        for item in &self.patterns.items {
            let text = expanded(&item.text, scope);
            if !RubyGlob::is_literal(&text) {
                continue;
            }
            if files.contains(&text) || text.ends_with('/') && files.contains_folder(&text) {
                return Finding::yes(format!("{text} exists"));
            }
        }
        let globs = self.patterns.items.iter().filter(|p| !RubyGlob::is_literal(&p.text)).count();
        let globs = globs + usize::from(self.patterns.regexp.is_some());
        if !commit.may_compare(files.sorted.len().saturating_mul(globs)) {
            return Finding::yes("exists holds, as there are too many files to look at");
        }
        match self.patterns.first_match(files.iter(), scope) {
            Some((path, pattern)) if path == pattern => Finding::yes(format!("{path} exists")),
            Some((path, pattern)) => Finding::yes(format!("{path} exists, which matches {pattern}")),
            None => Finding::no(format!("no file matches {}", self.patterns)),
        }
    }
}

fn expanded(text: &str, scope: &dyn Scope) -> String {
    expand_for_server(text, Undefined::Keep, |name| scope.variable(name))
}

impl Patterns {
    /// What making its regular expression's program costs.
    pub(super) fn cost(&self) -> u32 {
        self.regexp.as_ref().map_or(0, regex::Pattern::cost)
    }

    fn len(&self) -> usize {
        self.items.len() + usize::from(self.regexp.is_some())
    }

    /// The first path that matches any pattern, and that pattern.
    fn first_match<'p>(&self, paths: impl Iterator<Item = &'p str>, scope: &dyn Scope) -> Option<(&'p str, String)> {
        // Those with variables are made now; one that is no pattern any more matches nothing.
        let made: Vec<Option<(RubyGlob, String)>> = self
            .items
            .iter()
            .map(|item| match &item.glob {
                Some(_) => None,
                None => {
                    let text = expanded(&item.text, scope);
                    RubyGlob::new(&text).ok().map(|glob| (glob, text))
                }
            })
            .collect();
        for path in paths {
            for (item, made) in self.items.iter().zip(&made) {
                let (glob, text) = match (&item.glob, made) {
                    (Some(glob), _) => (glob, &item.text),
                    (None, Some((glob, text))) => (glob, text),
                    (None, None) => continue,
                };
                if glob.matches(path) {
                    return Some((path, text.clone()));
                }
            }
            if let Some(regexp) = self.regexp.as_ref().filter(|r| r.is_match(path)) {
                return Some((path, format!("/{}/", regexp.inside())));
            }
        }
        None
    }
}

/// The patterns, at most three.
impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(regexp) = &self.regexp {
            return write!(f, "/{}/", regexp.inside());
        }
        let texts: Vec<&str> = self.items.iter().take(3).map(|p| p.text.as_str()).collect();
        write!(f, "{}", texts.join(", "))?;
        if self.items.len() > texts.len() {
            write!(f, " and {} more", self.items.len() - texts.len())?;
        }
        Ok(())
    }
}

/// Reads `changes`: a list, or a mapping with `paths` (or `regexp`) and `compare_to`. `path` is that of the rule.
pub fn parse_changes(node: &Node, path: &str, out: &mut Diagnostics) -> Option<Changes> {
    let at = format!("{path}:changes");
    let patterns = parse_patterns(node, &at, &["compare_to"], out)?;
    let compare_to = match node.as_map().and_then(|m| m.present("compare_to")) {
        None => None,
        Some(to) => match to.as_str() {
            Some(to) => Some(to.to_string()),
            None => {
                out.error(to.span, &at, format!("{at} compare to should be a string"))
                    .hint(format!("found {}", to.describe()));
                None
            }
        },
    };
    Some(Changes { patterns, compare_to })
}

/// Reads `exists`: a list, or a mapping with `paths` (or `regexp`), `project`, `ref`.
pub fn parse_exists(node: &Node, path: &str, out: &mut Diagnostics) -> Option<Exists> {
    let at = format!("{path}:exists");
    let patterns = parse_patterns(node, &at, &["project", "ref"], out)?;
    let word = |key: &str| node.as_map().and_then(|m| m.present(key));
    for key in ["project", "ref"] {
        if let Some(value) = word(key).filter(|v| v.as_str().is_none()) {
            out.error(value.span, &at, format!("{at} {key} should be a string"))
                .hint(format!("found {}", value.describe()));
        }
    }
    if let (Some(node), None) = (word("ref"), word("project")) {
        out.error(node.span, &at, format!("{at} project can't be blank"))
            .hint("`ref` is that of another project: name it with `project`");
    }
    let project = word("project").and_then(Node::as_str).map(str::to_string);
    if let (Some(_), Some(node)) = (&project, word("project")) {
        out.warn(node.span, &at, format!("{at} looks in another project, which needs a GitLab server: it never holds"));
    }
    Some(Exists { patterns, project })
}

fn parse_patterns(node: &Node, at: &str, more_keys: &[&str], out: &mut Diagnostics) -> Option<Patterns> {
    let mut regexp = None;
    let (list, at_list) = match node.as_map() {
        None => (Some(node), format!("{at} config")),
        Some(map) => {
            let known = |k: &str| k == "paths" || k == "regexp" || more_keys.contains(&k);
            let unknown: Vec<&str> = map.keys().map(AsRef::as_ref).filter(|k| !known(k)).collect();
            if !unknown.is_empty() {
                out.error(node.span, at, format!("{at} config contains unknown keys: {}", unknown.join(", ")));
            }
            if let Some(pattern) = map.present("regexp") {
                regexp = Some(parse_regexp(pattern, at, out)?);
            }
            match (map.present("paths"), &regexp) {
                (Some(_), Some(_)) => {
                    out.error(node.span, at, format!("{at} config must use exactly one of these keys: paths, regexp"));
                    return None;
                }
                (None, None) => {
                    out.error(node.span, at, format!("{at} config missing required keys: paths"));
                    return None;
                }
                (paths, _) => (paths, format!("{at} paths")),
            }
        }
    };
    let Some(list) = list else { return Some(Patterns { items: Vec::new(), regexp }) };
    let Some(texts) = strings(list) else {
        let what =
            if list.as_seq().is_some() { "should be an array of strings" } else { "should be an array or a hash" };
        let what = if node.as_map().is_some() { "should be an array of strings" } else { what };
        out.error(list.span, at, format!("{at_list} {what}"))
            .hint(format!("found {}; write for example [\"src/**/*\"]", list.describe()));
        return None;
    };
    if texts.len() > MAX_PATTERNS {
        out.error(list.span, at, format!("{at_list} has too many entries (maximum {MAX_PATTERNS})"));
        return None;
    }
    let mut items = Vec::with_capacity(texts.len());
    for (text, span) in texts {
        let glob = match has_reference(text) {
            true => None,
            false => match RubyGlob::new(text) {
                Ok(glob) => Some(glob),
                Err(e) => {
                    out.error(span, at, format!("{at_list} holds a bad pattern: {e}"));
                    return None;
                }
            },
        };
        items.push(Pattern { text: text.into(), glob });
    }
    Some(Patterns { items, regexp })
}

fn parse_regexp(node: &Node, at: &str, out: &mut Diagnostics) -> Option<regex::Pattern> {
    let problem = match node.as_str() {
        None => format!("should be a string, found {}", node.describe()),
        Some(text) if text.chars().count() > 255 => "is too long (maximum is 255 characters)".into(),
        Some(text) => match regex::Pattern::new(text, "") {
            Ok(pattern) => return Some(pattern),
            Err(e) => format!("must be a regular expression with re2 syntax ({e})"),
        },
    };
    out.error(node.span, at, format!("{at} regexp {problem}"));
    None
}

/// The texts of a list of texts, with their places.
pub(super) fn strings(node: &Node) -> Option<Vec<(&str, Span)>> {
    node.as_seq()?.iter().map(|i| i.as_str().map(|t| (t, i.span))).collect()
}
