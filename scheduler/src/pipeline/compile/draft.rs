//! Jobs as written, defaults applied, `parallel` expanded, before any rule has decided.

use crate::pipeline::default::Defaults;
use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::load::Reported;
use crate::pipeline::matrix::{self, Instance, Parallel};
use crate::pipeline::needs::{self, GraphJob, NeedSpec};
use crate::pipeline::regex::MAX_COST;
use crate::pipeline::rules::{self, Filter, Rule, RuleKind, RuleWhen};
use crate::pipeline::suggest;
use crate::pipeline::tree::{Map, Node, Span, Value};
use crate::pipeline::validate;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

/// Rules that are decided for all jobs together: about a second.
const MAX_DECISIONS: usize = 1_000_000;

/// One job as written.
pub(super) struct Draft {
    pub(super) name: Arc<str>,
    pub(super) span: Span,
    /// Its mapping with what `default` gives.
    pub(super) map: Map,
    pub(super) stage: String,
    pub(super) stage_index: usize,
    pub(super) rules: Option<Rc<Vec<Rule>>>,
    pub(super) only: Option<Filter>,
    pub(super) except: Option<Filter>,
    pub(super) needs: Option<Vec<NeedSpec>>,
    pub(super) dependencies: Option<Vec<(String, Span)>>,
    pub(super) parallel: Option<Parallel>,
}

/// One job after `parallel`: the draft's place, and how it differs.
pub(super) struct Copy {
    pub(super) draft: usize,
    pub(super) instance: Instance,
}

impl Draft {
    /// How many jobs it becomes.
    pub(super) fn size(&self) -> usize {
        match &self.parallel {
            None => 1,
            Some(Parallel::Count(n)) => *n as usize,
            Some(Parallel::Matrix(rows)) => rows
                .iter()
                .map(|r| r.keys.iter().fold(1usize, |n, (_, values)| n.saturating_mul(values.len())))
                .fold(0, usize::saturating_add),
        }
    }

    pub(super) fn graph_job<'a>(&'a self, copy: &'a Copy, needs: Option<&'a [NeedSpec]>) -> GraphJob<'a> {
        GraphJob {
            name: &copy.instance.name,
            group: &self.name,
            span: self.span,
            stage: self.stage_index,
            needs,
            rule_needs: self.rules.iter().flat_map(|r| r.iter()).filter_map(|r| r.needs.as_deref()).collect(),
            dependencies: self.dependencies.as_deref(),
            matrix: &copy.instance.variables,
            has_artifacts: self.map.present("artifacts").is_some(),
        }
    }
}

/// The visible jobs of a configuration that was checked. What is wrong with one is said, and the others are still
/// looked at: a job of a stage that does not exist comes after all others.
pub(super) fn of_configuration(
    root: &Map,
    defaults: &Defaults,
    stages: &[String],
    out: &mut Diagnostics,
) -> Vec<Draft> {
    let mut drafts = Vec::new();
    // Inherited rules are one list in memory: it is read once.
    let mut read: HashMap<*const Vec<Node>, Rc<Vec<Rule>>> = HashMap::new();
    let has_workflow_rules = validate::has_rules(root);
    // What making the programs of all patterns costs.
    let mut cost = 0u32;
    for (name, entry) in validate::visible_jobs(root) {
        let Some(map) = entry.value.as_map() else { continue };
        let map = defaults.apply(map);
        let path = format!("jobs:{name}");
        let is_trigger = map.present("trigger").is_some();
        let stage = map.get("stage").and_then(Node::as_str).unwrap_or("test").to_string();
        let stage_index = stages.iter().position(|s| *s == stage).unwrap_or(stages.len());
        if stage_index == stages.len() {
            let span = map.get("stage").map_or(entry.key_span, |n| n.span);
            let text =
                format!("{name} job: chosen stage {stage} does not exist; available stages are {}", stages.join(", "));
            let hint = suggest::among(&stage, stages.iter().map(String::as_str));
            out.error(span, format!("{path}:stage"), text).hint = hint;
        }
        let rules = map.present("rules").and_then(|node| {
            let key = if let Value::Seq(items) = &node.value { Arc::as_ptr(items) } else { std::ptr::null() };
            if let Some(rules) = read.get(&key) {
                return Some(rules.clone());
            }
            let rules = Rc::new(rules::parse_rules(node, &path, RuleKind::Job, out)?);
            cost = rules.iter().map(rules::Rule::cost).fold(cost, u32::saturating_add);
            read.insert(key, rules.clone());
            Some(rules)
        });
        if let Some(last) = rules.as_ref().and_then(|r| r.last())
            && !has_workflow_rules
            && last.condition.is_none()
            && last.changes.is_none()
            && last.exists.is_none()
            && last.when.is_some_and(|w| w != RuleWhen::Never)
        {
            let text = format!(
                "{path} may allow multiple pipelines to run for a single action due to `rules:when` clause with no `workflow:rules`"
            );
            out.warn(last.span, format!("{path}:rules"), text)
                .hint("a push to a branch with a merge request makes two pipelines; see `workflow:rules`");
        }
        let filter = |key: &str, out: &mut Diagnostics| {
            let node = map.present(key)?;
            rules::parse_filter(node, &format!("{path}:{key}"), out)
        };
        let only = filter("only", out);
        let except = filter("except", out);
        cost = only.iter().chain(&except).map(Filter::cost).fold(cost, u32::saturating_add);
        if cost > MAX_COST {
            let text = "the configuration has too many regular expressions, or too big ones";
            out.error(entry.key_span, format!("{path}:rules"), text).hint("share rules with `extends` or `!reference`");
            break;
        }
        let needs = map.present("needs").and_then(|n| needs::parse_needs(n, &path, is_trigger, out));
        let dependencies =
            map.present("dependencies").and_then(|n| needs::parse_dependencies(n, &path, needs.as_deref(), out));
        let parallel = map.present("parallel").and_then(|n| matrix::parse(n, &path, is_trigger, out));
        drafts.push(Draft {
            name: name.clone(),
            span: entry.key_span,
            stage,
            stage_index,
            rules,
            only,
            except,
            needs,
            dependencies,
            parallel,
            map,
        });
    }
    on_stop(&drafts, out);
    drafts
}

