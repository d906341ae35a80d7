//! Masking: bytes a second of CPU time with 100 secrets, a build's log, in writes of several sizes.
//!
//! CPU time and not time on the clock: the figure does not depend on what else the machine does.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use slipway_runner::trace::mask::Masker;

fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("usage of this thread");
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
}

fn main() {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let secrets: Vec<String> = (1u64..=100)
        .map(|n| {
            let mut x = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut next = || {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                char::from(alphabet[(x % 62) as usize])
            };
            (0..24).map(|_| next()).collect()
        })
        .collect();
    let line = "#12 4.512 npm http fetch GET 200 https://registry.npmjs.org/lodash/-/lodash-4.17.21.tgz 84ms\n";
    let mut text = Vec::new();
    while text.len() < 64 << 20 {
        text.extend_from_slice(line.as_bytes());
        if text.len() % 4000 < line.len() {
            text.extend_from_slice(secrets[text.len() % 100].as_bytes());
            text.push(b'\n');
        }
    }
    println!("| write of | GB/s of one core |\n|---|---|");
    for chunk in [1 << 10, 4 << 10, 64 << 10, 1 << 20] {
        let best = (0..5)
            .map(|_| {
                let mut masker = Masker::new(&secrets, &[] as &[&str]);
                let mut out = Vec::with_capacity(2 << 20);
                let began = cpu_seconds();
                for part in text.chunks(chunk) {
                    masker.push(part, &mut out);
                    if out.len() > 1 << 20 {
                        out.clear();
                    }
                }
                masker.finish(&mut out);
                text.len() as f64 / (cpu_seconds() - began) / 1e9
            })
            .fold(0.0, f64::max);
        println!("| {} KiB | {best:.2} |", chunk >> 10);
    }
}
