//! What `slipway top` shows: pure, so that a test can draw it on a terminal that is none.

use crate::table::bytes;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};
use slipway_spec::view::NodeView;
use std::collections::{BTreeMap, VecDeque};

/// Samples of a figure that are kept: as many as the widest screen shows.
const SAMPLES_MAX: usize = 512;
/// Rows of a node: a line of words, a line of figures, two of curves, and a blank one.
const NODE_ROWS: u16 = 5;

/// The curves of a node.
#[derive(Default)]
struct Curves {
    /// Share of time, in tenths of a per cent.
    io_wait: VecDeque<u64>,
    /// Requests, in tenths.
    queue: VecDeque<u64>,
    /// Microseconds.
    wait: VecDeque<u64>,
    /// Share of time, in tenths of a per cent.
    stalled: VecDeque<u64>,
}

/// What is shown.
#[derive(Default)]
pub(super) struct Screen {
    nodes: BTreeMap<String, (NodeView, Curves)>,
    lost: Option<String>,
    first: usize,
}

fn keep(curve: &mut VecDeque<u64>, value: f64) {
    if curve.len() == SAMPLES_MAX {
        curve.pop_front();
    }
    // `as` makes 0 of what is no number, and the largest of what is too large.
    curve.push_back(value.max(0.0) as u64);
}

impl Screen {
    /// Takes a look at all nodes.
    pub(super) fn observe(&mut self, nodes: Vec<NodeView>) {
        self.lost = None;
        let mut before = std::mem::take(&mut self.nodes);
        for node in nodes {
            let mut curves = before.remove(&node.name).map(|(_, curves)| curves).unwrap_or_default();
            let pressure = &node.pressure;
            let disk = pressure.disk.as_ref();
            keep(&mut curves.io_wait, pressure.io_wait * 1000.0);
            keep(&mut curves.queue, disk.map_or(0.0, |disk| disk.queue_depth) * 10.0);
            keep(&mut curves.wait, disk.and_then(|disk| disk.await_ms).unwrap_or(0.0) * 1000.0);
            keep(&mut curves.stalled, pressure.psi_io_some.unwrap_or(0.0) * 1000.0);
            self.nodes.insert(node.name.clone(), (node, curves));
        }
        self.scroll(0);
    }

    /// The scheduler did not answer.
    pub(super) fn lost(&mut self, why: String) {
        self.lost = Some(why);
    }

    /// Moves the list by some nodes.
    pub(super) fn scroll(&mut self, by: isize) {
        self.first = self.first.saturating_add_signed(by).min(self.nodes.len().saturating_sub(1));
    }

    /// Draws it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        let online = self.nodes.values().filter(|(node, _)| node.online).count();
        let jobs: usize = self.nodes.values().map(|(node, _)| node.jobs.len()).sum();
        let slots: u32 = self.nodes.values().filter(|(node, _)| node.online).map(|(node, _)| node.capacity).sum();
        let title = format!("slipway: {online} of {} nodes, {jobs} jobs in {slots} slots", self.nodes.len());
        frame.render_widget(Paragraph::new(title).bold(), head);
        let shown = usize::from(body.height / NODE_ROWS).max(1);
        for (row, (node, curves)) in self.nodes.values().skip(self.first).take(shown).enumerate() {
            let top = body.y + u16::try_from(row).unwrap_or(0) * NODE_ROWS;
            let area = Rect { y: top, height: NODE_ROWS.min(body.bottom().saturating_sub(top)), ..body };
            draw_node(frame, area, node, curves);
        }
        let last = match &self.lost {
            Some(why) => Line::from(format!("no answer: {why}")).red(),
            None => Line::from("q: quit   up, down: other nodes").dim(),
        };
        frame.render_widget(last, foot);
    }
}

