//! `.gitlab-ci.yml` text becomes a [`plan::Plan`], in pure stages, each a file.
//!
//! | module | noun |
//! |---|---|
//! | [`compile`] | all stages in order: a request becomes a plan, or what is wrong |
//! | [`tree`] | a YAML value that knows its place |
//! | [`diagnostic`], [`suggest`] | what is wrong, where, and how a person sees it |
//! | [`load`], [`scalar`] | YAML text becomes a tree, read as GitLab reads it |
//! | [`fetch`] | what a compilation asks of the world |
//! | [`mod@include`], [`inputs`] | other files, and the values put into them |
//! | [`extends`], [`mod@reference`] | `extends` and `!reference` |
//! | [`keywords`], [`validate`] | what may stand where, and what is done with it |
//! | [`default`], [`variables`], [`job`] | a job's settings, typed |
//! | [`changes`] | `changes` and `exists`: patterns against a commit's paths |
//! | [`expression`] | `rules:if` and its relatives |
//! | [`git_tree`] | what a commit holds and changed; the one file that reads a repository |
//! | [`matrix`] | `parallel`: one job becomes several |
//! | [`needs`] | which job waits for which, and whose artifacts it gets |
//! | [`regex`] | RE2's patterns on a linear engine |
//! | [`rules`] | which jobs run, and why |
//! | [`lint`], [`work_tree`] | what `slipway lint` says, and the folder it looks at |
//! | [`plan`] | the compiled pipeline |

pub mod changes;
pub mod compile;
pub mod default;
pub mod diagnostic;
pub mod expression;
pub mod extends;
pub mod fetch;
pub mod git_tree;
pub mod include;
pub mod inputs;
pub mod job;
pub mod keywords;
pub mod lint;
pub mod load;
pub mod matrix;
pub mod needs;
pub mod plan;
pub mod reference;
pub mod regex;
pub mod rules;
pub mod scalar;
pub mod suggest;
pub mod tree;
pub mod validate;
pub mod variables;
pub mod work_tree;
