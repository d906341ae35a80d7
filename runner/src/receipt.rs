//! What a job used: cgroup readings of its containers (v1 and v2), and what its trace says of builds and pushes.

use crate::executor::container;
use bollard::Docker;
use slipway_spec::receipt::{Pushed, Receipt};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where cgroup file systems are mounted (cgroups(7)).
const CGROUP: &str = "/sys/fs/cgroup";
/// Images of one trace that are listed at most.
const PUSHED_MAX: usize = 100;

/// Slow steps that are listed.
const SLOW_STEPS: usize = 3;
/// Characters of a step's text that are kept.
const STEP_TEXT_MAX: usize = 100;

/// The cgroups of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meter {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    V1 { cpu: Option<PathBuf>, memory: Option<PathBuf>, blkio: Option<PathBuf> },
    V2(PathBuf),
}

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system together.
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) memory_peak: Option<u64>,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) written_bytes: Option<u64>,
    /// Pressure stall information is of cgroup v2 alone.
    pub(crate) io_stalled_seconds: Option<f64>,
}

impl Meter {
    /// The cgroups of a running container; `None` when they cannot be found.
    pub(crate) async fn of(docker: &Docker, container: &str) -> Option<Meter> {
        let pid = container::condition(docker, container).await?.pid;
        Meter::of_pid(u32::try_from(pid).ok().filter(|p| *p > 0)?)
    }

    /// The cgroups of a process.
    pub(crate) fn of_pid(pid: u32) -> Option<Meter> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Meter::of_text(&text, Path::new(CGROUP))
    }

    /// Of `/proc/<pid>/cgroup`: `number:controllers:path` lines.
    fn of_text(text: &str, root: &Path) -> Option<Meter> {
        let path = |controller: &str| {
            text.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                controllers.split(',').any(|c| c == controller).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let v1 = |controller: &str| path(controller).map(|p| root.join(controller).join(p)).filter(|p| p.is_dir());
        let (cpu, memory, blkio) = (v1("cpuacct"), v1("memory"), v1("blkio"));
        if cpu.is_some() || memory.is_some() {
            return Some(Meter { kind: Kind::V1 { cpu, memory, blkio } });
        }
        let unified = root.join(path("")?);
        unified.join("cgroup.procs").exists().then_some(Meter { kind: Kind::V2(unified) })
    }

    /// Reads the counters.
    pub(crate) fn read(&self) -> Usage {
        match &self.kind {
            Kind::V1 { cpu, memory, blkio } => {
                let file = |dir: &Option<PathBuf>, name: &str| fs::read_to_string(dir.as_ref()?.join(name)).ok();
                #[allow(clippy::cast_precision_loss)]
                let cpu_seconds =
                    file(cpu, "cpuacct.usage").and_then(|t| t.trim().parse::<u64>().ok()).map(|n| n as f64 / 1e9);
                let memory_peak = file(memory, "memory.max_usage_in_bytes").and_then(|t| t.trim().parse().ok());
                let io = file(blkio, "blkio.throttle.io_service_bytes");
                let sum = |word: &str| io.as_deref().map(|t| sum_v1(t, word));
                Usage {
                    cpu_seconds,
                    memory_peak,
                    read_bytes: sum("Read"),
                    written_bytes: sum("Write"),
                    io_stalled_seconds: None,
                }
            }
            Kind::V2(dir) => {
                let file = |name: &str| fs::read_to_string(dir.join(name)).ok();
                #[allow(clippy::cast_precision_loss)]
                let cpu_seconds = file("cpu.stat").and_then(|t| keyed(&t, "usage_usec")).map(|n| n as f64 / 1e6);
                let memory_peak = file("memory.peak").and_then(|t| t.trim().parse().ok());
                let io = file("io.stat");
                let sum = |key: &str| io.as_deref().map(|t| sum_v2(t, key));
                #[allow(clippy::cast_precision_loss)]
                let io_stalled_seconds = file("io.pressure").and_then(|t| {
                    let some = t.lines().find(|l| l.starts_with("some "))?;
                    Some(some.split_once("total=")?.1.trim().parse::<u64>().ok()? as f64 / 1e6)
                });
                let (read_bytes, written_bytes) = (sum("rbytes="), sum("wbytes="));
                Usage { cpu_seconds, memory_peak, read_bytes, written_bytes, io_stalled_seconds }
            }
        }
    }

    /// For people: that a process of it was killed for want of memory, with peak and limit; `None` when none was.
    pub(crate) fn out_of_memory(&self) -> Option<String> {
        let (events, peak, limit) = match &self.kind {
            Kind::V1 { memory, .. } => {
                let dir = memory.as_ref()?;
                (
                    dir.join("memory.oom_control"),
                    dir.join("memory.max_usage_in_bytes"),
                    dir.join("memory.limit_in_bytes"),
                )
            }
            Kind::V2(dir) => (dir.join("memory.events"), dir.join("memory.peak"), dir.join("memory.max")),
        };
        let killed = keyed(&fs::read_to_string(events).ok()?, "oom_kill")?;
        let number = |path: &Path| fs::read_to_string(path).map_or_else(|_| "unknown".into(), |t| t.trim().to_owned());
        (killed > 0).then(|| {
            format!(
                "the job's container ran out of memory (peak {} bytes, limit {} bytes)",
                number(&peak),
                number(&limit)
            )
        })
    }
}

