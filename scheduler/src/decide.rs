//! Decisions: pure, `now` comes in as an argument, nothing is awaited, read or written here.
//!
//! | module | noun |
//! |---|---|
//! | [`job`] | one job's life: states, events, what each does |
//! | [`pipeline`] | which jobs of a pipeline may go, and the state of the whole |
//! | [`queue`] | who is next, fair between projects |
//! | [`placement`] | which node a job goes to, or how long it waits for a better one |
//! | [`simulate`] | fleets in arithmetic: whether placement helps |

pub mod job;
pub mod pipeline;
pub mod placement;
pub mod queue;
pub mod simulate;
