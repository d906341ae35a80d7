//! `.gitlab-ci.yml` text becomes a [`plan::Plan`], in pure stages, each a file.

pub mod plan;