/// `key value` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `8:0 Read 4096` lines.
fn sum_v1(text: &str, word: &str) -> u64 {
    let value = |line: &str| {
        let mut parts = line.split_whitespace().skip(1);
        (parts.next()? == word).then(|| parts.next()?.parse::<u64>().ok()).flatten()
    };
    text.lines().filter_map(value).sum()
}

/// `8:0 rbytes=4096 wbytes=0 …` lines.
fn sum_v2(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

/// Adds a reading to a receipt.
pub(crate) fn add(receipt: &mut Receipt, usage: Usage) {
    fn sum<T: std::ops::Add<Output = T>>(to: &mut Option<T>, more: Option<T>) {
        *to = match (to.take(), more) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
    }
    sum(&mut receipt.cpu_seconds, usage.cpu_seconds);
    sum(&mut receipt.memory_peak_bytes, usage.memory_peak);
    sum(&mut receipt.read_bytes, usage.read_bytes);
    sum(&mut receipt.written_bytes, usage.written_bytes);
    sum(&mut receipt.io_stalled_seconds, usage.io_stalled_seconds);
}

/// What a trace says of images that were pushed (docker's and buildx's words) and of steps that came from the cache.
pub(crate) fn read_trace(trace: &[u8], receipt: &mut Receipt) {
    let text = String::from_utf8_lossy(trace);
    let mut repository = String::new();
    let (mut cached, mut steps) = (0_u32, 0_u32);
    // BuildKit's steps by number: their text, then how long they took.
    let mut texts: HashMap<&str, String> = HashMap::new();
    let mut slow: Vec<(String, f64)> = Vec::new();
    for line in text.lines() {
        let line = line.rsplit('\r').next().unwrap_or(line).trim();
        if let Some(rest) = line.split_once("The push refers to repository [").map(|p| p.1) {
            rest.trim_end_matches(']').clone_into(&mut repository);
        } else if let Some((tag, rest)) = line.split_once(": digest: sha256:") {
            let digest: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
            if digest.len() == 64 && receipt.pushed.len() < PUSHED_MAX {
                let reference = if repository.is_empty() { tag.to_owned() } else { format!("{repository}:{tag}") };
                receipt.pushed.push(Pushed { reference, digest: format!("sha256:{digest}") });
            }
        } else if let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' ')) {
            // BuildKit's plain progress: `#7 [2/4] RUN …`, then `#7 CACHED` or `#7 DONE 0.3s`.
            if rest == "CACHED" {
                cached += 1;
            } else if rest.starts_with('[') && rest.split_once('/').is_some_and(|(_, after)| after.contains("] ")) {
                steps += 1;
                texts.insert(number, rest.chars().take(STEP_TEXT_MAX).collect());
            } else if let Some(took) = rest.strip_prefix("DONE ").and_then(|t| t.strip_suffix('s')?.parse().ok())
                && let Some(text) = texts.remove(number)
            {
                slow.push((text, took));
            }
        } else if line.starts_with("Step ") && line.split_once(" : ").is_some_and(|(head, _)| head.contains('/')) {
            steps += 1;
        } else if line == "---> Using cache" {
            cached += 1;
        }
    }
    slow.sort_by(|a, b| b.1.total_cmp(&a.1));
    slow.retain(|(_, took)| *took > 0.0);
    slow.truncate(SLOW_STEPS);
    receipt.slow_steps = slow;
    if steps > 0 {
        receipt.steps_cached = Some((cached.min(steps), steps));
    }
}

