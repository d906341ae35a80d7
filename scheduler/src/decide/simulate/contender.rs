//! Who decides.

use crate::decide::placement::{self, Ask, Node, Placement, Settings};
use jiff::Timestamp;

/// A rule for placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// [`placement::place`], with its hysteresis, as the driver calls it.
    Slipway,
    /// The next node in turn that has room.
    RoundRobin,
    /// The node with the smallest share of its slots taken.
    LeastLoaded,
    /// The node that holds the job's generation, however long it takes until it has room; a job without one goes to
    /// the least loaded.
    Affinity,
    /// A node that holds the job's generation and has room; else the least loaded.
    SpillingAffinity,
}

impl Contender {
    /// All, ours first.
    pub const ALL: [Contender; 5] = [
        Contender::Slipway,
        Contender::RoundRobin,
        Contender::LeastLoaded,
        Contender::Affinity,
        Contender::SpillingAffinity,
    ];

    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Contender::Slipway => "slipway",
            Contender::RoundRobin => "round-robin",
            Contender::LeastLoaded => "least-loaded",
            Contender::Affinity => "affinity",
            Contender::SpillingAffinity => "spilling affinity",
        }
    }
}

/// A contender and what it remembers.
#[derive(Debug)]
pub struct Decider {
    contender: Contender,
    settings: Settings,
    turn: usize,
}

impl Decider {
    /// At the start.
    #[must_use]
    pub fn new(contender: Contender) -> Self {
        Decider { contender, settings: Settings::default(), turn: 0 }
    }

    /// Where a job goes.
    pub fn place(&mut self, ask: &Ask, nodes: &[Node], now: Timestamp) -> Placement {
        let has_room = |node: &Node| node.free > 0;
        let load = |node: &Node| f64::from(node.held) / f64::from(node.capacity.max(1));
        let least = |chosen: &dyn Fn(&Node) -> bool| {
            let open = nodes.iter().enumerate().filter(|(_, node)| has_room(node) && chosen(node));
            open.min_by(|a, b| load(a.1).total_cmp(&load(b.1))).map(|(position, _)| position)
        };
        let holds = |node: &Node| node.generations.iter().any(|g| g.project == ask.project.0 && g.job == ask.job);
        let found = match self.contender {
            Contender::Slipway => return placement::place(ask, nodes, now, &self.settings),
            Contender::RoundRobin => {
                let turn = self.turn;
                let found = (0..nodes.len()).map(|n| (turn + n) % nodes.len()).find(|n| has_room(&nodes[*n]));
                self.turn = found.map_or(turn, |node| node + 1);
                found
            }
            Contender::LeastLoaded => least(&|_| true),
            Contender::Affinity => {
                if ask.engine && nodes.iter().any(holds) {
                    least(&holds)
                } else {
                    least(&|_| true)
                }
            }
            Contender::SpillingAffinity => least(&|node| ask.engine && holds(node)).or_else(|| least(&|_| true)),
        };
        match found {
            Some(node) => Placement::On { node, why: String::new() },
            None => Placement::Wait { until: None, why: String::new() },
        }
    }

    /// A second's samples came in.
    pub fn observe(&self, nodes: &mut [Node]) {
        for node in nodes {
            node.strain = placement::strain(node.strain, &node.pressure, 1.0);
            node.overloaded = placement::overloaded(node.overloaded, &node.pressure, &self.settings);
        }
    }
}
