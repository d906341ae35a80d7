//! What scheduler and runner must mean alike. Pure: no clock, no randomness, no files, no network.
//!
//! | module | noun |
//! |---|---|
//! | [`ids`] | the integers people see, and the fence |
//! | [`job`] | [`job::JobSpec`]: everything a runner needs to know of a job |
//! | [`variable`] | a job's variables, and how one is expanded into another |
//! | [`outcome`] | how a job ended, and why |
//! | [`receipt`] | what a job used |
//! | [`pressure`] | a node's live I/O and memory load |
//! | [`view`] | the documents that people and scripts read (`--json`) |

pub mod ids;
pub mod job;
pub mod outcome;
pub mod pressure;
pub mod receipt;
pub mod variable;
pub mod view;
