//! The physics. A node has processors and a disk. A job is so many seconds of each when it is alone; when the jobs of a
//! node want more of its disk (or processors) than there is, each gets its share, and takes longer by as much.

use super::Dice;
use super::mix::Work;
use crate::decide::placement::Node;
use slipway_spec::job::Tier;
use slipway_spec::pressure::{Disk, Pressure};
use slipway_spec::view::GenerationView;
use std::sync::Arc;

/// What a node is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeSpec {
    /// Jobs at once.
    pub capacity: u32,
    /// Processors.
    pub cores: f64,
    /// Seconds of disk work a second, where 1 is what one build at a time wants of a SATA SSD.
    pub disk: f64,
    /// Milliseconds of one request when nobody else wants the disk.
    pub await_ms: f64,
    /// Somebody else on the machine wants this much of the disk, from time to time.
    pub neighbour: f64,
}

impl NodeSpec {
    /// Eight cores and an NVMe disk.
    pub const NVME: NodeSpec = NodeSpec { capacity: 6, cores: 8.0, disk: 8.0, await_ms: 0.2, neighbour: 0.0 };
    /// The same with a SATA SSD.
    pub const SATA: NodeSpec = NodeSpec { disk: 3.0, await_ms: 1.0, ..NodeSpec::NVME };
    /// The same with a disk that is worn out, or a network disk out of credits.
    pub const SLOW: NodeSpec = NodeSpec { disk: 0.12, await_ms: 40.0, ..NodeSpec::NVME };
}

/// Generations that a node keeps; the oldest goes.
const GENERATIONS_MAX: usize = 40;
/// What a warm build still has to do, of processors and disk.
const WARM_SHARE: f64 = 0.2;

#[derive(Clone, Debug)]
struct Running {
    index: usize,
    /// Seconds of work left, of a node without contention.
    left: f64,
    /// Share of them that is disk work.
    disk: f64,
}

#[derive(Clone, Debug)]
struct Machine {
    spec: NodeSpec,
    running: Vec<Running>,
    /// How much the neighbour wants now, and until when.
    neighbour: f64,
    neighbour_until: f64,
    queue_sum: f64,
    queue_seconds: f64,
}

/// The machines, and what placement knows of them.
#[derive(Debug)]
pub struct Fleet {
    machines: Vec<Machine>,
    nodes: Vec<Node>,
    /// Where each job ran that has just ended.
    ended_on: Vec<(usize, usize)>,
    dice: Dice,
}

impl Fleet {
    /// Machines without work.
    #[must_use]
    pub fn new(specs: &[NodeSpec], seed: u64) -> Fleet {
        let machines = specs.iter().map(|spec| Machine {
            spec: *spec,
            running: Vec::new(),
            neighbour: 0.0,
            neighbour_until: 0.0,
            queue_sum: 0.0,
            queue_seconds: 0.0,
        });
        let nodes = specs.iter().enumerate().map(|(n, spec)| Node {
            name: format!("node-{n}"),
            architecture: "amd64".into(),
            tags: Vec::new(),
            trust_domain: Vec::new(),
            engines: true,
            capacity: spec.capacity,
            held: 0,
            free: spec.capacity,
            refuses_builds: None,
            overloaded: false,
            strain: 0.0,
            tagged_only: false,
            pressure: Pressure::default(),
            generations: Arc::default(),
        });
        Fleet {
            machines: machines.collect(),
            nodes: nodes.collect(),
            ended_on: Vec::new(),
            dice: Dice::new(seed ^ 0xF1EE7),
        }
    }

