//! Which node a job goes to, or how long it waits for a better one.
//!
//! First the hard needs: tags, architecture, trust, room, an engine, no overload. Then, of the nodes left, the one with
//! most expected seconds saved by the generation it holds, less the seconds lost to its pressure. When a warm node has
//! no room, the job waits for it, but not longer than half of what the warmth would save and never longer than
//! [`Settings::warm_wait_seconds`].

use jiff::{SignedDuration, Timestamp};
use slipway_spec::ids::ProjectId;
use slipway_spec::job::Tier;
use slipway_spec::pressure::Pressure;
use slipway_spec::view::GenerationView;
use std::sync::Arc;

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// A node whose load rises to this takes no more builds.
    pub overload_enter: f64,
    /// It takes them again when its load has fallen to this. The gap keeps it from changing its mind every second.
    pub overload_leave: f64,
    /// Longest wait for a warm node.
    pub warm_wait_seconds: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { overload_enter: 0.6, overload_leave: 0.35, warm_wait_seconds: 30.0 }
    }
}

/// What a job asks of a node.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whose it is.
    pub project: ProjectId,
    /// That project's path.
    pub project_path: String,
    /// Its name: with project and tier it names the lineage.
    pub job: String,
    /// Its trust.
    pub tier: Tier,
    /// Tags a node must carry.
    pub tags: Vec<String>,
    /// An architecture it needs.
    pub architecture: Option<String>,
    /// It wants an engine: it builds.
    pub engine: bool,
    /// How long its last runs took; 0 when there were none.
    pub expected_seconds: f64,
    /// Since when it could have started on a node that is not warm for it; now, if it never could.
    pub since: Timestamp,
}

/// A node as placement sees it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// Tags it carries.
    pub tags: Vec<String>,
    /// Paths of projects it may serve, or of groups with a slash at the end; empty means all.
    pub trust_domain: Vec<String>,
    /// It can lend engines.
    pub engines: bool,
    /// Jobs it may run at once.
    pub capacity: u32,
    /// Jobs it has.
    pub held: u32,
    /// Jobs it could start now.
    pub free: u32,
    /// Its own word that it takes no builds now, and why.
    pub refuses_builds: Option<String>,
    /// By [`overloaded`], sample by sample.
    pub overloaded: bool,
    /// It is only allowed jobs that ask for one of its tags.
    pub tagged_only: bool,
    /// Its load as it is remembered: [`strain`], sample by sample.
    pub strain: f64,
    /// Its last sample.
    pub pressure: Pressure,
    /// Generations it holds.
    pub generations: Arc<[GenerationView]>,
}

/// Where a job goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Placement {
    /// To that node.
    On {
        /// Position in the list given.
        node: usize,
        /// For people.
        why: String,
    },
    /// Nowhere now.
    Wait {
        /// At that moment the answer may be another although nothing else changed.
        until: Option<Timestamp>,
        /// For people.
        why: String,
    },
}

/// A node's load as placement counts it, 0 to 1: the worst of stalled time and of the disk's queue. I/O wait counts
/// half: it is idle time and falls when other work uses the CPU (proc(5)). A figure that is no number counts as none:
/// a node that lies hurts itself only.
#[must_use]
pub fn load(pressure: &Pressure) -> f64 {
    let disk = pressure.disk.as_ref();
    // A queue of 8 requests on average is taken as full: the depth from which SATA and network disks gain nothing.
    let queue = disk.map_or(0.0, |d| d.queue_depth / 8.0);
    // 50 ms a request is a disk that chokes, whatever its queue says.
    let wait = disk.and_then(|d| d.await_ms).map_or(0.0, |ms| ms / 50.0);
    [
        pressure.psi_io_full.unwrap_or(0.0),
        pressure.psi_io_some.unwrap_or(0.0) * 0.8,
        pressure.psi_memory_some.unwrap_or(0.0),
        pressure.io_wait * 0.5,
        queue.min(1.0) * wait.clamp(0.5, 1.0),
    ]
    .into_iter()
    .filter(|share| share.is_finite())
    .fold(0.0, f64::max)
    .clamp(0.0, 1.0)
}

