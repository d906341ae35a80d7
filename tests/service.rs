//! The service in a machine whose PID 1 is systemd: installed, started, reloaded, restarted in the middle of a job,
//! killed, stopped. The machine shares this host's Docker engine, as a node's service does.

#[path = "support/site.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod site;

use site::{Finished, PATIENCE, Site};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const IMAGE: &str = "slipway-test-machine";

/// A container whose PID 1 is systemd; removed when dropped.
struct Machine {
    name: String,
}

impl Machine {
    fn boot(site: &Site) -> Machine {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/machine");
        let built = Command::new("docker").args(["build", "-q", "-t", IMAGE]).arg(&folder).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let name = format!("slipway-test-machine-{}", std::process::id());
        let root = site.path("").display().to_string();
        let root = root.trim_end_matches('/');
        let binary = env!("CARGO_BIN_EXE_slipway");
        let started = Command::new("docker")
            .args(["run", "-d", "--name", &name, "--hostname", "machine", "--network", "host", "--cgroupns", "host"])
            .args(["--tmpfs", "/run:exec", "--tmpfs", "/tmp:exec"])
            .args(["--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"])
            .args(["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"])
            .args(["--security-opt", "systempaths=unconfined"])
            .args(["-v", "/sys/fs/cgroup:/sys/fs/cgroup"])
            .args(["-v", "/var/run/docker.sock:/host/docker.sock"])
            // The same path inside and outside: the host's engine binds folders that the service names.
            .args(["-v", &format!("{root}:{root}")])
            .args(["-v", &format!("{binary}:/usr/local/bin/slipway:ro")])
            .args(["-v", &format!("{}/systemd:/units:ro", env!("CARGO_MANIFEST_DIR"))])
            .arg(IMAGE)
            .output()
            .unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        let machine = Machine { name };
        machine.until("the machine is up", |m| {
            let state = m.run(&["systemctl", "is-system-running"]).out();
            matches!(state.trim(), "running" | "degraded")
        });
        machine
    }

    fn run(&self, command: &[&str]) -> Finished {
        Finished(Command::new("docker").args(["exec", &self.name]).args(command).output().unwrap())
    }

    fn shell(&self, script: &str) -> Finished {
        self.run(&["sh", "-c", script])
    }

    fn property(&self, name: &str) -> String {
        self.run(&["systemctl", "show", "-P", name, "slipway"]).out().trim().to_owned()
    }

    fn journal(&self) -> String {
        self.run(&["journalctl", "-u", "slipway", "--no-pager", "-n", "200"]).out()
    }

    fn until(&self, what: &str, is: impl Fn(&Machine) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", self.journal());
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.name]).output();
    }
}

const PIPELINE: &str = r#"
count:
  image: alpine:latest
  script:
    - for i in $(seq 1 40); do echo "line $i"; sleep 0.25; done
"#;

#[test]
fn service_is_installed_started_reloaded_restarted_killed_and_stopped() {
    let mut site = Site::new();
    site.runner = "docker_socket = \"/host/docker.sock\"".to_owned();
    let repository = site.repository("repository", &[(".gitlab-ci.yml", PIPELINE)]);
    let config = site.config();
    let machine = Machine::boot(&site);
    let address = site.address();
    let slipway = |args: &str| machine.shell(&format!("SLIPWAY_SCHEDULER={address} slipway {args}"));
    let submit = || {
        let end = slipway(&format!("submit {} --json", repository.path.display())).expect(0).json().remove(0);
        (end["id"].as_u64().unwrap(), end["jobs"][0]["id"].as_u64().unwrap())
    };
    let said = |job: u64, what: &str| {
        machine.until(what, |_| slipway(&format!("logs {job}")).out().contains(what));
    };
    let passed = |pipeline: u64| {
        machine.until("the pipeline ends", |_| {
            let now = slipway(&format!("status {pipeline} --json"));
            now.code() == 0 && now.json()[0]["status"] == "success"
        });
    };
    let counted = |job: u64| {
        let trace = slipway(&format!("logs {job}")).expect(0).out();
        let lines: Vec<&str> = trace.lines().filter(|l| l.starts_with("line ")).collect();
        assert_eq!(lines, (1..=40).map(|i| format!("line {i}")).collect::<Vec<_>>(), "{trace}");
    };

    machine.shell("git config --system safe.directory '*'").expect(0);
    machine.shell(&format!("mkdir -p /etc/slipway && cp {} /etc/slipway/slipway.toml", config.display())).expect(0);
    machine.shell("cp /units/*.service /etc/systemd/system/ && systemctl daemon-reload").expect(0);
    // The host's engine stands in for docker.service, which the unit requires.
    machine.shell("rm -f /etc/systemd/system/docker.service; printf '[Service]\\nExecStart=\\nExecStart=/bin/sleep infinity\\nType=exec\\n' > /etc/systemd/system/docker.service && rm -f /etc/systemd/system/docker.socket && systemctl daemon-reload").expect(0);
    for unit in ["slipway", "slipway-scheduler", "slipway-runner"] {
        let verified = machine.run(&["systemd-analyze", "verify", &format!("/etc/systemd/system/{unit}.service")]);
        assert!(verified.code() == 0 && !verified.err().contains(unit), "{}", verified.all());
    }

    let started = machine.run(&["systemctl", "start", "slipway"]);
    assert_eq!(started.code(), 0, "{}\n{}", started.all(), machine.journal());
    assert_eq!(machine.property("ActiveState"), "active");
    assert!(machine.property("StatusText").contains("job"), "status line: {}", machine.property("StatusText"));

    let (pipeline, job) = submit();
    said(job, "line 3");
    machine.run(&["systemctl", "reload", "slipway"]).expect(0);
    assert_eq!(machine.property("ActiveState"), "active", "{}", machine.journal());
    passed(pipeline);
    counted(job);

    // A kill -9 in the middle of a job: systemd starts it again, and it adopts the job.
    let (pipeline, job) = submit();
    said(job, "line 3");
    let pid = machine.property("MainPID");
    machine.run(&["kill", "-9", &pid]).expect(0);
    machine.until("systemd starts it again", |m| m.property("MainPID") != pid && m.property("ActiveState") == "active");
    passed(pipeline);
    counted(job);

    // Told to stop in the middle of a job it lets the job finish.
    let (pipeline, job) = submit();
    said(job, "line 3");
    machine.run(&["systemctl", "stop", "slipway"]).expect(0);
    assert_eq!(machine.property("Result"), "success", "{}", machine.journal());
    machine.run(&["systemctl", "start", "slipway"]).expect(0);
    passed(pipeline);
    counted(job);
    machine.run(&["systemctl", "stop", "slipway"]).expect(0);
}
