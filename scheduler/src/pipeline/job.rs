//! A job's mapping, checked before, becomes typed settings.

use super::plan::{AllowFailure, Retry, Trigger};
use super::tree::{Map, Node, Value};
use super::variables;
use serde_json::{Value as Json, json};
use slipway_spec::duration;
use slipway_spec::job::{
    ArtifactFormat, ArtifactSpec, CacheSpec, Environment, EnvironmentAction, Hook, Image, PullPolicy, Service, Step,
    When,
};

/// The commands of a script, lists in lists flattened.
#[must_use]
pub fn lines(node: Option<&Node>) -> Vec<String> {
    match node.map(|n| &n.value) {
        Some(Value::Str { text, .. }) if text.trim().is_empty() => Vec::new(),
        Some(Value::Str { text, .. }) => vec![text.to_string()],
        Some(Value::Seq(items)) => items.iter().flat_map(|i| lines(Some(i))).collect(),
        _ => Vec::new(),
    }
}

/// What runs: `before_script` and `script` in one shell, `after_script` in another.
#[must_use]
pub fn steps(job: &Map) -> Vec<Step> {
    let mut script = lines(job.get("before_script"));
    script.extend(lines(job.get("script")));
    let mut steps = Vec::new();
    if !script.is_empty() {
        steps.push(Step { name: "script".into(), script, when: When::OnSuccess, allow_failure: false });
    }
    let after = lines(job.get("after_script"));
    if !after.is_empty() {
        let name = Step::AFTER_SCRIPT.to_string();
        steps.push(Step { name, script: after, when: When::Always, allow_failure: true });
    }
    steps
}

/// `hooks`.
#[must_use]
pub fn hooks(job: &Map) -> Vec<Hook> {
    let script = lines(job.get("hooks").and_then(|h| h.get("pre_get_sources_script")));
    if script.is_empty() { Vec::new() } else { vec![Hook { name: "pre_get_sources_script".into(), script }] }
}

/// `image`.
#[must_use]
pub fn image(node: Option<&Node>) -> Option<Image> {
    let node = node.filter(|n| !n.is_null())?;
    Some(match node.as_map() {
        Some(map) => image_of(map),
        None => Image { name: text(Some(node)), ..Image::default() },
    })
}

fn image_of(map: &Map) -> Image {
    let docker = map.get("docker");
    Image {
        name: text(map.get("name")),
        entrypoint: map.present("entrypoint").map(strings),
        pull_policy: one_or_many(map.get("pull_policy")).iter().filter_map(|p| policy(p)).collect(),
        user: docker.and_then(|d| d.get("user")).and_then(Node::as_str).map(String::from),
        platform: docker.and_then(|d| d.get("platform")).and_then(Node::as_str).map(String::from),
    }
}

fn policy(word: &str) -> Option<PullPolicy> {
    match word {
        "always" => Some(PullPolicy::Always),
        "if-not-present" => Some(PullPolicy::IfNotPresent),
        "never" => Some(PullPolicy::Never),
        _ => None,
    }
}

/// `services`.
#[must_use]
pub fn services(node: Option<&Node>) -> Vec<Service> {
    let Some(items) = node.and_then(Node::as_seq) else { return Vec::new() };
    flat(items)
        .into_iter()
        .map(|item| match item.as_map() {
            None => Service { image: Image { name: text(Some(item)), ..Image::default() }, ..Service::default() },
            Some(map) => Service {
                image: image_of(map),
                command: map.present("command").map(strings),
                aliases: text(map.get("alias"))
                    .split(|c: char| c == ',' || c.is_whitespace())
                    .filter(|a| !a.is_empty())
                    .map(String::from)
                    .collect(),
                variables: variables::of_map(map.get("variables")),
            },
        })
        .collect()
}

