//! Pressure: the arithmetic, the kernel's real counters, and admission.

use slipway_runner::pressure::{Admission, CpuTicks, DiskCounters, Limits, Reading, Sampler, Stalled, between};
use slipway_spec::pressure::{Disk, Pressure};
use std::io::Write;
use std::time::{Duration, Instant};

fn disk(device: &str) -> DiskCounters {
    DiskCounters {
        device: device.into(),
        completed: 1000,
        taken_ms: 5000,
        read_bytes: 1 << 20,
        written_bytes: 1 << 20,
        in_flight: 0,
        busy_ms: 4000,
        weighted_ms: 9000,
    }
}

fn reading(disk: Option<DiskCounters>) -> Reading {
    Reading {
        cpu: CpuTicks { io_wait: 100, total: 1000 },
        disk,
        stalled: Stalled { io_some: Some(1_000_000), io_full: Some(500_000), memory_some: None, cpu_some: Some(7) },
        memory_total_bytes: 100,
        memory_available_bytes: 40,
        disk_free_bytes: 30,
        disk_total_bytes: 60,
    }
}

#[test]
fn figures_are_what_the_kernel_documents() {
    let before = reading(Some(disk("vda")));
    let mut after = reading(Some(DiskCounters {
        completed: 1100,
        taken_ms: 6000,
        read_bytes: 3 << 20,
        written_bytes: 5 << 20,
        in_flight: 3,
        busy_ms: 5000,
        weighted_ms: 17000,
        ..disk("vda")
    }));
    after.cpu = CpuTicks { io_wait: 150, total: 1400 };
    after.stalled =
        Stalled { io_some: Some(1_500_000), io_full: Some(900_000), memory_some: Some(5), cpu_some: Some(7) };
    let expected = Pressure {
        io_wait: 0.125,
        disk: Some(Disk {
            device: "vda".into(),
            in_flight: 3,
            queue_depth: 4.0,
            await_ms: Some(10.0),
            utilisation: 0.5,
            read_bytes: f64::from(1 << 20),
            written_bytes: f64::from(2 << 20),
        }),
        psi_io_some: Some(0.25),
        psi_io_full: Some(0.2),
        psi_memory_some: None,
        psi_cpu_some: Some(0.0),
        memory_total_bytes: 100,
        memory_available_bytes: 40,
        disk_free_bytes: 30,
        disk_total_bytes: 60,
    };
    assert_eq!(between(&before, &after, Duration::from_secs(2)), expected);
}

#[test]
fn counters_that_wrap_go_on() {
    let before = reading(Some(DiskCounters { busy_ms: (1 << 32) - 100, weighted_ms: (1 << 32) - 500, ..disk("vda") }));
    let after = reading(Some(DiskCounters { busy_ms: 400, weighted_ms: 1500, completed: 1001, ..disk("vda") }));
    let disk = between(&before, &after, Duration::from_secs(1)).disk.expect("the same device");
    assert!((disk.utilisation - 0.5).abs() < 1e-9, "{disk:?}");
    assert!((disk.queue_depth - 2.0).abs() < 1e-9, "{disk:?}");
    // The sum of the times of reads, writes, discards and flushes, one of which wrapped.
    let before = reading(Some(DiskCounters { taken_ms: 1 << 33, ..self::disk("vda") }));
    let taken_ms = (1 << 33) + 200 - (1 << 32);
    let after = reading(Some(DiskCounters { taken_ms, completed: 1010, ..self::disk("vda") }));
    let disk = between(&before, &after, Duration::from_secs(1)).disk.expect("the same device");
    assert_eq!(disk.await_ms, Some(20.0));
}

#[test]
fn device_that_vanishes_or_comes_back_gives_no_figure() {
    let one = Duration::from_secs(1);
    let (here, gone) = (reading(Some(disk("vda"))), reading(None));
    assert_eq!(between(&here, &gone, one).disk, None);
    assert_eq!(between(&gone, &here, one).disk, None);
    assert_eq!(between(&here, &reading(Some(disk("vdb"))), one).disk, None);
    let back = reading(Some(DiskCounters { completed: 3, read_bytes: 0, written_bytes: 0, ..disk("vda") }));
    assert_eq!(between(&here, &back, one).disk, None, "counters from zero are another device");
    assert_eq!(between(&here, &here, Duration::ZERO).disk, None);
    let idle = between(&here, &here, one);
    assert_eq!((idle.io_wait, idle.disk.expect("the device").await_ms), (0.0, None));
}

