//! `.gitlab-ci.yml` text becomes a [`plan::Plan`], in pure stages, each a file.
//!
//! | module | noun |
//! |---|---|
//! | [`tree`] | a YAML value that knows its place |
//! | [`diagnostic`], [`suggest`] | what is wrong, where, and how a person sees it |
//! | [`load`], [`scalar`] | YAML text becomes a tree, read as GitLab reads it |
//! | [`fetch`] | what a compilation asks of the world |
//! | [`extends`], [`reference`] | `extends` and `!reference` |
//! | [`plan`] | the compiled pipeline |

pub mod diagnostic;
pub mod extends;
pub mod fetch;
pub mod load;
pub mod plan;
pub mod reference;
pub mod scalar;
pub mod suggest;
pub mod tree;
