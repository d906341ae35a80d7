//! Jobs and repositories for tests.

use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::job::{Image, JobSpec, Service, Source, Step, Tier, When};
use slipway_spec::variable::Variable;
use std::path::Path;

/// A service of an image.
pub(crate) fn service(image: &str) -> Service {
    Service { image: Image { name: image.into(), ..Image::default() }, ..Service::default() }
}

/// A job without sources.
pub(crate) fn job(id: u64, script: &[&str]) -> JobSpec {
    JobSpec {
        id: JobId(id),
        pipeline: PipelineId(1),
        project: ProjectId(1),
        project_path: "group/project".into(),
        name: "test".into(),
        stage: "test".into(),
        tier: Tier::Unprotected,
        variables: vec![Variable::public("GIT_STRATEGY", "none")],
        image: Some(Image { name: "alpine:latest".into(), ..Image::default() }),
        services: vec![],
        steps: vec![step("script", script)],
        hooks: vec![],
        source: Source {
            url: "/nonexistent".into(),
            login: None,
            ref_name: "main".into(),
            is_tag: false,
            sha: "0".repeat(40),
            before_sha: "0".repeat(40),
            refspecs: vec![],
            depth: 0,
        },
        timeout_seconds: 600,
        artifacts: vec![],
        caches: vec![],
        dependencies: vec![],
        credentials: vec![],
        token_mask_prefixes: vec![],
        trace_sections: true,
        interruptible: false,
        tags: vec![],
        environment: None,
        coverage: None,
    }
}

pub(crate) fn step(name: &str, script: &[&str]) -> Step {
    let when = if name == Step::AFTER_SCRIPT { When::Always } else { When::OnSuccess };
    Step { name: name.into(), script: script.iter().map(|l| (*l).to_owned()).collect(), when, allow_failure: false }
}

/// A repository with one commit of those files: its path and the commit.
pub(crate) fn repository(at: &Path, files: &[(&str, &str)]) -> String {
    let repository = git2::Repository::init(at).unwrap();
    let mut index = repository.index().unwrap();
    for (path, text) in files {
        std::fs::create_dir_all(at.join(path).parent().unwrap()).unwrap();
        std::fs::write(at.join(path), text).unwrap();
        index.add_path(Path::new(path)).unwrap();
    }
    index.write().unwrap();
    let tree = repository.find_tree(index.write_tree().unwrap()).unwrap();
    let who = git2::Signature::now("Test", "test@example.com").unwrap();
    repository.commit(Some("refs/heads/main"), &who, &who, "one", &tree, &[]).unwrap().to_string()
}