/// The receipt as the trace shows it.
pub(crate) fn lines(receipt: &Receipt) -> Vec<String> {
    let seconds = |s: f64| format!("{:.2} s", Duration::try_from_secs_f64(s).unwrap_or_default().as_secs_f64());
    let mut times = vec![
        format!("prepare {}", seconds(receipt.prepare_seconds)),
        format!("sources {}", seconds(receipt.sources_seconds)),
    ];
    times.extend(receipt.engine_seconds.map(|s| format!("engine {}", seconds(s))));
    times.push(format!("script {}", seconds(receipt.script_seconds)));
    times.push(format!("collect {}", seconds(receipt.collect_seconds)));
    let known = |value: Option<String>| value.unwrap_or_else(|| "unavailable".into());
    let mut lines = vec![
        format!("Receipt: {}", times.join(", ")),
        format!(
            "  cpu {}, memory peak {}, read {}, written {}, stalled on I/O {}",
            known(receipt.cpu_seconds.map(seconds)),
            known(receipt.memory_peak_bytes.map(bytes)),
            known(receipt.read_bytes.map(bytes)),
            known(receipt.written_bytes.map(bytes)),
            known(receipt.io_stalled_seconds.map(seconds)),
        ),
    ];
    if let Some(generation) = &receipt.generation {
        lines.push(format!("  engine started from {generation}"));
    }
    if let Some((cached, all)) = receipt.steps_cached {
        lines.push(format!("  {cached} of {all} build steps from the cache"));
    }
    lines.extend(receipt.slow_steps.iter().map(|(text, took)| format!("  {} {text}", seconds(*took))));
    lines
}

fn bytes(n: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n => format!("{:.1} kB", n / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipt_reads_cgroup_v1() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("cpuacct/docker/x/cpuacct.usage", "1500000000\n");
        put("memory/docker/x/memory.max_usage_in_bytes", "4096\n");
        put("memory/docker/x/memory.limit_in_bytes", "8192\n");
        put("memory/docker/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        put("blkio/docker/x/blkio.throttle.io_service_bytes", "8:0 Read 10\n8:0 Write 5\n8:16 Read 1\nTotal 16\n");
        let text = "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n3:blkio:/docker/x\n0::/\n";
        let meter = Meter::of_text(text, root.path()).unwrap();
        let expected = Usage {
            cpu_seconds: Some(1.5),
            memory_peak: Some(4096),
            read_bytes: Some(11),
            written_bytes: Some(5),
            io_stalled_seconds: None,
        };
        assert_eq!(meter.read(), expected);
        assert!(meter.out_of_memory().unwrap().contains("peak 4096 bytes, limit 8192 bytes"));
    }

    #[test]
    fn receipt_reads_cgroup_v2_and_names_nothing_as_zero() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("system.slice/docker-x.scope");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.procs"), "1\n").unwrap();
        fs::write(dir.join("cpu.stat"), "usage_usec 2500000\nuser_usec 1\n").unwrap();
        fs::write(dir.join("io.stat"), "8:0 rbytes=7 wbytes=3 rios=1\n254:0 rbytes=1 wbytes=1\n").unwrap();
        let meter = Meter::of_text("0::/system.slice/docker-x.scope\n", root.path()).unwrap();
        fs::write(dir.join("io.pressure"), "some avg10=0.00 total=1500000\nfull avg10=0.00 total=1\n").unwrap();
        let expected = Usage {
            cpu_seconds: Some(2.5),
            memory_peak: None,
            read_bytes: Some(8),
            written_bytes: Some(4),
            io_stalled_seconds: Some(1.5),
        };
        assert_eq!(meter.read(), expected);
        assert_eq!(meter.out_of_memory(), None);
    }

    #[test]
    fn receipt_finds_pushed_images_and_cached_steps() {
        let digest = "a".repeat(64);
        let trace = format!(
            "#5 [1/3] FROM docker.io/library/node\n#5 CACHED\n#6 [2/3] COPY x .\n#6 DONE 0.1s\n#7 [3/3] RUN npm ci\n\
             The push refers to repository [127.0.0.1:5000/app]\nabc: Pushed\nv1: digest: sha256:{digest} size: 1778\n"
        );
        let mut receipt = Receipt::default();
        read_trace(trace.as_bytes(), &mut receipt);
        assert_eq!(receipt.steps_cached, Some((1, 3)));
        assert_eq!(receipt.slow_steps, [("[2/3] COPY x .".to_owned(), 0.1)]);
        assert_eq!(
            receipt.pushed,
            [Pushed { reference: "127.0.0.1:5000/app:v1".into(), digest: format!("sha256:{digest}") }]
        );
    }
}