fn draw_node(frame: &mut Frame<'_>, area: Rect, node: &NodeView, curves: &Curves) {
    let rows = Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Length(2)]);
    let [words, figures, lines] = rows.areas(area);
    let pressure = &node.pressure;
    let mut line = vec![
        Span::from(node.name.clone()).bold(),
        Span::from(if node.online { "  online" } else { "  gone" }).style(if node.online {
            Style::new().fg(Color::Green)
        } else {
            Style::new().fg(Color::Red)
        }),
        Span::from(format!(
            "  jobs {}/{}  memory free {}  disk free {}  cache {}  {} generations",
            node.jobs.len(),
            node.capacity,
            bytes(pressure.memory_available_bytes),
            bytes(pressure.disk_free_bytes),
            bytes(node.cache_bytes),
            node.generations.len(),
        )),
    ];
    if let Some(why) = &node.refuses_builds {
        line.push(Span::from(format!("  {why}")).yellow());
    }
    frame.render_widget(Line::from(line), words);
    let disk = pressure.disk.as_ref();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let share = |share: f64| format!("{:.0} %", share * 100.0);
    // A curve that never leaves the floor is drawn against these, so that noise does not fill it.
    let columns = [
        (format!("I/O wait {}", share(pressure.io_wait)), &curves.io_wait, 100),
        (format!("queue {}", or_none(disk.map(|d| format!("{:.1}", d.queue_depth)))), &curves.queue, 40),
        (
            format!("await {}", or_none(disk.and_then(|d| d.await_ms).map(|ms| format!("{ms:.1} ms")))),
            &curves.wait,
            5000,
        ),
        (format!("stalled {}", or_none(pressure.psi_io_some.map(share))), &curves.stalled, 100),
    ];
    let split = Layout::horizontal([Constraint::Fill(1); 4]).spacing(2);
    let (above, below) = (split.areas::<4>(figures), split.areas::<4>(lines));
    for (index, (text, curve, floor)) in columns.into_iter().enumerate() {
        frame.render_widget(Line::from(text).cyan(), above[index]);
        let width = usize::from(below[index].width);
        let newest: Vec<u64> = curve.iter().skip(curve.len().saturating_sub(width)).copied().collect();
        let most = newest.iter().copied().max().unwrap_or(0).max(floor);
        frame.render_widget(Sparkline::default().data(&newest).max(most), below[index]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use slipway_spec::pressure::{Disk, Pressure};

    fn node(name: &str, queue_depth: f64) -> NodeView {
        let disk = Disk { device: "vda".into(), queue_depth, await_ms: Some(1.5), ..Disk::default() };
        NodeView {
            name: name.into(),
            online: true,
            version: "1".into(),
            architecture: "amd64".into(),
            tags: Vec::new(),
            capacity: 4,
            jobs: vec![slipway_spec::ids::JobId(7)],
            wall: "userns".into(),
            refuses_builds: None,
            generations: Vec::new(),
            cache_bytes: 1_500_000_000,
            pressure: Pressure { io_wait: 0.25, disk: Some(disk), ..Pressure::default() },
            seen_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn drawn(screen: &Screen, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, height)).expect("a terminal");
        terminal.draw(|frame| screen.draw(frame)).expect("drawn");
        let buffer = terminal.backend().buffer().clone();
        let row = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn nodes_are_drawn_with_their_figures_and_curves() {
        let mut screen = Screen::default();
        for queue in [0.0, 2.0, 8.0] {
            let closed = NodeView { refuses_builds: Some("refuses builds because X".into()), ..node("b", 0.0) };
            screen.observe(vec![node("a", queue), closed]);
        }
        let text = drawn(&screen, 20);
        assert!(text.contains("2 of 2 nodes, 2 jobs in 8 slots"), "{text}");
        assert!(text.contains("a  online  jobs 1/4") && text.contains("cache 1.5 GB"), "{text}");
        assert!(
            text.contains("I/O wait 25 %") && text.contains("queue 8.0") && text.contains("await 1.5 ms"),
            "{text}"
        );
        assert!(text.contains("stalled -"), "a figure that the host lacks: {text}");
        assert!(text.contains("refuses builds because X"), "{text}");
        // I/O wait three times full; of the queue nothing, then a quarter of two rows, then both.
        let curves: Vec<&str> = text.lines().skip(4).take(2).collect();
        assert_eq!(curves[0].matches('█').count(), 3 + 1, "{text}");
        assert!(curves[1].contains("▄█"), "{text}");
    }

    #[test]
    fn list_scrolls_and_a_scheduler_that_is_gone_is_named() {
        let mut screen = Screen::default();
        screen.observe((0..9).map(|n| node(&format!("node-{n}"), 1.0)).collect());
        assert!(drawn(&screen, 9).contains("node-0"));
        screen.scroll(20);
        let text = drawn(&screen, 9);
        assert!(text.contains("node-8") && !text.contains("node-0"), "{text}");
        screen.lost("connection refused".into());
        assert!(drawn(&screen, 9).contains("no answer: connection refused"));
        screen.observe(vec![node("only", 1.0)]);
        let text = drawn(&screen, 9);
        assert!(text.contains("only") && !text.contains("no answer"), "{text}");
        // Narrow and low terminals are drawn on too.
        let mut small = Terminal::new(TestBackend::new(10, 3)).expect("a terminal");
        small.draw(|frame| screen.draw(frame)).expect("drawn");
    }
}
