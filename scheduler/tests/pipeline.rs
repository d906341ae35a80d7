//! `.gitlab-ci.yml` to plan: the project's own cases, and GitLab's where the conformance data is there.

#[path = "pipeline/conformance.rs"]
mod conformance;
#[path = "pipeline/document.rs"]
mod document;
#[path = "pipeline/mistakes.rs"]
mod mistakes;
#[path = "pipeline/plans.rs"]
mod plans;
#[path = "pipeline/verdicts.rs"]
mod verdicts;
#[path = "pipeline/world.rs"]
mod world;
#[path = "pipeline/yaml.rs"]
mod yaml;
