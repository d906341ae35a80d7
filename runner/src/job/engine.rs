//! Engines that services of the job are: lent by the node, given back after the job is over for everybody.

use super::driver::Driver;

/// An engine that was lent to this job.
pub(crate) enum Borrowed {}

/// Gives every engine back.
pub(crate) async fn give_back(driver: &mut Driver, _success: bool) {
    driver.engines.clear();
}
