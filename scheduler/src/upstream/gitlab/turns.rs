//! Whose turn it is to ask. Upstreams whose jobs go to the same nodes share those nodes' free places: no more of them
//! ask at once than there are places, and they are let in in the order they came.

use crate::upstream::Selector;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// All queues, one for each selector.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    queues: Arc<HashMap<Selector, Arc<Queue>>>,
}

#[derive(Debug)]
struct Queue {
    /// Fair: who comes first is served first.
    door: Mutex<()>,
    asking: watch::Sender<u32>,
    sharers: u32,
}

/// The right to ask one question.
#[derive(Debug)]
pub struct Turn {
    queue: Arc<Queue>,
    /// There are fewer places than upstreams: the question must not be held by the server, others wait.
    pub scarce: bool,
}

impl Turns {
    /// Queues for these upstreams.
    pub fn new(selectors: impl IntoIterator<Item = Selector>) -> Self {
        let mut sharers: HashMap<Selector, u32> = HashMap::new();
        for selector in selectors {
            *sharers.entry(selector).or_default() += 1;
        }
        let queue = |sharers| Arc::new(Queue { door: Mutex::new(()), asking: watch::Sender::new(0), sharers });
        Turns { queues: Arc::new(sharers.into_iter().map(|(s, n)| (s, queue(n))).collect()) }
    }

    /// Waits until there is a place for one more question. `None` when the scheduler is gone. Cancel-safe.
    pub async fn take(&self, selector: &Selector, room: &mut watch::Receiver<u32>) -> Option<Turn> {
        let queue = self.queues.get(selector)?.clone();
        let _door = queue.door.lock().await;
        let mut asking = queue.asking.subscribe();
        loop {
            let (places, questions) = (*room.borrow_and_update(), *asking.borrow_and_update());
            if places > questions {
                queue.asking.send_modify(|n| *n += 1);
                let scarce = places < queue.sharers;
                return Some(Turn { queue: queue.clone(), scarce });
            }
            tokio::select! {
                changed = room.changed() => changed.ok()?,
                changed = asking.changed() => changed.ok()?,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.asking.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(n: usize) -> Turns {
        Turns::new(vec![Selector::default(); n])
    }

    #[tokio::test]
    async fn one_place_lets_one_ask_at_a_time_in_order() {
        let (room, receiver) = watch::channel(1);
        let turns = turns(3);
        let first = turns.take(&Selector::default(), &mut receiver.clone()).await.unwrap();
        assert!(first.scarce);
        let (done, mut order) = tokio::sync::mpsc::channel(4);
        for n in 0..2 {
            let (turns, mut receiver, done) = (turns.clone(), receiver.clone(), done.clone());
            tokio::spawn(async move {
                let _turn = turns.take(&Selector::default(), &mut receiver).await.unwrap();
                done.send(n).await.unwrap();
            });
            tokio::task::yield_now().await;
        }
        assert!(order.try_recv().is_err(), "there is one place");
        drop(first);
        assert_eq!([order.recv().await, order.recv().await], [Some(0), Some(1)]);
        drop(room);
    }

    #[tokio::test]
    async fn no_place_means_no_question_until_there_is_one() {
        let (room, mut receiver) = watch::channel(0);
        let turns = turns(1);
        let selector = Selector::default();
        let taking = turns.take(&selector, &mut receiver);
        tokio::pin!(taking);
        assert!(futures_util::poll!(taking.as_mut()).is_pending());
        room.send(2).unwrap();
        assert!(!taking.await.unwrap().scarce);
    }
}
