//! A node's live I/O and memory load, read from procfs once a second, and whether it lets new builds in.
//!
//! [`Reading`] is one look at the kernel's counters, [`between`] the pure arithmetic on two of them, [`Sampler`] the
//! driver, [`Admission`] the pure decision.

mod admission;
mod device;
mod reading;
mod sampler;

pub use admission::{Admission, Limits, Over};
pub use device::{DeviceId, device_under};
pub use reading::{CpuTicks, DiskCounters, Reading, Stalled, between};
pub use sampler::{PressureError, Sampler};
