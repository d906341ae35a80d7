//! Drafts and an event become planned jobs: rules decide, needs are resolved, fields expanded.

use super::draft::{Copy, Draft};
use crate::pipeline::changes::Commit;
use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::job;
use crate::pipeline::load::{Reported, TOO_BIG};
use crate::pipeline::needs::{self, GraphJob};
use crate::pipeline::plan::{Excluded, PlannedJob};
use crate::pipeline::rules::{self, Admitted, Event, Facts, RuleWhen, Selection, Verdict};
use crate::pipeline::tree::Node;
use crate::pipeline::variables::{self, Given, JobScope};
use slipway_spec::expand::has_reference;
use slipway_spec::variable::Variable;

/// Bytes of text all planned jobs may hold together: ten thousand jobs that each inherit a long script must not take all
/// memory.
const MAX_PLAN_BYTES: usize = 96 * 1024 * 1024;

/// What is the same for all jobs.
pub(super) struct World<'a> {
    pub(super) event: &'a Event,
    pub(super) commit: &'a dyn Commit,
    pub(super) given: &'a Given,
    pub(super) root_variables: &'a [Variable],
    pub(super) has_workflow_rules: bool,
}

/// A job that is in, before its needs are known.
struct Admission<'a> {
    copy: &'a Copy,
    draft: &'a Draft,
    admitted: Admitted,
    root: Vec<Variable>,
    own: Vec<Variable>,
    rule: Vec<Variable>,
}

/// The jobs that are in, by stage and then as written; and those that are not, with why.
pub(super) fn jobs(
    drafts: &[Draft],
    copies: &[Copy],
    world: &World<'_>,
    out: &mut Diagnostics,
) -> Result<(Vec<PlannedJob>, Vec<Excluded>), Reported> {
    let mut admissions = Vec::new();
    let mut excluded = Vec::new();
    for copy in copies {
        let draft = &drafts[copy.draft];
        match decide(draft, copy, world) {
            Ok(Ok(admission)) => admissions.push(admission),
            Ok(Err(why)) => excluded.push(Excluded { name: copy.instance.name.clone(), why }),
            Err(error) => {
                let text = format!("Failed to parse rule for {}: {error}", draft.name);
                out.error(error.span, format!("jobs:{}:rules", draft.name), text);
                return Err(Reported);
            }
        }
    }
    admissions.sort_by_key(|a| a.draft.stage_index);
    let graph: Vec<GraphJob<'_>> = admissions
        .iter()
        .map(|a| a.draft.graph_job(a.copy, a.admitted.needs.as_deref().or(a.draft.needs.as_deref())))
        .collect();
    let resolved = needs::resolve(&graph, out);
    if out.has_errors() {
        return Err(Reported);
    }
    let mut planned = Vec::with_capacity(admissions.len());
    let mut bytes = 0;
    for (admission, resolved) in admissions.iter().zip(resolved) {
        let mut job = build(admission, world, out)?;
        job.needs = resolved.needs;
        job.artifacts_from = resolved.artifacts_from;
        bytes += weight(&job);
        if bytes > MAX_PLAN_BYTES {
            let hint = format!("its jobs have more than {} MiB of scripts and variables", MAX_PLAN_BYTES >> 20);
            out.error(admission.draft.span, "jobs", TOO_BIG).hint(hint);
            return Err(Reported);
        }
        planned.push(job);
    }
    Ok((planned, excluded))
}

/// In, or out and why.
fn decide<'a>(
    draft: &'a Draft,
    copy: &'a Copy,
    world: &World<'_>,
) -> Result<Result<Admission<'a>, String>, rules::RuleError> {
    let root = variables::inherited(world.root_variables, &draft.map);
    let own = own_variables(draft, copy);
    let scope =
        JobScope { given: world.given, layers: [&root, &own, &[]], job: Some((&copy.instance.name, &draft.stage)) };
    let selection = Selection {
        rules: draft.rules.as_ref().map(|r| r.as_slice()),
        only: draft.only.as_ref(),
        except: draft.except.as_ref(),
        when: draft.map.get("when").and_then(Node::as_str).and_then(RuleWhen::from_word),
        start_in: job::seconds(draft.map.get("start_in")),
        allow_failure: job::allow_failure(draft.map.get("allow_failure")),
        has_workflow_rules: world.has_workflow_rules,
    };
    let facts = Facts { scope: &scope, commit: world.commit, event: world.event };
    Ok(match rules::decide(&selection, facts)? {
        Verdict::Out(why) => Err(why),
        Verdict::In(admitted) => {
            let rule = admitted.variables.iter().map(|(k, v)| Variable::public(k, v)).collect();
            Ok(Admission { copy, draft, admitted, root, own, rule })
        }
    })
}

