//! The layer store on a real filesystem, with trees such as engines leave. Real engines: `engines_warm`.

mod admission;
mod crash;
mod engine_tree;
mod hostile;
mod model;
mod promotion;
mod proof;
mod trust;
