//! What scheduler and runner must mean alike. Pure: no clock, no randomness, no files, no network.
//!
//! | module | noun |
//! |---|---|
//! | [`duration`] | `1h 30m`, as people write it |
//! | [`expand`] | variables within texts: as the server and as the runner reads them |
//! | [`glob`] | the patterns of `rules` and those of `artifacts` |
//! | [`ids`] | the integers people see, and the fence |
//! | [`job`] | [`job::JobSpec`]: everything a runner needs to know of a job |
//! | [`variable`] | a job's variables, and how one is expanded into another |
//! | [`outcome`] | how a job ended, and why |
//! | [`receipt`] | what a job used |
//! | [`pressure`] | a node's live I/O and memory load |
//! | [`slug`] | names made safe for hosts, labels, shells |
//! | [`view`] | the documents that people and scripts read (`--json`) |

pub mod duration;
pub mod expand;
pub mod glob;
pub mod ids;
pub mod job;
pub mod outcome;
pub mod pressure;
pub mod receipt;
pub mod slug;
pub mod variable;
pub mod view;
