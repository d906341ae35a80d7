//! `spec:inputs`: values for the declared inputs, and `$[[ … ]]` filled in as text before the content is parsed.

use super::diagnostic::{Diagnostics, Sources};
use super::expression::{Expression, Scope, Value as Operand};
use super::load::Reported;
use super::suggest;
use super::tree::{Map, Node, Span};
use serde_json::Value as Json;
use slipway_spec::expand::{Undefined, expand_for_server};
use slipway_spec::slug::posix_escape;

/// Blocks of one file; GitLab's limit.
const MAX_BLOCKS: usize = 10_000;
/// Functions of one block; GitLab's limit.
const MAX_FUNCTIONS: usize = 3;
/// Bytes of a content after interpolation.
const MAX_TEXT: usize = super::load::MAX_FILE_BYTES;

/// The values somebody gave, and where.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Name and value.
    pub values: Vec<(String, Json)>,
    /// Where they were written.
    pub span: Span,
}

/// What `$[[ component.… ]]` means in a file.
pub(super) struct Component<'a> {
    /// The header's `spec`.
    pub(super) spec: &'a Map,
    /// The address the file was fetched from.
    pub(super) address: &'a str,
}

/// Looks a variable up: its value, and whether it is masked.
pub type Lookup<'a> = dyn Fn(&str) -> Option<(&'a str, bool)> + 'a;

/// The value of every declared input: the given one, or its default, checked.
///
/// # Errors
/// [`Reported`]: one is missing, of the wrong type, not among the options, or not declared.
pub fn resolve(
    declared: &Map,
    given: &Given,
    at: Span,
    diagnostics: &mut Diagnostics,
) -> Result<Vec<(String, Json)>, Reported> {
    let mut out: Vec<(String, Json)> = Vec::new();
    let mut failed = false;
    let unknown: Vec<&str> = given.values.iter().map(|(k, _)| k.as_str()).filter(|k| !declared.contains(k)).collect();
    if let Some(first) = unknown.first() {
        let error = diagnostics.error(given.span, "inputs", format!("unknown input arguments: {}", unknown.join(", ")));
        error.hint = suggest::among(first, declared.keys().map(|k| &**k));
        failed = true;
    }
    for (name, entry) in declared.iter() {
        let provided = given.values.iter().rev().find(|(k, _)| k.as_str() == &**name).map(|(_, v)| v);
        let from_rules = entry.value.get("rules").and_then(Node::as_seq).map(|rules| by_rules(rules, &out));
        let default = match &from_rules {
            Some(rule) => rule.and_then(|r| r.get("default")),
            None => entry.value.get("default"),
        };
        let options = match &from_rules {
            Some(rule) => rule.and_then(|r| r.get("options")),
            None => entry.value.get("options"),
        };
        let (value, word, span) = match (provided, default) {
            (Some(value), _) => (value.clone(), "provided", given.span),
            (None, Some(node)) => (node.to_json(), "default", node.span),
            (None, None) => {
                let span = if at.line > 0 { at } else { entry.key_span };
                diagnostics
                    .error(
                        span,
                        format!("inputs:{name}"),
                        format!("`{name}` input: required value has not been provided"),
                    )
                    .hint("give it under `inputs:`, or give it a `default` in the header");
                failed = true;
                continue;
            }
        };
        if let Err(text) = check(&entry.value, options, &value, word) {
            diagnostics.error(span, format!("inputs:{name}"), format!("`{name}` input: {text}"));
            failed = true;
        }
        out.push((name.to_string(), value));
    }
    if failed { Err(Reported) } else { Ok(out) }
}

/// The first rule whose `if` holds; it sees the inputs declared before it.
fn by_rules<'r>(rules: &'r [Node], values: &[(String, Json)]) -> Option<&'r Node> {
    rules.iter().find(|rule| match rule.get("if").and_then(Node::as_str) {
        None => true,
        Some(text) => Expression::parse(text).is_ok_and(|e| e.is_true(&Inputs(values))),
    })
}

/// The inputs as an expression sees them.
struct Inputs<'a>(&'a [(String, Json)]);

