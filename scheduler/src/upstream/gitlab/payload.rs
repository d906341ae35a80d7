//! GitLab's job payload, parsed tolerantly: any array or object may be null or missing, unknown keys are ignored,
//! several booleans appear only when true, numbers come as text and the other way round.
//!
//! [`Payload`] is what arrived; [`spec`] makes a [`slipway_spec::job::JobSpec`] of it.

pub mod spec;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;

/// Null is the same as missing.
fn null<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A number, or text that holds one.
fn number<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
    Ok(match Value::deserialize(d)? {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).unwrap_or(0),
        Value::String(s) => s.trim().parse().unwrap_or(0),
        _ => 0,
    })
}

/// Text, or a number written as one.
fn text<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(d)? {
        Value::String(s) => s,
        Value::Number(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        _ => String::new(),
    })
}

/// A list of texts, or one text alone.
fn texts<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(maybe_texts(d)?.unwrap_or_default())
}

fn maybe_texts<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(match Value::deserialize(d)? {
        Value::Array(items) => Some(
            items
                .into_iter()
                .filter_map(|item| match item {
                    Value::String(s) => Some(s),
                    Value::Number(n) => Some(n.to_string()),
                    Value::Bool(b) => Some(b.to_string()),
                    Value::Null | Value::Array(_) | Value::Object(_) => None,
                })
                .collect(),
        ),
        Value::String(s) => Some(vec![s]),
        _ => None,
    })
}

/// The whole payload.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the names are GitLab's; section 4 of the contract says what each is
pub struct Payload {
    #[serde(deserialize_with = "number")]
    pub id: i64,
    #[serde(deserialize_with = "text")]
    pub token: String,
    #[serde(deserialize_with = "null")]
    pub job_info: JobInfo,
    #[serde(deserialize_with = "null")]
    pub git_info: GitInfo,
    #[serde(deserialize_with = "null")]
    pub runner_info: RunnerInfo,
    #[serde(deserialize_with = "null")]
    pub features: Features,
    #[serde(deserialize_with = "null")]
    pub variables: Vec<Variable>,
    #[serde(deserialize_with = "null")]
    pub steps: Vec<Step>,
    pub image: Option<Image>,
    #[serde(deserialize_with = "null")]
    pub services: Vec<Image>,
    #[serde(deserialize_with = "null")]
    pub artifacts: Vec<Artifact>,
    #[serde(deserialize_with = "null")]
    pub cache: Vec<Cache>,
    #[serde(deserialize_with = "null")]
    pub credentials: Vec<Credential>,
    #[serde(deserialize_with = "null")]
    pub dependencies: Vec<Dependency>,
    #[serde(deserialize_with = "null")]
    pub hooks: Vec<Hook>,
    pub inputs: Value,
    pub secrets: Value,
    pub run: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct JobInfo {
    #[serde(deserialize_with = "text")]
    pub name: String,
    #[serde(deserialize_with = "text")]
    pub stage: String,
    #[serde(deserialize_with = "number")]
    pub project_id: i64,
    #[serde(deserialize_with = "text")]
    pub project_name: String,
    #[serde(deserialize_with = "text")]
    pub project_full_path: String,
    #[serde(deserialize_with = "number")]
    pub pipeline_id: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct GitInfo {
    #[serde(deserialize_with = "text")]
    pub repo_url: String,
    #[serde(rename = "ref", deserialize_with = "text")]
    pub ref_name: String,
    #[serde(deserialize_with = "text")]
    pub sha: String,
    #[serde(deserialize_with = "text")]
    pub before_sha: String,
    #[serde(deserialize_with = "text")]
    pub ref_type: String,
    #[serde(deserialize_with = "texts")]
    pub refspecs: Vec<String>,
    #[serde(deserialize_with = "number")]
    pub depth: i64,
    pub protected: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct RunnerInfo {
    #[serde(deserialize_with = "number")]
    pub timeout: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Features {
    #[serde(deserialize_with = "null")]
    pub trace_sections: bool,
    #[serde(deserialize_with = "texts")]
    pub failure_reasons: Vec<String>,
    #[serde(deserialize_with = "texts")]
    pub token_mask_prefixes: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Variable {
    #[serde(deserialize_with = "text")]
    pub key: String,
    #[serde(deserialize_with = "text")]
    pub value: String,
    #[serde(deserialize_with = "null")]
    pub public: bool,
    #[serde(deserialize_with = "null")]
    pub masked: bool,
    #[serde(deserialize_with = "null")]
    pub file: bool,
    #[serde(deserialize_with = "null")]
    pub raw: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Step {
    #[serde(deserialize_with = "text")]
    pub name: String,
    #[serde(deserialize_with = "texts")]
    pub script: Vec<String>,
    #[serde(deserialize_with = "text")]
    pub when: String,
    #[serde(deserialize_with = "null")]
    pub allow_failure: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Image {
    #[serde(deserialize_with = "text")]
    pub name: String,
    #[serde(deserialize_with = "maybe_texts")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "maybe_texts")]
    pub command: Option<Vec<String>>,
    #[serde(deserialize_with = "text")]
    pub alias: String,
    #[serde(deserialize_with = "null")]
    pub executor_opts: BTreeMap<String, Value>,
    #[serde(deserialize_with = "texts")]
    pub pull_policy: Vec<String>,
    #[serde(deserialize_with = "null")]
    pub variables: Vec<Variable>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Artifact {
    #[serde(deserialize_with = "text")]
    pub name: String,
    #[serde(deserialize_with = "null")]
    pub untracked: bool,
    #[serde(deserialize_with = "texts")]
    pub paths: Vec<String>,
    #[serde(deserialize_with = "texts")]
    pub exclude: Vec<String>,
    #[serde(deserialize_with = "text")]
    pub when: String,
    #[serde(deserialize_with = "text")]
    pub expire_in: String,
    #[serde(deserialize_with = "text")]
    pub artifact_type: String,
    #[serde(deserialize_with = "text")]
    pub artifact_format: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Cache {
    #[serde(deserialize_with = "text")]
    pub key: String,
    #[serde(deserialize_with = "null")]
    pub untracked: bool,
    #[serde(deserialize_with = "texts")]
    pub paths: Vec<String>,
    #[serde(deserialize_with = "text")]
    pub policy: String,
    #[serde(deserialize_with = "text")]
    pub when: String,
    #[serde(deserialize_with = "texts")]
    pub fallback_keys: Vec<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Credential {
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: String,
    #[serde(deserialize_with = "text")]
    pub url: String,
    #[serde(deserialize_with = "text")]
    pub username: String,
    #[serde(deserialize_with = "text")]
    pub password: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}:[hidden]", self.kind, self.url, self.username)
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Dependency {
    #[serde(deserialize_with = "number")]
    pub id: i64,
    #[serde(deserialize_with = "text")]
    pub name: String,
    #[serde(deserialize_with = "text")]
    pub token: String,
    pub artifacts_file: Option<ArtifactsFile>,
}

impl std::fmt::Debug for Dependency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}) {:?}", self.name, self.id, self.artifacts_file)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ArtifactsFile {
    #[serde(deserialize_with = "text")]
    pub filename: String,
    #[serde(deserialize_with = "number")]
    pub size: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Hook {
    #[serde(deserialize_with = "text")]
    pub name: String,
    #[serde(deserialize_with = "texts")]
    pub script: Vec<String>,
}
