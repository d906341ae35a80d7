//! Fleets, and the work that comes to them.

use super::Dice;
use super::fleet::NodeSpec;

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// The second in which it comes.
    pub arrives: u64,
    /// Whose it is.
    pub project: u64,
    /// Which of the project's jobs.
    pub job: u64,
    /// It needs an engine, and is faster when warm.
    pub build: bool,
    /// Seconds it takes, cold and alone.
    pub seconds: f64,
    /// Share of them that is disk work.
    pub disk: f64,
}

/// A fleet and its work.
#[derive(Clone, Debug)]
pub struct Mix {
    /// For tables.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Some of its disks are slow, or become so.
    pub slow_disk: bool,
    /// Its machines.
    pub nodes: Vec<NodeSpec>,
    /// Its jobs, by arrival.
    pub work: Vec<Work>,
    /// Of all its chances.
    pub seed: u64,
}

/// How work comes.
struct Load {
    seed: u64,
    projects: u64,
    pipelines: u64,
    /// Seconds between pipelines, on average; 0 for all at once.
    every: f64,
    /// Share of pipelines that belong to the first project.
    first: f64,
    /// Builds of a pipeline, and other jobs (tests, linters, deployments).
    builds: u64,
    others: u64,
    /// Seconds of a build, cold; of another job.
    build_seconds: f64,
    other_seconds: f64,
}

impl Load {
    fn work(&self) -> Vec<Work> {
        let mut dice = Dice::new(self.seed);
        // What a project's job takes is its own, and varies little from run to run.
        let mut shapes = Vec::new();
        for _ in 0..self.projects {
            let builds = (0..self.builds).map(|_| (dice.around(self.build_seconds, 2.0), 0.35 + 0.35 * dice.unit()));
            let builds: Vec<(f64, f64)> = builds.collect();
            let others = (0..self.others).map(|_| (dice.around(self.other_seconds, 2.0), 0.05 + 0.2 * dice.unit()));
            shapes.push((builds, others.collect::<Vec<(f64, f64)>>()));
        }
        let mut work = Vec::new();
        let mut clock = 0.0;
        for _ in 0..self.pipelines {
            clock += -self.every * (1.0 - dice.unit()).ln();
            let project = if dice.unit() < self.first { 0 } else { dice.below(self.projects) };
            let (builds, others) = &shapes[project as usize];
            let all = builds.iter().map(|shape| (true, shape)).chain(others.iter().map(|shape| (false, shape)));
            for (job, (build, (seconds, disk))) in all.enumerate() {
                let seconds = dice.around(*seconds, 1.2);
                work.push(Work { arrives: clock as u64, project, job: job as u64, build, seconds, disk: *disk });
            }
        }
        work
    }
}

impl Mix {
    /// All mixes, from one machine to two hundred.
    #[must_use]
    pub fn all() -> Vec<Mix> {
        let office = Load {
            seed: 1,
            projects: 12,
            pipelines: 150,
            every: 40.0,
            first: 0.0,
            builds: 1,
            others: 2,
            build_seconds: 180.0,
            other_seconds: 45.0,
        };
        let mix = |name, about, slow_disk, nodes, load: Load| Mix {
            name,
            about,
            slow_disk,
            nodes,
            work: load.work(),
            seed: load.seed,
        };
        let with = |mut nodes: Vec<NodeSpec>, more: Vec<NodeSpec>| {
            nodes.extend(more);
            nodes
        };
        let noisy = NodeSpec { neighbour: 12.0, ..NodeSpec::SATA };
        vec![
            mix(
                "one machine",
                "a single VPS, a small team",
                false,
                vec![NodeSpec::SATA],
                Load { seed: 11, projects: 4, pipelines: 60, every: 120.0, ..office },
            ),
            mix("equal", "five equal machines with NVMe", false, vec![NodeSpec::NVME; 5], Load { seed: 12, ..office }),
            mix(
                "burst",
                "sixty pipelines within five minutes",
                false,
                vec![NodeSpec::NVME; 5],
                Load { seed: 13, pipelines: 60, every: 5.0, ..office },
            ),
            mix(
                "one project",
                "four of five pipelines are one project's",
                false,
                vec![NodeSpec::NVME; 6],
                Load { seed: 14, first: 0.8, every: 30.0, ..office },
            ),
            mix(
                "tests",
                "many tests, few builds",
                false,
                vec![NodeSpec::NVME; 5],
                Load { seed: 15, others: 8, every: 60.0, ..office },
            ),
            mix(
                "one slow disk",
                "five machines with NVMe, and one whose disk is worn out",
                true,
                with(vec![NodeSpec::SLOW], vec![NodeSpec::NVME; 5]),
                Load { seed: 16, every: 30.0, ..office },
            ),
            mix(
                "noisy neighbours",
                "ten machines with SATA; on four somebody else saturates the disk for minutes",
                true,
                with(vec![noisy; 4], vec![NodeSpec::SATA; 6]),
                Load { seed: 17, projects: 20, pipelines: 200, every: 25.0, ..office },
            ),
            mix(
                "half slow",
                "twenty machines, half of them with slow disks",
                true,
                with(vec![NodeSpec::SLOW; 10], vec![NodeSpec::NVME; 10]),
                Load { seed: 18, projects: 40, pipelines: 400, every: 10.0, ..office },
            ),
            mix(
                "large",
                "two hundred machines: NVMe, SATA, and sixty with slow network disks",
                true,
                with(vec![NodeSpec::SLOW; 60], with(vec![NodeSpec::NVME; 80], vec![NodeSpec::SATA; 60])),
                Load { seed: 19, projects: 150, pipelines: 3000, every: 1.0, ..office },
            ),
        ]
    }
}