/// `artifacts`: the archive, and one more for each report that is kept.
#[must_use]
pub fn artifacts(node: Option<&Node>) -> Vec<ArtifactSpec> {
    let Some(map) = node.and_then(Node::as_map) else { return Vec::new() };
    let mut out = Vec::new();
    let name = map.get("name").and_then(Node::as_str).map(String::from);
    let expire_in = map.get("expire_in").and_then(Node::as_str).map(String::from);
    let paths = map.get("paths").map(strings).unwrap_or_default();
    let untracked = map.get("untracked").and_then(Node::as_bool).unwrap_or(false);
    if !paths.is_empty() || untracked {
        out.push(ArtifactSpec {
            name: name.clone(),
            paths,
            exclude: map.get("exclude").map(strings).unwrap_or_default(),
            untracked,
            when: when(map.get("when")),
            expire_in: expire_in.clone(),
            kind: "archive".into(),
            format: ArtifactFormat::Zip,
        });
    }
    let reports = map.get("reports").and_then(Node::as_map);
    for kind in ["dotenv", "junit"] {
        let paths = reports.map(|r| one_or_many(r.get(kind))).unwrap_or_default();
        if !paths.is_empty() {
            out.push(ArtifactSpec {
                name: name.clone(),
                paths,
                // Reports are kept whatever became of the script.
                when: When::Always,
                expire_in: expire_in.clone(),
                kind: kind.into(),
                format: ArtifactFormat::Gzip,
                ..ArtifactSpec::default()
            });
        }
    }
    let coverage = reports.and_then(|r| r.get("coverage_report")).and_then(Node::as_map);
    if let Some(report) = coverage {
        out.push(ArtifactSpec {
            name,
            paths: vec![text(report.get("path"))],
            when: When::Always,
            expire_in,
            kind: text(report.get("coverage_format")),
            format: ArtifactFormat::Gzip,
            ..ArtifactSpec::default()
        });
    }
    out
}

/// `cache`: one, or several.
#[must_use]
pub fn caches(node: Option<&Node>) -> Vec<CacheSpec> {
    let Some(node) = node else { return Vec::new() };
    let one = std::slice::from_ref(node);
    flat(node.as_seq().unwrap_or(one)).into_iter().filter_map(|n| n.as_map()).map(cache).collect()
}

fn cache(map: &Map) -> CacheSpec {
    let key = map.get("key");
    let files = key.and_then(|k| k.get("files").or_else(|| k.get("files_commits")));
    CacheSpec {
        key: key.and_then(Node::as_text).filter(|k| !k.is_empty()).unwrap_or("default").to_string(),
        fallback_keys: map.get("fallback_keys").map(strings).unwrap_or_default(),
        paths: map.get("paths").map(strings).unwrap_or_default(),
        untracked: map.get("untracked").and_then(Node::as_bool).unwrap_or(false),
        policy: map.get("policy").and_then(Node::as_str).unwrap_or("pull-push").to_string(),
        when: when(map.get("when")),
        key_files: files.map(strings).unwrap_or_default(),
        key_prefix: key.and_then(|k| k.get("prefix")).and_then(Node::as_text).map(String::from),
    }
}

fn when(node: Option<&Node>) -> When {
    match node.and_then(Node::as_str) {
        Some("on_failure") => When::OnFailure,
        Some("always") => When::Always,
        _ => When::OnSuccess,
    }
}

/// `retry`.
#[must_use]
pub fn retry(node: Option<&Node>) -> Retry {
    let max = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let Some(node) = node else { return Retry::default() };
    match node.as_map() {
        None => Retry { max: max(node.as_int()), ..Retry::default() },
        Some(map) => Retry {
            max: max(map.get("max").and_then(Node::as_int)),
            when: one_or_many(map.get("when")),
            exit_codes: integers(map.get("exit_codes")),
        },
    }
}

/// The job's own `allow_failure`; `None` when it says nothing.
#[must_use]
pub fn allow_failure(node: Option<&Node>) -> Option<AllowFailure> {
    let node = node.filter(|n| !n.is_null())?;
    Some(match node.as_bool() {
        Some(true) => AllowFailure::Yes,
        Some(false) => AllowFailure::No,
        None => AllowFailure::ExitCodes(integers(node.get("exit_codes"))),
    })
}

/// `environment`, its name not yet expanded.
#[must_use]
pub fn environment(node: Option<&Node>) -> Option<Environment> {
    let node = node.filter(|n| !n.is_null())?;
    let Some(map) = node.as_map() else {
        return Some(Environment { name: text(Some(node)), url: None, action: EnvironmentAction::Start });
    };
    Some(Environment {
        name: text(map.get("name")),
        url: map.get("url").and_then(Node::as_str).map(String::from),
        action: match map.get("action").and_then(Node::as_str) {
            Some("stop") => EnvironmentAction::Stop,
            Some("prepare") => EnvironmentAction::Prepare,
            Some("verify") => EnvironmentAction::Verify,
            Some("access") => EnvironmentAction::Access,
            _ => EnvironmentAction::Start,
        },
    })
}

