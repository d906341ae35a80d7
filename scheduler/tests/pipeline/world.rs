//! A repository given as a list of files, and an event, for compilations in tests.

use slipway_scheduler::pipeline::changes::{Files, ListedCommit};
use slipway_scheduler::pipeline::compile::{Compiled, Request, compile};
use slipway_scheduler::pipeline::diagnostic::Diagnostics;
use slipway_scheduler::pipeline::fetch::{Fetch, FetchError, Fetched, Location, Repository};
use slipway_scheduler::pipeline::plan::PlannedJob;
use slipway_scheduler::pipeline::rules::{Event, RefKind};
use slipway_spec::variable::Variable;
use std::sync::Arc;

/// Where a test's pipeline runs.
pub(crate) struct World {
    /// Files by what [`Location`] prints.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) event: Event,
    pub(crate) predefined: Vec<Variable>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) inputs: Vec<(String, serde_json::Value)>,
    pub(crate) commit: ListedCommit,
    pub(crate) has_repository: bool,
}

impl World {
    /// A push to `main` of `group/project`.
    pub(crate) fn push(branch: &str) -> Self {
        let variables = [
            ("CI_COMMIT_BRANCH", branch),
            ("CI_COMMIT_REF_NAME", branch),
            ("CI_PIPELINE_SOURCE", "push"),
            ("CI_DEFAULT_BRANCH", "main"),
            ("CI_COMMIT_SHA", "0123456789abcdef0123456789abcdef01234567"),
            ("CI_PROJECT_PATH", "group/project"),
        ];
        World {
            files: Vec::new(),
            event: Event {
                source: "push".into(),
                ref_name: branch.into(),
                kind: RefKind::Branch,
                project_path: "group/project".into(),
            },
            predefined: variables.iter().map(|(k, v)| Variable::public(*k, *v)).collect(),
            variables: Vec::new(),
            inputs: Vec::new(),
            commit: ListedCommit::default(),
            has_repository: true,
        }
    }

    pub(crate) fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.into(), text.into()));
        let paths = self.files.iter().map(|(p, _)| p.clone()).collect();
        self.commit.files = Arc::new(Files::new(paths));
        self
    }

    pub(crate) fn variable(mut self, key: &str, value: &str) -> Self {
        self.variables.push(Variable::public(key, value));
        self
    }

    pub(crate) fn compile(&self, text: &str) -> Result<Compiled, Diagnostics> {
        let request = Request {
            file: ".gitlab-ci.yml",
            text,
            predefined: &self.predefined,
            variables: &self.variables,
            event: &self.event,
            inputs: &self.inputs,
        };
        compile(&request, self)
    }

    /// The plan of a text that must compile.
    #[track_caller]
    pub(crate) fn plan(&self, text: &str) -> Compiled {
        match self.compile(text) {
            Ok(compiled) => compiled,
            Err(diagnostics) => panic!("it should compile:\n{diagnostics}"),
        }
    }

    /// The errors of a text that must not compile.
    #[track_caller]
    pub(crate) fn errors(&self, text: &str) -> Vec<String> {
        match self.compile(text) {
            Ok(_) => panic!("it should not compile:\n{text}"),
            Err(diagnostics) => diagnostics.messages().into_iter().map(String::from).collect(),
        }
    }
}

impl Fetch for World {
    fn fetch(&self, location: &Location) -> Result<Fetched, FetchError> {
        if !self.has_repository {
            return Err(FetchError::Unavailable("there is no repository".into()));
        }
        let name = location.to_string();
        let found = self.files.iter().find(|(path, _)| *path == name);
        found.map(|(_, text)| Fetched { text: text.clone(), repository: None }).ok_or(FetchError::Missing)
    }

    fn paths(&self, _: Option<&Repository>) -> Result<Vec<String>, FetchError> {
        Ok(self.files.iter().map(|(p, _)| p.clone()).collect())
    }

    fn changes(&self, _: Option<&str>) -> Result<Option<Vec<String>>, FetchError> {
        Ok(self.commit.changed.as_ref().map(|c| c.to_vec()))
    }
}

/// A job of a plan.
#[track_caller]
pub(crate) fn job<'c>(compiled: &'c Compiled, name: &str) -> &'c PlannedJob {
    compiled.plan.jobs.iter().find(|j| j.name == name).unwrap_or_else(|| {
        let names: Vec<&str> = compiled.plan.jobs.iter().map(|j| j.name.as_str()).collect();
        panic!("no job {name} among {names:?}; out: {:?}", compiled.plan.excluded)
    })
}
