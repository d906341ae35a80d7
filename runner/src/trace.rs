//! The trace: the job's log bytes on their way from the containers to the scheduler.

pub mod mask;
