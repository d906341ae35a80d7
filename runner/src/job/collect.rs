//! What is brought into the work tree before the script, and what is kept of it after.

use super::driver::Driver;
use super::state::{Event, Failure, Verdict};

/// Brings in caches and the artifacts of other jobs.
pub(crate) async fn bring_in(_driver: &mut Driver) -> Result<(), Failure> {
    Ok(())
}

/// Keeps artifacts and caches.
pub(crate) async fn run(driver: &mut Driver, _verdict: &Verdict) -> Event {
    Event::Collected(driver.trace.fault().map(Failure::system))
}