/// The job that stops an environment must be there, for the same environment, and stop it.
fn on_stop(drafts: &[Draft], out: &mut Diagnostics) {
    let named: HashMap<&str, &Draft> = drafts.iter().map(|d| (&*d.name, d)).collect();
    let name_of = |node: &Node| -> Option<String> {
        node.as_str().or_else(|| node.get("name").and_then(Node::as_str)).map(String::from)
    };
    for draft in drafts {
        let Some(environment) = draft.map.present("environment") else { continue };
        let Some(node) = environment.get("on_stop").filter(|n| !n.is_null()) else { continue };
        let stop = node.as_str().unwrap_or_default();
        let problem = match named.get(stop) {
            None => Some("is not defined"),
            Some(job) => match job.map.present("environment") {
                None => Some("does not have environment defined"),
                Some(other) if name_of(other) != name_of(environment) => Some("have different environment name"),
                Some(other) if other.get("action").and_then(Node::as_str) != Some("stop") => {
                    Some("needs to have action stop defined")
                }
                Some(_) => None,
            },
        };
        if let Some(problem) = problem {
            let text = format!("{} job: on_stop job {stop} {problem}", draft.name);
            let hint = suggest::among(stop, drafts.iter().map(|d| &*d.name));
            out.error(node.span, format!("jobs:{}:environment:on_stop", draft.name), text).hint = hint;
        }
    }
}

/// Every draft as often as `parallel` says.
pub(super) fn instances(drafts: &[Draft], out: &mut Diagnostics) -> Result<Vec<Copy>, Reported> {
    super::too_many(drafts, out)?;
    let mut all = Vec::new();
    let mut names: HashSet<String> = HashSet::new();
    let rules = drafts.iter().map(|d| d.size().saturating_mul(d.rules.as_ref().map_or(0, |r| r.len()))).sum::<usize>();
    if rules > MAX_DECISIONS {
        let text = format!("the jobs have {rules} rules altogether, at most {MAX_DECISIONS} are decided");
        out.error(Span::default(), "jobs", text);
        return Err(Reported);
    }
    for (at, draft) in drafts.iter().enumerate() {
        let expanded = match &draft.parallel {
            None => Ok(vec![Instance { name: draft.name.to_string(), variables: Vec::new(), index: 0, total: 1 }]),
            Some(parallel) => parallel.expand(&draft.name),
        };
        match expanded {
            Ok(instances) => {
                for instance in instances {
                    if !names.insert(instance.name.clone()) {
                        let text = format!("{} job: another job has the name `{}`", draft.name, instance.name);
                        out.error(draft.span, format!("jobs:{}", draft.name), text);
                    }
                    all.push(Copy { draft: at, instance });
                }
            }
            Err(why) => {
                out.error(draft.span, format!("jobs:{}:parallel", draft.name), format!("{} job: {why}", draft.name));
            }
        }
    }
    Ok(all)
}

/// Looks at the jobs as a graph.
pub(super) fn check(drafts: &[Draft], copies: &[Copy], out: &mut Diagnostics) -> Result<(), Reported> {
    let jobs: Vec<GraphJob<'_>> = copies
        .iter()
        .map(|copy| {
            let draft = &drafts[copy.draft];
            draft.graph_job(copy, draft.needs.as_deref())
        })
        .collect();
    needs::check(&jobs, out);
    for draft in drafts {
        let Some(items) = draft.map.get("trigger").and_then(|t| t.get("include")) else { continue };
        let one = std::slice::from_ref(items);
        for item in items.as_seq().unwrap_or(one) {
            let Some(node) = item.get("job").filter(|_| item.get("artifact").is_some()) else { continue };
            let wanted = node.as_str().unwrap_or_default();
            let maker = drafts.iter().find(|d| &*d.name == wanted);
            let needed = draft.needs.iter().flatten().any(|n| matches!(n, NeedSpec::Job { job, .. } if job == wanted));
            if !maker.is_some_and(|m| m.stage_index < draft.stage_index || needed) {
                let text = format!(
                    "{} job: trigger:include:artifact job {wanted} is not defined in prior stages or in needs",
                    draft.name
                );
                let hint = suggest::among(wanted, drafts.iter().map(|d| &*d.name));
                out.error(node.span, format!("jobs:{}:trigger", draft.name), text).hint = hint;
            }
        }
    }
    if out.has_errors() { Err(Reported) } else { Ok(()) }
}