#[test]
fn io_wait_that_decreases_is_no_giant() {
    let (before, mut after) = (reading(None), reading(None));
    after.cpu = CpuTicks { io_wait: 90, total: 1010 };
    assert_eq!(between(&before, &after, Duration::from_secs(1)).io_wait, 0.0);
}

#[test]
fn sampler_sees_what_is_written() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on a disk");
    let began = Instant::now();
    let mut sampler = Sampler::open(folder.path(), began).expect("a sampler");
    let mut file = std::fs::File::create(folder.path().join("data")).expect("a file");
    file.write_all(&vec![7; 8 << 20]).expect("a write");
    file.sync_all().expect("a sync");
    let sample = sampler.sample(Instant::now()).expect("a sample");
    assert!(sample.memory_total_bytes > sample.memory_available_bytes && sample.memory_available_bytes > 0);
    assert!(sample.disk_total_bytes >= sample.disk_free_bytes && sample.disk_total_bytes > 0);
    assert!((0.0..=1.0).contains(&sample.io_wait));
    match (sampler.device(), sample.disk) {
        (Some(device), Some(disk)) => {
            assert!(!disk.device.is_empty());
            let seconds = began.elapsed().as_secs_f64();
            assert!(disk.written_bytes * seconds > 4e6, "8 MiB were written to {device}: {disk:?} in {seconds} s");
        }
        (None, None) => eprintln!("the target folder is on no block device: only the other figures were tested"),
        (device, disk) => panic!("device {device:?}, but {disk:?}"),
    }
    assert_eq!(sample.psi_io_some.is_some(), std::path::Path::new("/proc/pressure/io").exists());
}

fn queue(depth: f64) -> Pressure {
    Pressure {
        disk: Some(Disk {
            device: "vda".into(),
            in_flight: 0,
            queue_depth: depth,
            await_ms: None,
            utilisation: 1.0,
            read_bytes: 0.0,
            written_bytes: 0.0,
        }),
        ..Pressure::default()
    }
}

#[test]
fn node_closes_after_some_seconds_and_opens_when_it_is_calm() {
    let limits =
        Limits { queue_depth: Some(10.0), close_after: 3, reopen_after: 2, reopen_share: 0.7, ..Limits::default() };
    let mut state = Admission::default();
    let mut closed = Vec::new();
    // One bad second is none; 8 is under the limit but not calm.
    for depth in [11.0, 1.0, 11.0, 12.0, 13.0, 8.0, 6.0, 8.0, 6.0, 6.0, 11.0] {
        state = state.observe(&queue(depth), &limits);
        closed.push(state.refusal().is_some());
    }
    assert_eq!(closed, [false, false, false, false, true, true, true, true, true, false, false]);
    let refused = (0..3).fold(Admission::default(), |state, _| state.observe(&queue(12.4), &limits)).refusal();
    assert_eq!(refused.as_deref(), Some("refuses builds because the disk's queue holds 12 requests (limit 10)"));
}

#[test]
fn every_limit_closes_and_what_the_host_lacks_does_not() {
    let limits = Limits { close_after: 1, ..Limits::default() };
    let refusal = |sample: &Pressure| Admission::default().observe(sample, &limits).refusal();
    assert_eq!(refusal(&Pressure::default()), None, "no figure at all");
    for (sample, words) in [
        (Pressure { psi_io_full: Some(0.9), ..Pressure::default() }, "waits for the disk 90 %"),
        (Pressure { memory_total_bytes: 100, memory_available_bytes: 4, ..Pressure::default() }, "4 % of memory"),
        (Pressure { disk_total_bytes: 1 << 40, disk_free_bytes: 1 << 30, ..Pressure::default() }, "1024 MiB are free"),
    ] {
        let text = refusal(&sample).unwrap_or_else(|| panic!("{words}"));
        assert!(text.contains(words), "{text}");
    }
    let mut slow = queue(1.0);
    if let Some(disk) = &mut slow.disk {
        disk.await_ms = Some(250.0);
    }
    assert!(refusal(&slow).expect("too slow").contains("250 ms"));
}
