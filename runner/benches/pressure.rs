//! What a sample of a node's pressure costs, in CPU time. At one a second, 1 ms is 0.1 % of a core.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use slipway_runner::pressure::Sampler;
use std::time::Instant;

fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("usage of this thread");
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
}

fn main() {
    let folder = std::env::current_dir().expect("a folder");
    let mut sampler = Sampler::open(&folder, Instant::now()).expect("a sampler");
    let devices = std::fs::read_to_string("/proc/diskstats").expect("diskstats").lines().count();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    const SAMPLES: u32 = 2000;
    let began = cpu_seconds();
    for _ in 0..SAMPLES {
        std::hint::black_box(sampler.sample(Instant::now()).expect("a sample"));
    }
    let each = (cpu_seconds() - began) / f64::from(SAMPLES);
    println!("{devices} block devices, {processors} processors");
    println!("{:.0} us of CPU a sample = {:.4} % of a core at one a second", each * 1e6, each * 100.0);
}