/// Whether a node is overloaded after a sample, by whether it was before.
#[must_use]
pub fn overloaded(before: bool, pressure: &Pressure, settings: &Settings) -> bool {
    let load = load(pressure);
    if before { load > settings.overload_leave } else { load >= settings.overload_enter }
}

/// A node's load as it is remembered after a sample that came `seconds` after the one before: it rises within seconds
/// and is forgotten by half a minute after minute (0.99 a second). A disk that chokes under every build looks idle
/// between builds; without a memory the next one would go there again. What it is worth: `docs/placement.md`.
#[must_use]
pub fn strain(before: f64, pressure: &Pressure, seconds: f64) -> f64 {
    let load = load(pressure);
    let seconds = if seconds.is_finite() { seconds.clamp(0.0, 3600.0) } else { 1.0 };
    if load > before {
        // One bad second is not a bad disk.
        before + (load - before) * (1.0 - 0.7f64.powf(seconds))
    } else {
        (before * 0.99f64.powf(seconds)).max(load)
    }
}

/// Why a node can never run the job, or `None`.
fn unfit(ask: &Ask, node: &Node) -> Option<String> {
    let missing: Vec<&str> = ask.tags.iter().filter(|t| !node.tags.contains(t)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Some(format!("lacks the tag {}", missing.join(", ")));
    }
    if node.tagged_only && ask.tags.is_empty() {
        return Some("takes only jobs with tags".to_owned());
    }
    if let Some(wanted) = ask.architecture.as_ref().filter(|a| **a != node.architecture) {
        return Some(format!("is {}, not {wanted}", node.architecture));
    }
    let trusted = |domain: &String| {
        *domain == ask.project_path || (domain.ends_with('/') && ask.project_path.starts_with(domain.as_str()))
    };
    if !node.trust_domain.is_empty() && !node.trust_domain.iter().any(trusted) {
        return Some("may not serve this project".to_owned());
    }
    if ask.engine && !node.engines {
        return Some("has no engines".to_owned());
    }
    (node.capacity == 0).then(|| "has a capacity of 0".to_owned())
}

/// Why a node that could run the job does not take it now, or `None`. An idle node always takes one.
fn busy(ask: &Ask, node: &Node) -> Option<String> {
    if node.free == 0 || node.held >= node.capacity {
        return Some(format!("is full ({} of {})", node.held, node.capacity));
    }
    if !ask.engine || node.held == 0 {
        return None;
    }
    if let Some(why) = &node.refuses_builds {
        return Some(format!("takes no builds: {why}"));
    }
    node.overloaded.then(|| format!("is overloaded (load {:.0} %)", load(&node.pressure) * 100.0))
}

/// Seconds that the best generation the node holds for the job would save.
fn saved(ask: &Ask, node: &Node) -> f64 {
    if !ask.engine {
        return 0.0;
    }
    node.generations
        .iter()
        .filter(|g| g.project == ask.project.0 && (g.tier == Tier::Protected || g.tier == ask.tier))
        .map(|g| {
            let seconds = if g.build_seconds.is_finite() { g.build_seconds.clamp(0.0, 86_400.0) } else { 0.0 };
            // Another job's layers of the same project help, but not as surely.
            if g.job == ask.job { seconds } else { seconds * 0.3 }
        })
        .fold(0.0, f64::max)
}

/// Seconds that the node's load would cost.
fn lost(ask: &Ask, node: &Node) -> f64 {
    let expected = if ask.expected_seconds > 0.0 { ask.expected_seconds.min(86_400.0) } else { 60.0 };
    let load = load(&node.pressure).max(node.strain).min(0.95);
    let crowd = f64::from(node.held) / f64::from(node.capacity.max(1));
    let disk = if ask.engine { load / (1.0 - load) } else { load * 0.2 };
    expected * (disk + crowd * 0.25)
}

/// What speaks for and against a node, for people.
fn weighed(ask: &Ask, node: &Node) -> String {
    let (saved, lost) = (saved(ask, node), lost(ask, node));
    let warmth =
        if saved > 0.0 { format!("has a generation that saves about {saved:.0} s") } else { "is cold".to_owned() };
    let load = load(&node.pressure).max(node.strain) * 100.0;
    format!("{warmth} and its I/O load of {load:.0} % costs about {lost:.0} s")
}

