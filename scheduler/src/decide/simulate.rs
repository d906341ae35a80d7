//! A fleet that exists only in arithmetic: does placement help, and by how much?
//!
//! Seeded, without a clock, in steps of one second. [`fleet`] is the physics (disks that slow down when too many want
//! them), [`mix`] the fleets and the work, [`contender`] who decides: [`super::placement`] as the driver calls it, or
//! one of three simpler rules. `cargo bench --bench placement` makes `docs/placement.md` of it.

pub mod contender;
pub mod fleet;
pub mod mix;

use self::contender::Contender;
use self::fleet::Fleet;
use self::mix::{Mix, Work};
use super::placement::{Ask, Placement};
use super::queue::Queue;
use jiff::Timestamp;
use slipway_spec::ids::{JobId, ProjectId};
use slipway_spec::job::Tier;
use std::collections::HashMap;

/// A run that takes longer than this has jammed.
const SECONDS_MAX: u64 = 200_000;

/// What one contender made of one mix.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The mix.
    pub mix: &'static str,
    /// Who decided.
    pub contender: Contender,
    /// Seconds from the first job's arrival to the last one's end.
    pub makespan: f64,
    /// Seconds from arrival to end, on average.
    pub mean_turnaround: f64,
    /// The same, of all but the slowest 5 %.
    pub p95_turnaround: f64,
    /// Seconds from arrival to start: the median.
    pub p50_wait: f64,
    /// Of all but 5 %.
    pub p95_wait: f64,
    /// Share of builds that started from a generation.
    pub warm: f64,
    /// The highest average queue depth of a node's disk while the node had work.
    pub worst_queue: f64,
}

/// Runs a mix.
///
/// # Panics
/// When jobs are left that no node takes: the mix or the contender is broken.
#[must_use]
pub fn run(mix: &Mix, contender: Contender) -> Report {
    let mut fleet = Fleet::new(&mix.nodes, mix.seed);
    let mut decider = contender::Decider::new(contender);
    let mut queue = Queue::default();
    // How long each project's job took last: what the scheduler learns.
    let mut learnt: HashMap<(u64, u64), f64> = HashMap::new();
    let mut offered: HashMap<usize, u64> = HashMap::new();
    let mut started: Vec<Option<f64>> = vec![None; mix.work.len()];
    let mut ended: Vec<f64> = vec![0.0; mix.work.len()];
    let (mut builds, mut warm) = (0u32, 0u32);
    let (mut next, mut left) = (0, mix.work.len());
    let mut second = 0u64;
    while left > 0 {
        assert!(second < SECONDS_MAX, "{} jammed under {contender:?} with {left} jobs left", mix.name);
        let now = second as f64;
        while let Some(work) = mix.work.get(next).filter(|work| work.arrives <= second) {
            queue.push(ProjectId(work.project), JobId(next as u64), 0, at(work.arrives));
            next += 1;
        }
        let waiting: Vec<JobId> = if fleet.has_room() { queue.in_order().collect() } else { Vec::new() };
        for job in waiting {
            let index = job.0 as usize;
            let work = &mix.work[index];
            let expected = learnt.get(&(work.project, work.job)).copied().unwrap_or(0.0);
            // The wait for a warm node counts from when the job could have started on another.
            let since = offered.get(&index).copied().unwrap_or(second);
            match decider.place(&ask(work, expected, since), fleet.nodes(), at(second)) {
                Placement::On { node, .. } => {
                    queue.serve(job);
                    let is_warm = fleet.start(node, index, work);
                    if work.build {
                        builds += 1;
                        warm += u32::from(is_warm);
                    }
                    started[index] = Some(now);
                    if !fleet.has_room() {
                        break;
                    }
                }
                Placement::Wait { until: Some(_), .. } => {
                    offered.entry(index).or_insert(second);
                }
                Placement::Wait { until: None, .. } => {}
            }
        }
        for (index, at) in fleet.step(now) {
            ended[index] = at;
            left -= 1;
            let work = &mix.work[index];
            learnt.insert((work.project, work.job), at - started[index].unwrap_or(at));
            fleet.remember(index, work);
        }
        decider.observe(fleet.nodes_mut());
        second += 1;
    }
    let arrives = |index: usize| mix.work[index].arrives as f64;
    let mut turnarounds: Vec<f64> = (0..mix.work.len()).map(|index| ended[index] - arrives(index)).collect();
    let mut waits: Vec<f64> =
        started.iter().enumerate().map(|(index, start)| start.unwrap_or(0.0) - arrives(index)).collect();
    turnarounds.sort_by(f64::total_cmp);
    waits.sort_by(f64::total_cmp);
    Report {
        mix: mix.name,
        contender,
        makespan: ended.iter().copied().fold(0.0, f64::max) - arrives(0),
        mean_turnaround: turnarounds.iter().sum::<f64>() / turnarounds.len() as f64,
        p95_turnaround: share(&turnarounds, 0.95),
        p50_wait: share(&waits, 0.5),
        p95_wait: share(&waits, 0.95),
        warm: if builds == 0 { 0.0 } else { f64::from(warm) / f64::from(builds) },
        worst_queue: fleet.worst_queue(),
    }
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_second(i64::try_from(second).unwrap_or(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The value below which `part` of the sorted values lie.
fn share(sorted: &[f64], part: f64) -> f64 {
    sorted.get(((sorted.len().saturating_sub(1)) as f64 * part).round() as usize).copied().unwrap_or(0.0)
}

fn ask(work: &Work, expected: f64, since: u64) -> Ask {
    Ask {
        project: ProjectId(work.project),
        project_path: format!("team/{}", work.project),
        job: work.job.to_string(),
        tier: Tier::Protected,
        tags: Vec::new(),
        architecture: None,
        engine: work.build,
        expected_seconds: expected,
        since: at(since),
    }
}

/// Numbers that look random and are the same every time (splitmix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Dice of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Dice { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From 0 up to `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Around `middle`, most within a factor of `spread` of it: log-normal, as durations of jobs are.
    pub fn around(&mut self, middle: f64, spread: f64) -> f64 {
        let normal: f64 = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        middle * (normal * spread.ln() / 2.0).exp()
    }
}

#[cfg(test)]
mod tests;