impl Scope for Inputs<'_> {
    fn variable(&self, _: &str) -> Option<&str> {
        None
    }

    fn input(&self, name: &str) -> Option<Operand<'_>> {
        let (_, value) = self.0.iter().find(|(k, _)| k == name)?;
        Some(match value {
            Json::Bool(b) => Operand::Bool(*b),
            Json::Number(n) => Operand::Number(n.as_f64().unwrap_or(f64::NAN)),
            Json::String(text) => Operand::Text(text.as_str().into()),
            Json::Null | Json::Array(_) | Json::Object(_) => Operand::Null,
        })
    }
}

fn check(definition: &Node, options: Option<&Node>, value: &Json, word: &str) -> Result<(), String> {
    let kind = definition.get("type").and_then(Node::as_str).unwrap_or("string");
    if value.is_null() && word == "default" {
        return Ok(());
    }
    let fits = match kind {
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        _ => value.is_string(),
    };
    if !fits {
        let article = if kind == "array" { "an" } else { "a" };
        return Err(format!("{word} value is not {article} {kind}"));
    }
    if let Some(options) = options.and_then(Node::as_seq)
        && !options.iter().any(|o| o.to_json() == *value)
    {
        let shown = value.as_str().map_or_else(|| value.to_string(), String::from);
        return Err(format!("`{shown}` cannot be used because it is not in the list of allowed options"));
    }
    if let (Some(pattern), Some(text)) = (definition.get("regex").and_then(Node::as_str), value.as_str()) {
        let hit = super::regex::compile(pattern, "").is_ok_and(|r| r.is_match(text));
        if !hit {
            return Err(format!("{word} value does not match required RegEx pattern"));
        }
    }
    Ok(())
}