/// Where the job goes.
#[must_use]
pub fn place(ask: &Ask, nodes: &[Node], now: Timestamp, settings: &Settings) -> Placement {
    let mut refusals: Vec<String> = Vec::new();
    let mut best: Option<(f64, usize)> = None;
    let mut warm_but_busy: Option<(f64, usize)> = None;
    for (position, node) in nodes.iter().enumerate() {
        if let Some(why) = unfit(ask, node) {
            refusals.push(format!("{} {why}", node.name));
            continue;
        }
        let gain = saved(ask, node) - lost(ask, node);
        if let Some(why) = busy(ask, node) {
            refusals.push(format!("{} {why}", node.name));
            // What it will be worth when it is free: its crowd of today does not count.
            let worth = saved(ask, node);
            if worth > warm_but_busy.map_or(0.0, |(w, _)| w) {
                warm_but_busy = Some((worth, position));
            }
            continue;
        }
        if best.is_none_or(|(before, _)| gain > before) {
            best = Some((gain, position));
        }
    }
    let Some((gain, chosen)) = best else {
        let why = match refusals.len() {
            0 => "no node is connected".to_owned(),
            1..=5 => refusals.join("; "),
            more => format!("{}; and {} more nodes", refusals[..5].join("; "), more - 5),
        };
        return Placement::Wait { until: None, why };
    };
    let node = &nodes[chosen];
    if let Some((worth, warm)) = warm_but_busy {
        let better = worth - gain.max(saved(ask, node));
        let patience = (better / 2.0).min(settings.warm_wait_seconds);
        let until = ask.since + SignedDuration::try_from_secs_f64(patience.max(0.0)).unwrap_or(SignedDuration::ZERO);
        if better > 5.0 && until > now {
            let why = format!(
                "waits for {}, whose warm generation saves about {better:.0} s, until {until} at the latest; {} would take it now",
                nodes[warm].name, node.name
            );
            return Placement::Wait { until: Some(until), why };
        }
    }
    let mut why = format!("{} {}", node.name, weighed(ask, node));
    let others = nodes.iter().enumerate().filter(|(i, n)| *i != chosen && unfit(ask, n).is_none());
    for (_, other) in others.take(3) {
        let against = busy(ask, other).unwrap_or_else(|| weighed(ask, other));
        why += &format!("; {} {against}", other.name);
    }
    Placement::On { node: chosen, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_spec::pressure::Disk;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ask() -> Ask {
        Ask {
            project: ProjectId(1),
            project_path: "team/app".into(),
            job: "build".into(),
            tier: Tier::Protected,
            tags: vec![],
            architecture: None,
            engine: true,
            expected_seconds: 60.0,
            since: at(100),
        }
    }

    fn node(name: &str) -> Node {
        Node {
            name: name.into(),
            architecture: "amd64".into(),
            tags: vec![],
            trust_domain: vec![],
            engines: true,
            capacity: 4,
            held: 0,
            free: 4,
            refuses_builds: None,
            overloaded: false,
            strain: 0.0,
            tagged_only: false,
            pressure: Pressure::default(),
            generations: Arc::default(),
        }
    }

    fn warm(name: &str, seconds: f64) -> Node {
        let generation = GenerationView {
            project: 1,
            job: "build".into(),
            tier: Tier::Protected,
            number: 3,
            build_seconds: seconds,
            bytes: 1,
        };
        Node { generations: Arc::from([generation]), ..node(name) }
    }

    fn pressed(name: &str, io: f64) -> Node {
        Node { pressure: Pressure { psi_io_full: Some(io), ..Pressure::default() }, ..node(name) }
    }

    fn chosen(nodes: &[Node], ask: &Ask, now: i64) -> Result<String, (Option<Timestamp>, String)> {
        match place(ask, nodes, at(now), &Settings::default()) {
            Placement::On { node, .. } => Ok(nodes[node].name.clone()),
            Placement::Wait { until, why } => Err((until, why)),
        }
    }

    #[test]
    fn warm_node_beats_a_cold_one() {
        assert_eq!(chosen(&[node("a"), warm("b", 90.0)], &ask(), 100).unwrap(), "b");
    }

    #[test]
    fn quiet_node_beats_a_pressed_one() {
        assert_eq!(chosen(&[pressed("a", 0.5), node("b")], &ask(), 100).unwrap(), "b");
    }

    #[test]
    fn pressure_can_cost_more_than_warmth_saves() {
        let mut warm = warm("a", 30.0);
        warm.pressure.psi_io_full = Some(0.5);
        assert_eq!(chosen(&[warm, node("b")], &ask(), 100).unwrap(), "b");
    }

    #[test]
    fn missing_tag_is_named() {
        let ask = Ask { tags: vec!["gpu".into()], ..ask() };
        let (until, why) = chosen(&[node("a")], &ask, 100).unwrap_err();
        assert_eq!(until, None);
        assert_eq!(why, "a lacks the tag gpu");
    }

    #[test]
    fn idle_node_takes_one_job_whatever_its_load() {
        let mut only = pressed("a", 1.0);
        only.overloaded = true;
        assert_eq!(chosen(std::slice::from_ref(&only), &ask(), 100).unwrap(), "a");
        only.held = 1;
        only.free = 3;
        assert!(chosen(&[only], &ask(), 100).is_err());
    }

    #[test]
    fn full_warm_node_is_waited_for_until_its_deadline() {
        let mut warm = warm("a", 100.0);
        (warm.held, warm.free) = (4, 0);
        let nodes = [warm, node("b")];
        let (until, why) = chosen(&nodes, &ask(), 100).unwrap_err();
        assert_eq!(until, Some(at(130)), "{why}");
        assert_eq!(chosen(&nodes, &ask(), 130).unwrap(), "b");
    }

    #[test]
    fn protected_job_is_not_drawn_by_an_unprotected_generation() {
        let mut tempting = warm("a", 500.0);
        let unprotected = GenerationView { tier: Tier::Unprotected, ..tempting.generations[0].clone() };
        tempting.generations = Arc::from([unprotected]);
        assert_eq!(saved(&ask(), &tempting), 0.0);
        assert_eq!(saved(&Ask { tier: Tier::Unprotected, ..ask() }, &tempting), 500.0);
    }

    #[test]
    fn node_that_choked_is_remembered_for_a_while() {
        let (choked, calm) = (pressed("a", 0.9).pressure, Pressure::default());
        let second = strain(0.0, &choked, 1.0);
        assert!((0.1..0.4).contains(&second), "one bad second: {second}");
        let minute = (0..60).fold(0.0, |before, _| strain(before, &choked, 1.0));
        assert!(minute > 0.89, "{minute}");
        let later = (0..60).fold(minute, |before, _| strain(before, &calm, 1.0));
        assert!((0.4..0.6).contains(&later), "{later}");
        assert!((strain(minute, &calm, 60.0) - later).abs() < 1e-6, "however often it reports");
        // Idle by now, but the next build goes elsewhere.
        let mut once = node("a");
        once.strain = later;
        assert_eq!(chosen(&[once, node("b")], &ask(), 100).unwrap(), "b");
    }

    #[test]
    fn overload_has_a_gap_between_entering_and_leaving() {
        let sample = |io| Pressure { psi_io_full: Some(io), ..Pressure::default() };
        let settings = Settings::default();
        assert!(!overloaded(false, &sample(0.5), &settings));
        assert!(overloaded(false, &sample(0.6), &settings));
        assert!(overloaded(true, &sample(0.5), &settings));
        assert!(!overloaded(true, &sample(0.3), &settings));
    }

    #[test]
    fn figures_that_are_no_numbers_are_ignored() {
        let disk = Disk { queue_depth: f64::NAN, await_ms: Some(f64::INFINITY), ..Disk::default() };
        let lie = Pressure { io_wait: f64::NAN, psi_io_full: Some(-4.0), disk: Some(disk), ..Pressure::default() };
        assert!((0.0..=1.0).contains(&load(&lie)));
        let mut liar = warm("a", f64::INFINITY);
        liar.pressure = lie;
        assert!(chosen(&[liar, node("b")], &ask(), 100).is_ok());
    }

    #[test]
    fn trust_domain_keeps_other_projects_out() {
        let mut closed = node("a");
        closed.trust_domain = vec!["other/".into()];
        assert!(chosen(std::slice::from_ref(&closed), &ask(), 100).is_err());
        closed.trust_domain = vec!["team/".into()];
        assert_eq!(chosen(&[closed], &ask(), 100).unwrap(), "a");
    }
}
