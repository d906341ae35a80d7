//! `.gitlab-ci.yml` text becomes a [`plan::Plan`], in pure stages, each a file.
//!
//! | module | noun |
//! |---|---|
//! | [`tree`] | a YAML value that knows its place |
//! | [`diagnostic`] | what is wrong, where, and how a person sees it |
//! | [`plan`] | the compiled pipeline |

pub mod diagnostic;
pub mod plan;
pub mod tree;
