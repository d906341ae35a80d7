//! Sends a spool to the scheduler through the Trace rpc, from whatever offset it holds, until all of it is held.

use super::spool::Reader;
use slipway_wire::MAX_CHUNK_BYTES;
use slipway_wire::v1::runner_client::RunnerClient;
use slipway_wire::v1::{TraceAck, TraceChunk};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Chunks on their way that are not acknowledged yet.
const IN_FLIGHT: usize = 8;
/// First wait after a broken call; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two calls.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What is sent, and for whom.
pub(crate) struct Shipment {
    /// The job.
    pub(crate) job: u64,
    /// Its lease's fence.
    pub(crate) fence: u64,
    /// The spool.
    pub(crate) path: PathBuf,
}

/// Why no more is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All of it is held, and no more will be written.
    Delivered,
    /// The fence is stale.
    Refused,
}

/// Sends until the writer is gone (`length`'s sender dropped or `closed`) and all bytes are held. `held` tells how far
/// it is.
///
/// Cancel-safety: dropping it loses nothing; another call goes on.
pub(crate) async fn ship(
    mut client: RunnerClient<Channel>,
    shipment: Shipment,
    mut length: watch::Receiver<u64>,
    mut closed: watch::Receiver<bool>,
    held: watch::Sender<u64>,
) -> Ended {
    let mut wait = FIRST_WAIT;
    loop {
        let before = *held.borrow();
        match call(&mut client, &shipment, &mut length, &mut closed, &held).await {
            Ok(()) => return Ended::Delivered,
            Err(Broken::Stale) => return Ended::Refused,
            Err(Broken::Call(status)) => {
                tracing::debug!(job = shipment.job, %status, "the trace call broke; it is made again");
            }
            Err(Broken::Spool(e)) => {
                tracing::error!(job = shipment.job, error = %e, "cannot read the trace's spool");
            }
        }
        wait = if *held.borrow() > before { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
        tokio::time::sleep(wait).await;
    }
}

enum Broken {
    Stale,
    Call(tonic::Status),
    Spool(std::io::Error),
}

impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Broken {
        if status.code() == tonic::Code::FailedPrecondition { Broken::Stale } else { Broken::Call(status) }
    }
}

async fn call(
    client: &mut RunnerClient<Channel>,
    shipment: &Shipment,
    length: &mut watch::Receiver<u64>,
    closed: &mut watch::Receiver<bool>,
    held: &watch::Sender<u64>,
) -> Result<(), Broken> {
    let mut reader = Reader::open(&shipment.path).map_err(Broken::Spool)?;
    let mut sent = *held.borrow();
    if *closed.borrow_and_update() && sent >= *length.borrow_and_update() {
        return Ok(());
    }
    // Nothing to say yet: no call is open for a job that is silent while it is prepared.
    while *length.borrow_and_update() == sent && !*closed.borrow_and_update() {
        tokio::select! {
            r = length.changed() => if r.is_err() { break },
            r = closed.changed() => if r.is_err() { break },
        }
    }
    let (chunks, outbound) = mpsc::channel::<TraceChunk>(IN_FLIGHT);
    let mut acks: Option<tonic::Streaming<TraceAck>> = None;
    let opening = client.trace(ReceiverStream::new(outbound));
    tokio::pin!(opening);
    loop {
        let end = *length.borrow_and_update();
        let last = *closed.borrow_and_update();
        let now = *held.borrow();
        if last && now >= end {
            return Ok(());
        }
        // An answer that is ahead, or that does not go forward: the scheduler holds other bytes than was thought.
        tokio::select! {
            biased;
            opened = &mut opening, if acks.is_none() => acks = Some(opened?.into_inner()),
            ack = async { acks.as_mut().map(|a| a.message()) .expect("guarded").await }, if acks.is_some() => {
                let Some(ack) = ack? else {
                    return Err(Broken::Call(tonic::Status::unavailable("the scheduler ended the call")));
                };
                if ack.held > sent || (ack.held <= now && ack.held < sent) {
                    sent = ack.held;
                }
                held.send_replace(ack.held);
            }
            permit = chunks.reserve(), if sent < end => {
                let Ok(permit) = permit else { return Err(Broken::Call(tonic::Status::unavailable("the call is over"))) };
                let data = reader.read(sent, MAX_CHUNK_BYTES).map_err(Broken::Spool)?;
                let offset = sent;
                sent += data.len() as u64;
                permit.send(TraceChunk { job: shipment.job, fence: shipment.fence, offset, data });
            }
            r = length.changed(), if !last && sent >= end => if r.is_err() { return Ok(()) },
            r = closed.changed(), if !last => if r.is_err() { return Ok(()) },
        }
    }
}
