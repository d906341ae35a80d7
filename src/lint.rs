//! `slipway lint`: what is wrong with a configuration, or what it would do.

use crate::End;
use anyhow::{Context as _, anyhow};
use clap::Args;
use slipway_scheduler::pipeline::compile::Request;
use slipway_scheduler::pipeline::lint::{lint, syntax};
use slipway_scheduler::pipeline::rules::{Event, RefKind};
use slipway_scheduler::pipeline::work_tree::{self, WorkTree};
use slipway_spec::variable::Variable;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Check a `.gitlab-ci.yml` and print its plan. Files are read as they lie in the folder, committed or not.
#[derive(Args)]
pub(crate) struct Lint {
    /// The file, or the folder that has a `.gitlab-ci.yml`; `-` reads standard input.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Keywords and types alone, as an editor would.
    #[arg(long)]
    syntax: bool,
    /// Plan for this branch or tag instead of the one that is checked out.
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<String>,
    /// What starts the pipeline: push, web, schedule, merge_request_event, …
    #[arg(long, default_value = "push")]
    source: String,
    /// A variable of the pipeline, as a trigger or a person gives it.
    #[arg(long = "var", value_name = "KEY=VALUE")]
    variables: Vec<String>,
    /// A value for the file's own `spec:inputs`; JSON where it is not text.
    #[arg(long = "input", value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Lint {
    pub(crate) fn run(&self) -> anyhow::Result<End> {
        let (tree, file, text) = self.read()?;
        let report = if self.syntax {
            syntax(&file, &text)
        } else {
            let ref_name = self.reference.clone().unwrap_or_else(|| tree.branch());
            let is_tag = self.reference.is_some() && tree.is_tag(&ref_name);
            let kind = match self.source.as_str() {
                "merge_request_event" => RefKind::MergeRequest,
                _ if is_tag => RefKind::Tag,
                _ => RefKind::Branch,
            };
            let predefined = tree.predefined(&ref_name, is_tag, &self.source, &file);
            let project_path = predefined.iter().find(|v| v.key == "CI_PROJECT_PATH");
            let event = Event {
                source: self.source.clone(),
                ref_name,
                kind,
                project_path: project_path.map(|v| v.value.clone()).unwrap_or_default(),
            };
            let pairs = |list: &[String], flag: &str| -> anyhow::Result<Vec<(String, String)>> {
                list.iter()
                    .map(|pair| {
                        let (key, value) =
                            pair.split_once('=').ok_or_else(|| anyhow!("{flag} {pair}: write {flag} NAME=VALUE"))?;
                        Ok((key.to_string(), value.to_string()))
                    })
                    .collect()
            };
            let variables: Vec<Variable> =
                pairs(&self.variables, "--var")?.into_iter().map(|(k, v)| Variable::public(k, v)).collect();
            let inputs: Vec<(String, serde_json::Value)> = pairs(&self.inputs, "--input")?
                .into_iter()
                .map(|(k, v)| (k, serde_json::from_str(&v).unwrap_or_else(|_| v.into())))
                .collect();
            let request = Request {
                file: &file,
                text: &text,
                predefined: &predefined,
                variables: &variables,
                event: &event,
                inputs: &inputs,
            };
            lint(&request, &tree)
        };
        let mut out = std::io::stdout().lock();
        let written = if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)
        } else {
            out.write_all(report.text().as_bytes())
        };
        written.context("cannot write to standard output")?;
        Ok(if report.valid { End::Ok } else { End::Failed })
    }

    /// The folder, the file's name in it, and its text.
    fn read(&self) -> anyhow::Result<(WorkTree, String, String)> {
        if self.path == Path::new("-") {
            // One byte more than may be, so that what is too big is seen to be.
            let most = slipway_scheduler::pipeline::load::MAX_FILE_BYTES as u64 + 1;
            let mut bytes = Vec::new();
            std::io::stdin().lock().take(most).read_to_end(&mut bytes).context("cannot read standard input")?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return Ok((WorkTree::of(Path::new(".")), ".gitlab-ci.yml".into(), text));
        }
        let path = if self.path.is_dir() { self.path.join(".gitlab-ci.yml") } else { self.path.clone() };
        let text = work_tree::read(&path).map_err(|e| anyhow!("cannot lint {}: {e}", path.display()))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let tree = WorkTree::of(folder);
        let below = path.canonicalize().ok().zip(tree.root().canonicalize().ok());
        let name = below
            .and_then(|(path, root)| path.strip_prefix(root).ok().map(Path::to_path_buf))
            .unwrap_or_else(|| path.clone());
        Ok((tree, name.display().to_string(), text))
    }
}
