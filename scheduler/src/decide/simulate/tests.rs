use super::contender::Contender;
use super::mix::Mix;
use super::{Dice, Report, run};

fn all(mix: &Mix) -> Vec<Report> {
    Contender::ALL.iter().map(|contender| run(mix, *contender)).collect()
}

/// The promise of `docs/placement.md`, on every mix but the largest (whose run belongs into the bench).
#[test]
fn placement_is_never_much_worse_and_far_better_with_a_slow_disk() {
    let mut told = String::new();
    for mix in Mix::all().iter().filter(|mix| mix.nodes.len() < 100) {
        let reports = all(mix);
        let ours = &reports[0];
        let best = |figure: fn(&Report) -> f64| reports[1..].iter().map(figure).fold(f64::INFINITY, f64::min);
        let (p95, mean) = (best(|report| report.p95_turnaround), best(|report| report.mean_turnaround));
        told += &format!(
            "{}: p95 {:.0} s (best other {p95:.0} s), mean {:.0} s (best other {mean:.0} s)\n",
            mix.name, ours.p95_turnaround, ours.mean_turnaround
        );
        assert!(ours.p95_turnaround <= p95 * 1.05 && ours.mean_turnaround <= mean * 1.05, "{told}");
        assert!(!mix.slow_disk || ours.p95_turnaround <= p95 * 0.8, "{told}");
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    let mix = &Mix::all()[1];
    assert_eq!(run(mix, Contender::Slipway), run(mix, Contender::Slipway));
}

#[test]
fn every_job_ends_and_waits_are_not_negative() {
    let mix = &Mix::all()[0];
    for report in all(mix) {
        assert!(report.p50_wait >= 0.0 && report.p95_wait >= report.p50_wait, "{report:?}");
        assert!(report.mean_turnaround > 0.0 && report.makespan >= report.p95_turnaround, "{report:?}");
        assert!((0.0..=1.0).contains(&report.warm), "{report:?}");
    }
}

#[test]
fn dice_stay_around_their_middle() {
    let mut dice = Dice::new(7);
    let mut drawn: Vec<f64> = (0..1001).map(|_| dice.around(100.0, 2.0)).collect();
    drawn.sort_by(f64::total_cmp);
    assert!((90.0..110.0).contains(&drawn[500]), "{}", drawn[500]);
    assert!(drawn[50] > 40.0 && drawn[950] < 250.0);
}