/// The job's own variables: its place among its copies, `variables`, the matrix's values.
fn own_variables(draft: &Draft, copy: &Copy) -> Vec<Variable> {
    let instance = &copy.instance;
    let mut own = Vec::new();
    if instance.index > 0 {
        own.push(Variable::public("CI_NODE_INDEX", instance.index.to_string()));
    }
    own.push(Variable::public("CI_NODE_TOTAL", instance.total.to_string()));
    own.extend(variables::of_map(draft.map.get("variables")));
    own.extend(instance.variables.iter().map(|(k, v)| Variable::public(k, v)));
    own
}

fn build(admission: &Admission<'_>, world: &World<'_>, out: &mut Diagnostics) -> Result<PlannedJob, Reported> {
    let Admission { copy, draft, admitted, root, own, rule } = admission;
    let map = &draft.map;
    let scope =
        JobScope { given: world.given, layers: [root, own, rule], job: Some((&copy.instance.name, &draft.stage)) };
    // Root variables alone were looked at once for all jobs.
    if own.iter().chain(rule).any(|v| !v.raw && has_reference(&v.value))
        && let Err(error) = scope.expanded()
    {
        let span = map.entry("variables").map_or(draft.span, |e| e.key_span);
        out.error(span, format!("jobs:{}:variables", draft.name), format!("{}: {error}", draft.name));
        return Err(Reported);
    }
    let is_trigger = map.present("trigger").is_some();
    let present = |key: &str| map.present(key).filter(|_| !is_trigger);
    let environment = map.present("environment");
    let expanded = |node: Option<&Node>| {
        node.and_then(Node::as_str).map(|t| scope.expand(t).trim().to_string()).filter(|t| !t.is_empty())
    };
    let auto_stop = expanded(environment.and_then(|e| e.get("auto_stop_in")));
    let mut variables = root.clone();
    variables.extend_from_slice(own);
    variables.extend_from_slice(rule);
    Ok(PlannedJob {
        name: copy.instance.name.clone(),
        stage: draft.stage.clone(),
        when: admitted.when,
        allow_failure: admitted.allow_failure.clone(),
        needs: None,
        artifacts_from: Vec::new(),
        image: job::image(present("image")),
        services: job::services(present("services")),
        steps: if is_trigger { Vec::new() } else { job::steps(map) },
        hooks: if is_trigger { Vec::new() } else { job::hooks(map) },
        variables,
        tags: job::tags(present("tags")).iter().map(|t| scope.expand(t)).filter(|t| !t.is_empty()).collect(),
        timeout_seconds: job::seconds(present("timeout")),
        retry: job::retry(present("retry")),
        artifacts: job::artifacts(present("artifacts")),
        caches: job::caches(present("cache")),
        environment: job::environment(environment).map(|mut e| {
            e.name = scope.expand(&e.name);
            e
        }),
        on_stop: expanded(environment.and_then(|e| e.get("on_stop"))),
        auto_stop_seconds: auto_stop.and_then(|t| slipway_spec::duration::parse(&t).ok()).map(|d| d.as_secs()),
        resource_group: expanded(map.present("resource_group")),
        interruptible: admitted
            .interruptible
            .or_else(|| map.get("interruptible").and_then(Node::as_bool))
            .unwrap_or(false),
        coverage: job::coverage(map.get("coverage")),
        trigger: job::trigger(map.get("trigger")).map(|mut t| {
            t.project = t.project.map(|p| scope.expand(&p));
            t.branch = t.branch.map(|b| scope.expand(&b));
            t
        }),
        why: admitted.why.clone(),
    })
}

/// About how many bytes of text a job holds.
fn weight(job: &PlannedJob) -> usize {
    let lines = job.steps.iter().flat_map(|s| &s.script).map(|l| l.len() + 24).sum::<usize>();
    let variables = job.variables.iter().map(|v| v.key.len() + v.value.len() + 64).sum::<usize>();
    let services: usize = job.services.iter().map(|s| s.image.name.len() + 200 + 100 * s.variables.len()).sum();
    let artifacts: usize = job.artifacts.iter().flat_map(|a| &a.paths).map(|p| p.len() + 24).sum();
    lines + variables + services + artifacts + job.artifacts_from.iter().map(|n| n.len() + 24).sum::<usize>() + 1024
}