    /// What placement sees.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Some node takes a job.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.nodes.iter().any(|node| node.free > 0)
    }

    /// Starts a job; whether it starts from a generation.
    pub fn start(&mut self, node: usize, index: usize, work: &Work) -> bool {
        let seen = &mut self.nodes[node];
        seen.held += 1;
        seen.free -= 1;
        let warm =
            work.build && seen.generations.iter().any(|g| g.project == work.project && g.job == work.job.to_string());
        let seconds = work.seconds * if warm { WARM_SHARE } else { 1.0 };
        self.machines[node].running.push(Running { index, left: seconds.max(1.0), disk: work.disk });
        warm
    }

    /// One second goes by; jobs that ended in it, and when.
    pub fn step(&mut self, now: f64) -> Vec<(usize, f64)> {
        let mut ended = Vec::new();
        self.ended_on.clear();
        for (position, machine) in self.machines.iter_mut().enumerate() {
            machine.turn_neighbour(now, &mut self.dice);
            let wanted_disk: f64 = machine.running.iter().map(|job| job.disk).sum::<f64>() + machine.neighbour;
            let wanted_cores: f64 = machine.running.iter().map(|job| 1.0 - job.disk).sum::<f64>() * 2.0;
            let disk = (wanted_disk / machine.spec.disk).max(1.0);
            let cores = (wanted_cores / machine.spec.cores).max(1.0);
            machine.running.retain_mut(|job| {
                let speed = 1.0 / ((1.0 - job.disk) * cores + job.disk * disk);
                job.left -= speed;
                if job.left > 0.0 {
                    return true;
                }
                ended.push((job.index, now + 1.0 + job.left / speed));
                self.ended_on.push((job.index, position));
                false
            });
            let load = wanted_disk / machine.spec.disk;
            let pressure = machine.pressure(load);
            if !machine.running.is_empty() {
                machine.queue_sum += pressure.disk.as_ref().map_or(0.0, |d| d.queue_depth);
                machine.queue_seconds += 1.0;
            }
            let node = &mut self.nodes[position];
            node.held = machine.running.len() as u32;
            node.free = node.capacity - node.held;
            node.pressure = pressure;
        }
        ended
    }

    /// Keeps what a build that ended has made.
    pub fn remember(&mut self, index: usize, work: &Work) {
        let Some((_, node)) = self.ended_on.iter().find(|(job, _)| *job == index).copied() else { return };
        if !work.build {
            return;
        }
        let job = work.job.to_string();
        let mut held = self.nodes[node].generations.to_vec();
        held.retain(|g| !(g.project == work.project && g.job == job));
        if held.len() >= GENERATIONS_MAX {
            held.remove(0);
        }
        held.push(GenerationView {
            project: work.project,
            job,
            tier: Tier::Protected,
            number: 1,
            build_seconds: work.seconds * (1.0 - WARM_SHARE),
            bytes: 1 << 30,
        });
        self.nodes[node].generations = held.into();
    }

    /// The highest average queue of a node that had work.
    #[must_use]
    pub fn worst_queue(&self) -> f64 {
        let average = |m: &Machine| if m.queue_seconds > 0.0 { m.queue_sum / m.queue_seconds } else { 0.0 };
        self.machines.iter().map(average).fold(0.0, f64::max)
    }
}

impl Machine {
    /// The neighbour works for some minutes and rests for some.
    fn turn_neighbour(&mut self, now: f64, dice: &mut Dice) {
        if self.spec.neighbour > 0.0 && now >= self.neighbour_until {
            self.neighbour = if self.neighbour > 0.0 { 0.0 } else { self.spec.neighbour };
            self.neighbour_until = now + dice.around(240.0, 2.0);
        }
    }

    /// What the kernel would say of a disk that `load` times its capacity is wanted of: below 1 its queue is short;
    /// above, what is too much waits, and so does whoever asked for it.
    fn pressure(&self, load: f64) -> Pressure {
        let stalled = if load > 1.0 { 1.0 - 1.0 / load } else { 0.0 };
        Pressure {
            io_wait: (stalled * 0.6).min(1.0),
            disk: Some(Disk {
                device: "sim".into(),
                in_flight: load.round() as u64,
                queue_depth: load.min(1.0) + (load - 1.0).max(0.0) * 8.0,
                await_ms: Some(self.spec.await_ms * load.max(1.0)),
                utilisation: load.min(1.0),
                read_bytes: 0.0,
                written_bytes: 0.0,
            }),
            psi_io_some: Some(stalled),
            psi_io_full: Some(stalled * 0.8),
            ..Pressure::default()
        }
    }
}