/// Fills the blocks of a content in.
///
/// # Errors
/// [`Reported`]: an unknown name or function, or too many blocks.
pub(super) fn interpolate(
    text: &str,
    file: &str,
    values: &[(String, Json)],
    component: &Component<'_>,
    lookup: &Lookup<'_>,
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Result<String, Reported> {
    if !text.contains("$[[") {
        return Ok(text.to_string());
    }
    let id = sources.add(file, text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut done = 0;
    let mut failed = false;
    let mut blocks = 0;
    // Where `done` is, so that a place costs the text since the last block and not all of it.
    let (mut line, mut column) = (1, 1);
    while let Some(start) = rest.find("$[[") {
        let Some(length) = rest[start..].find("]]").filter(|l| !rest[start..start + l].contains('\n')) else {
            out.push_str(&rest[..start + 3]);
            (line, column) = advance(&rest[..start + 3], line, column);
            rest = &rest[start + 3..];
            continue;
        };
        let (before, block) = (&rest[..start], &rest[start..start + length + 2]);
        out.push_str(before);
        (line, column) = advance(before, line, column);
        let width = u32::try_from(block.chars().count()).unwrap_or(1);
        let span = Span { file: id, line, column, length: width };
        blocks += 1;
        let inner = block[3..block.len() - 2].trim();
        if inner.starts_with("matrix.") {
            out.push_str(block);
        } else {
            match evaluate(inner, values, component, lookup) {
                Ok(text) => out.push_str(&text),
                Err(error) => {
                    let names = values.iter().map(|(k, _)| k.as_str());
                    let name = inner.split(['|', ' ']).next().unwrap_or("").trim_start_matches("inputs.");
                    diagnostics.error(span, "", error).hint = suggest::among(name, names);
                    failed = true;
                }
            }
        }
        if blocks > MAX_BLOCKS || out.len() > MAX_TEXT {
            diagnostics.error(span, "", "too many interpolation blocks").hint("or their values are too long");
            return Err(Reported);
        }
        (line, column) = advance(block, line, column);
        rest = &rest[start + length + 2..];
        done += 1;
    }
    out.push_str(rest);
    if failed || done > MAX_BLOCKS { Err(Reported) } else { Ok(out) }
}

fn advance(text: &str, line: u32, column: u32) -> (u32, u32) {
    let lines = u32::try_from(text.matches('\n').count()).unwrap_or(0);
    let last = text.rsplit('\n').next().unwrap_or("");
    let width = u32::try_from(last.chars().count()).unwrap_or(0);
    if lines == 0 { (line, column + width) } else { (line + lines, width + 1) }
}

fn evaluate(
    inner: &str,
    values: &[(String, Json)],
    component: &Component<'_>,
    lookup: &Lookup<'_>,
) -> Result<String, String> {
    let mut parts = inner.split('|').map(str::trim);
    let access = parts.next().unwrap_or("");
    let functions: Vec<&str> = parts.collect();
    if functions.len() > MAX_FUNCTIONS {
        return Err("too many functions in interpolation block".into());
    }
    let mut value = if let Some(name) = access.strip_prefix("inputs.") {
        match values.iter().find(|(k, _)| k == name) {
            Some((_, value)) => value.clone(),
            None => return Err(format!("unknown input name provided: `{name}` in `{access}`")),
        }
    } else if let Some(name) = access.strip_prefix("component.") {
        of_component(name, component)?.into()
    } else {
        let key = access.split('.').next().unwrap_or("");
        return Err(format!("unknown interpolation key: `{key}`"));
    };
    for function in functions {
        value = apply(function, value, lookup)?;
    }
    Ok(match value {
        Json::String(text) => text,
        other => other.to_string(),
    })
}

fn of_component(name: &str, component: &Component<'_>) -> Result<String, String> {
    let listed = component.spec.get("component").and_then(Node::as_seq).unwrap_or_default();
    if !listed.iter().any(|n| n.as_str() == Some(name)) {
        return Err(format!("unknown interpolation key: `{name}`; list it under `spec:component` first"));
    }
    let (path, version) = component.address.trim_end().rsplit_once('@').unwrap_or((component.address, ""));
    Ok(match name {
        "name" => path.rsplit('/').next().unwrap_or(path).to_string(),
        "version" | "reference" | "sha" => version.to_string(),
        _ => return Err(format!("unknown interpolation key: `{name}`")),
    })
}

fn apply(function: &str, value: Json, lookup: &Lookup<'_>) -> Result<Json, String> {
    let (name, arguments) = match function.split_once('(') {
        Some((name, rest)) => (name.trim(), rest.trim_end().strip_suffix(')')),
        None => (function, Some("")),
    };
    let unknown =
        || format!("no function matching `{function}`: check that the function name, arguments, and types are correct");
    let arguments = arguments.ok_or_else(unknown)?;
    let text = |value: Json| match value {
        Json::String(text) => Ok(text),
        _ => Err(format!("invalid input type: {name} can only be used with string inputs")),
    };
    match (name, arguments) {
        ("expand_vars", "") => {
            let text = text(value)?;
            if let Some(masked) =
                slipway_spec::expand::references(&text).find(|n| lookup(n).is_some_and(|(_, masked)| masked))
            {
                return Err(format!("variable expansion error: masked variables cannot be expanded (`{masked}`)"));
            }
            Ok(expand_for_server(&text, Undefined::Keep, |n| lookup(n).map(|(v, _)| v)).into())
        }
        ("posix_escape" | "posix_quote", "") => Ok(posix_escape(&text(value)?).into()),
        ("truncate", arguments) => {
            let (offset, length) = arguments.split_once(',').ok_or_else(unknown)?;
            let offset: usize = offset.trim().parse().map_err(|_| unknown())?;
            let length: usize = length.trim().parse().map_err(|_| unknown())?;
            Ok(text(value)?.chars().skip(offset).take(length).collect::<String>().into())
        }
        ("split", arguments) => {
            let quoted = |q| arguments.strip_prefix(q).and_then(|a: &str| a.strip_suffix(q));
            let separator = quoted('\'').or_else(|| quoted('"')).filter(|s| !s.is_empty()).ok_or_else(unknown)?;
            let text = text(value)?;
            Ok(text.split(separator).map(str::trim).filter(|s| !s.is_empty()).map(Json::from).collect())
        }
        _ => Err(unknown()),
    }
}
