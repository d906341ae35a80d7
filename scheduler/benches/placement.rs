//! The simulator's table and plot: `docs/placement.md`, `docs/placement.svg`. Seeded: the same every time.

use slipway_scheduler::decide::simulate::contender::Contender;
use slipway_scheduler::decide::simulate::mix::Mix;
use slipway_scheduler::decide::simulate::{Report, run};
use std::fmt::Write as _;
use std::path::Path;

/// Distinct for most people with a colour vision deficiency (Okabe and Ito, 2008).
const COLOURS: [&str; 5] = ["#0072b2", "#e69f00", "#999999", "#009e73", "#cc79a7"];

fn best_of_others(reports: &[Report], figure: fn(&Report) -> f64) -> f64 {
    reports[1..].iter().map(figure).fold(f64::INFINITY, f64::min)
}

fn table(all: &[(Mix, Vec<Report>)]) -> String {
    let mut text = String::from(
        "| mix | rule | p95 turnaround | mean turnaround | p50 wait | p95 wait | warm builds | worst disk queue | makespan |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (mix, reports) in all {
        for report in reports {
            let first = report.contender == Contender::Slipway;
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} s | {:.0} s | {:.0} s | {:.0} s | {:.0} % | {:.1} | {:.0} s |",
                if first { mix.name } else { "" },
                if first { "**slipway**" } else { report.contender.name() },
                report.p95_turnaround,
                report.mean_turnaround,
                report.p50_wait,
                report.p95_wait,
                report.warm * 100.0,
                report.worst_queue,
                report.makespan,
            );
        }
    }
    text
}

/// Bars of the p95 turnaround, ours as 1.
fn plot(all: &[(Mix, Vec<Report>)]) -> String {
    let (left, bar, gap, scale, most) = (130, 11, 14, 150.0, 4.0);
    let group = bar * i32::try_from(Contender::ALL.len()).unwrap_or(1) + gap;
    let height = 60 + group * i32::try_from(all.len()).unwrap_or(1);
    let width = left + (scale * most) as i32 + 60;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, contender) in Contender::ALL.iter().enumerate() {
        let x = left + 125 * i32::try_from(index).unwrap_or(0);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"12\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"21\">{}</text>",
            COLOURS[index],
            x + 14,
            contender.name()
        );
    }
    let _ = writeln!(svg, "<text x=\"{left}\" y=\"38\" fill=\"#555\">p95 turnaround, slipway = 1</text>");
    let mut y = 48;
    for (mix, reports) in all {
        let ours = reports[0].p95_turnaround.max(1.0);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", left - 8, y + 30, mix.name);
        for (index, report) in reports.iter().enumerate() {
            let times = report.p95_turnaround / ours;
            let shown = times.min(most) * scale;
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{shown:.0}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.0}\" y=\"{}\" \
                 font-size=\"9\">{times:.2}</text>",
                bar - 1,
                COLOURS[index],
                f64::from(left) + shown + 4.0,
                y + 9
            );
            y += bar;
        }
        y += gap;
    }
    svg.push_str("</svg>\n");
    svg
}

fn page(all: &[(Mix, Vec<Report>)]) -> String {
    let mut text = String::from(
        "# Placement by disk pressure, simulated\n\n\
         Made by `cargo bench -p slipway-scheduler --bench placement`; seeded, so the same every time. The rule under test \
         is `scheduler/src/decide/placement.rs` itself; physics, fleets and work are in `scheduler/src/decide/simulate/`.\n\n\
         ![p95 turnaround](placement.svg)\n\n\
         Turnaround is from a job's arrival to its end. *affinity* waits for the node that holds a job's generation, \
         however long; *spilling affinity* takes the least loaded when that node is full.\n\n## Mixes\n\n",
    );
    for (mix, reports) in all {
        let gain = 1.0 - reports[0].p95_turnaround / best_of_others(reports, |r| r.p95_turnaround);
        let mean = 1.0 - reports[0].mean_turnaround / best_of_others(reports, |r| r.mean_turnaround);
        let _ = writeln!(
            text,
            "- **{}**: {}. {} machines, {} jobs. Against the best of the others: p95 turnaround {:+.0} %, mean {:+.0} %.",
            mix.name,
            mix.about,
            mix.nodes.len(),
            mix.work.len(),
            (-gain * 100.0).round() + 0.0,
            (-mean * 100.0).round() + 0.0,
        );
    }
    text += "\nWhat was learnt from it: patience for a warm node counts from the moment a job could have started \
             elsewhere, not from its arrival (a job in a full queue takes nobody's slot; the burst's mean fell from 217 \
             to 197 s); and a disk that chokes under every build looks idle between builds, so load is remembered for \
             minutes (half slow: p95 from 178 to 114 s).\n\n";
    text + &table(all)
}

fn main() {
    let all: Vec<(Mix, Vec<Report>)> = Mix::all()
        .into_iter()
        .map(|mix| {
            let reports = Contender::ALL.iter().map(|contender| run(&mix, *contender)).collect();
            (mix, reports)
        })
        .collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::write(docs.join("placement.md"), page(&all)).expect("docs/placement.md is written");
    std::fs::write(docs.join("placement.svg"), plot(&all)).expect("docs/placement.svg is written");
    print!("{}", table(&all));
}