/// Seconds of a duration.
#[must_use]
pub fn seconds(node: Option<&Node>) -> Option<u64> {
    node.and_then(Node::as_str).and_then(|t| duration::parse(t).ok()).map(|d| d.as_secs().max(1))
}

/// `coverage`: the pattern between its slashes, its flags in front.
#[must_use]
pub fn coverage(node: Option<&Node>) -> Option<String> {
    let (inside, flags) = super::regex::slashed(node.and_then(Node::as_str)?)?;
    Some(if flags.is_empty() { inside } else { format!("(?{flags}){inside}") })
}

/// `trigger`, names not yet expanded.
#[must_use]
pub fn trigger(node: Option<&Node>) -> Option<Trigger> {
    let node = node.filter(|n| !n.is_null())?;
    let mut trigger = Trigger { forward_yaml_variables: true, ..Trigger::default() };
    let Some(map) = node.as_map() else {
        trigger.project = Some(text(Some(node)));
        return Some(trigger);
    };
    trigger.project = map.get("project").and_then(Node::as_str).map(String::from);
    trigger.branch = map.get("branch").and_then(Node::as_str).map(String::from);
    trigger.depend = map.present("strategy").is_some();
    let forward = |key: &str| map.get("forward").and_then(|f| f.get(key)).and_then(Node::as_bool);
    trigger.forward_yaml_variables = forward("yaml_variables").unwrap_or(true);
    trigger.forward_pipeline_variables = forward("pipeline_variables").unwrap_or(false);
    let inputs = map.get("inputs").and_then(Node::as_map);
    trigger.inputs =
        inputs.map(|m| m.iter().map(|(k, e)| (k.to_string(), e.value.to_json())).collect()).unwrap_or_default();
    let Some(include) = map.get("include").filter(|i| !i.is_null()) else { return Some(trigger) };
    let one = std::slice::from_ref(include);
    let mut items = Vec::new();
    for item in flat(include.as_seq().unwrap_or(one)) {
        if let (Some(path), Some(job)) = (item.get("artifact"), item.get("job")) {
            trigger.artifact = Some((text(Some(job)), text(Some(path))));
            continue;
        }
        let mut item = match item.as_str() {
            Some(path) if path.starts_with("http://") || path.starts_with("https://") => json!({ "remote": path }),
            Some(path) => json!({ "local": path }),
            None => item.to_json(),
        };
        if let Some(path) = item.get("local").and_then(Json::as_str) {
            trigger.local_files.push(path.trim_start_matches('/').to_string());
        }
        if !trigger.inputs.is_empty() && item.get("inputs").is_none() {
            item["inputs"] = trigger.inputs.iter().cloned().collect::<serde_json::Map<_, _>>().into();
        }
        items.push(item);
    }
    // JSON is YAML: the child's configuration is nothing but an `include` of what was named.
    if !items.is_empty() {
        trigger.configuration = Some(json!({ "include": items }).to_string());
    }
    Some(trigger)
}

/// `tags`, lists in lists flattened, not yet expanded.
#[must_use]
pub fn tags(node: Option<&Node>) -> Vec<String> {
    lines(node)
}

fn text(node: Option<&Node>) -> String {
    node.and_then(Node::as_text).unwrap_or_default().to_string()
}

fn strings(node: &Node) -> Vec<String> {
    lines_kept(node)
}

/// All texts of a list, empty ones too (`entrypoint: [""]` means something).
fn lines_kept(node: &Node) -> Vec<String> {
    match &node.value {
        Value::Seq(items) => items.iter().flat_map(lines_kept).collect(),
        _ => node.as_text().map(String::from).into_iter().collect(),
    }
}

fn one_or_many(node: Option<&Node>) -> Vec<String> {
    node.map(strings).unwrap_or_default()
}

fn integers(node: Option<&Node>) -> Vec<i32> {
    let of = |n: &Node| n.as_int().and_then(|i| i32::try_from(i).ok());
    match node {
        None => Vec::new(),
        Some(node) => match node.as_seq() {
            Some(items) => items.iter().filter_map(of).collect(),
            None => of(node).into_iter().collect(),
        },
    }
}

/// The items of a list, lists in it flattened: references leave such.
fn flat(items: &[Node]) -> Vec<&Node> {
    items
        .iter()
        .flat_map(|i| match i.as_seq() {
            Some(inner) => flat(inner),
            None => vec![i],
        })
        .collect()
}
