//! Who is next: fair between projects, first come first served within one.
//!
//! Each project has a clock that runs by one for every job of it that was given to a node. The project whose clock is
//! furthest behind is next; one that comes back after a rest starts at the clock of the one furthest behind, so rest
//! is not saved up. 500 jobs of one project therefore delay another's first by at most one.

use jiff::Timestamp;
use slipway_spec::ids::{JobId, ProjectId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A place in a project's line: higher priority first, then who is ready longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Negated priority, so that the highest sorts first.
    rank: i64,
    since: Timestamp,
    job: JobId,
}

/// The jobs that wait for a node.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    lines: BTreeMap<ProjectId, Line>,
    places: HashMap<JobId, (ProjectId, Place)>,
    /// The clock of the project served last.
    now: u64,
}

#[derive(Clone, Debug, Default)]
struct Line {
    clock: u64,
    waiting: BTreeSet<Place>,
}

impl Queue {
    /// Puts a job in line; one that is in line stays where it is.
    pub fn push(&mut self, project: ProjectId, job: JobId, priority: i32, since: Timestamp) {
        if self.places.contains_key(&job) {
            return;
        }
        let place = Place { rank: -i64::from(priority), since, job };
        let now = self.now;
        let line = self.lines.entry(project).or_default();
        if line.waiting.is_empty() {
            line.clock = line.clock.max(now);
        }
        line.waiting.insert(place);
        self.places.insert(job, (project, place));
    }

    /// Takes a job out of line without having served it.
    pub fn remove(&mut self, job: JobId) -> bool {
        let Some((project, place)) = self.places.remove(&job) else { return false };
        if let Some(line) = self.lines.get_mut(&project) {
            line.waiting.remove(&place);
        }
        true
    }

    /// Takes a job out of line and runs its project's clock.
    pub fn serve(&mut self, job: JobId) {
        let Some((project, _)) = self.places.get(&job).copied() else { return };
        self.remove(job);
        if let Some(line) = self.lines.get_mut(&project) {
            self.now = self.now.max(line.clock);
            line.clock += 1;
        }
        // A project at rest whose clock is not ahead of the others need not be remembered.
        let now = self.now;
        self.lines.retain(|_, line| !line.waiting.is_empty() || line.clock > now);
    }

    /// The jobs in the order in which nodes should be found for them, as if each one found were served.
    pub fn in_order(&self) -> impl Iterator<Item = JobId> + '_ {
        let mut heads: BTreeSet<(u64, Place, ProjectId)> = BTreeSet::new();
        let mut rests: HashMap<ProjectId, std::collections::btree_set::Iter<'_, Place>> = HashMap::new();
        for (project, line) in &self.lines {
            let mut rest = line.waiting.iter();
            if let Some(first) = rest.next() {
                heads.insert((line.clock, *first, *project));
                rests.insert(*project, rest);
            }
        }
        std::iter::from_fn(move || {
            let (clock, place, project) = heads.pop_first()?;
            if let Some(next) = rests.get_mut(&project).and_then(Iterator::next) {
                heads.insert((clock + 1, *next, project));
            }
            Some(place.job)
        })
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn five_hundred_jobs_of_one_project_delay_another_by_one() {
        let mut queue = Queue::default();
        for n in 0..500 {
            queue.push(ProjectId(1), JobId(n), 0, at(0));
        }
        for n in 0..100 {
            queue.serve(JobId(n));
        }
        queue.push(ProjectId(2), JobId(1000), 0, at(9));
        let place = queue.in_order().position(|job| job == JobId(1000)).unwrap();
        assert!(place <= 1, "{place}");
    }

    #[test]
    fn rest_is_not_saved_up() {
        let mut queue = Queue::default();
        for n in 0..100 {
            queue.push(ProjectId(1), JobId(n), 0, at(0));
            queue.serve(JobId(n));
        }
        for n in 0..10 {
            queue.push(ProjectId(1), JobId(200 + n), 0, at(1));
            queue.push(ProjectId(2), JobId(300 + n), 0, at(1));
        }
        let first: Vec<u64> = queue.in_order().take(6).map(|job| job.0 / 100).collect();
        assert_eq!(first.iter().filter(|p| **p == 3).count(), 3, "{first:?}");
    }

    #[test]
    fn higher_priority_goes_first_within_its_project() {
        let mut queue = Queue::default();
        queue.push(ProjectId(1), JobId(1), 0, at(0));
        queue.push(ProjectId(1), JobId(2), 10, at(5));
        assert_eq!(queue.in_order().collect::<Vec<_>>(), [JobId(2), JobId(1)]);
    }

    proptest! {
        #[test]
        fn every_job_in_line_is_named_once(pushes in prop::collection::vec((0u64..4, 0u64..40, -2i32..3, any::<bool>()), 0..120)) {
            let mut queue = Queue::default();
            let mut naive: std::collections::BTreeSet<JobId> = Default::default();
            for (project, job, priority, serve) in pushes {
                let job = JobId(job);
                if serve {
                    queue.serve(job);
                    naive.remove(&job);
                } else {
                    queue.push(ProjectId(project), job, priority, at(0));
                    naive.insert(job);
                }
            }
            let mut order: Vec<JobId> = queue.in_order().collect();
            order.sort();
            prop_assert_eq!(order, naive.into_iter().collect::<Vec<_>>());
        }
    }
}
